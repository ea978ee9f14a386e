//! Allocations: buffers that Python fills before they are stored.
#![expect(unsafe_code, reason = "fills the buffers that the buffer protocol asks for")]

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::gate;

/// Buffers for the chunks of a request that the CPU tier does not have.
///
/// Fill each of ``missing``, then give the allocation to ``store``. It can be stored once, and all views of it must be
/// gone by then. Leaving a ``with`` block gives back what was not stored.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Allocation {
    inner: Mutex<Option<kvtier::Allocation>>,
    n_views: AtomicUsize,
    n_present: usize,
    n_covered: usize,
}

impl Allocation {
    pub(crate) fn new(allocation: kvtier::Allocation) -> Self {
        let (n_present, n_covered) = (allocation.n_present(), allocation.n_covered());
        Self { inner: Mutex::new(Some(allocation)), n_views: AtomicUsize::new(0), n_present, n_covered }
    }

    /// Takes the buffers out.
    ///
    /// # Errors
    /// `BufferError` while a view is alive, `ValueError` if they were taken before.
    pub(crate) fn take(&self) -> PyResult<kvtier::Allocation> {
        let n_views = self.n_views.load(Ordering::SeqCst);
        if n_views > 0 {
            return Err(PyBufferError::new_err(format!(
                "views of the allocation are alive ({n_views}); release them first (del, or memoryview.release)"
            )));
        }
        self.lock().take().ok_or_else(gone)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<kvtier::Allocation>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> PyErr {
    PyValueError::new_err("the allocation was stored or released; make another one")
}

#[pymethods]
impl Allocation {
    /// The chunks to be filled, in the order of the request.
    #[getter]
    fn missing<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let _inside = gate::enter(py);
        // The lock is given back first: to make objects may run Python, and another thread that wants it.
        let places: Vec<Place> =
            slf.get().lock().as_mut().ok_or_else(gone)?.missing().map(Place::of).collect();
        let missing =
            places.into_iter().map(|place| Py::new(py, Missing { owner: slf.clone().unbind(), place }));
        PyList::new(py, missing.collect::<PyResult<Vec<_>>>()?)
    }

    /// How many of the request's chunks the CPU tier has.
    #[getter]
    fn n_present(&self) -> usize {
        self.n_present
    }

    /// Length in chunks of the request's prefix that is present or has a buffer; shorter than the request if memory ran
    /// out.
    #[getter]
    fn n_covered(&self) -> usize {
        self.n_covered
    }

    /// Gives the buffers back without storing them. Does nothing if they were stored or released.
    ///
    /// :raises BufferError: if a view of the allocation is alive
    fn release(&self) -> PyResult<()> {
        if self.lock().is_some() { self.take().map(drop) } else { Ok(()) }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.release()
    }
}

/// A chunk of an allocation that is to be filled: a writable buffer, until the allocation is stored.
///
/// The bytes are arbitrary until they are written.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Missing {
    owner: Py<Allocation>,
    place: Place,
}

/// The buffer of a chunk that is to be filled.
struct Place {
    position: usize,
    key: [u8; 16],
    address: usize,
    n_bytes: usize,
}

impl Place {
    fn of(missing: kvtier::Missing<'_>) -> Self {
        let (position, key) = (missing.position, missing.key.to_bytes());
        Self { position, key, address: missing.bytes.as_mut_ptr() as usize, n_bytes: missing.bytes.len() }
    }
}

#[pymethods]
impl Missing {
    /// Position in the request.
    #[getter]
    fn position(&self) -> usize {
        self.place.position
    }

    /// The chunk's key: 16 bytes.
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.place.key)
    }

    /// Address of the first byte. It is valid until the allocation is stored or released.
    #[getter]
    fn address(&self) -> usize {
        self.place.address
    }

    fn __len__(&self) -> usize {
        self.place.n_bytes
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let owner = this.owner.get();
        let inner = owner.lock();
        if inner.is_none() {
            return Err(PyBufferError::new_err(
                "the allocation was stored or released; its chunks have no bytes",
            ));
        }
        // SAFETY: the view keeps this object and so the allocation, which gives its buffers away only while no view
        // is counted.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                this.place.address as *mut _,
                this.place.n_bytes as isize,
                0,
                flags,
            )
        };
        if result == -1 {
            return Err(PyErr::fetch(slf.py()));
        }
        owner.n_views.fetch_add(1, Ordering::SeqCst);
        drop(inner);
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.owner.get().n_views.fetch_sub(1, Ordering::SeqCst);
    }
}
