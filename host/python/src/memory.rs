//! Lent memory: bytes of other Python objects that a transfer reads or writes in place.
#![expect(unsafe_code, reason = "lends memory that Python code vouches for")]

use std::collections::HashSet;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvtier::memory::BufferMut;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PySequence, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::args::{addresses_arg, sizes_arg};
use crate::{events, gate};

/// What keeps lent memory alive. It is released on a Python thread.
pub(crate) enum Owner {
    /// An object, and the function that is told of the release.
    Object { owner: Py<PyAny>, on_release: Option<Py<PyAny>> },
    /// A view of an object with the buffer protocol.
    View(View),
}

impl Owner {
    /// Releases the memory, from a call of Python's that lent it.
    pub(crate) fn release(self, py: Python<'_>) {
        match self.into_call(py) {
            Ok(Some(call)) => {
                let outcome =
                    call.get_item(0).and_then(|on_release| on_release.call1((call.get_item(1)?,))).map(drop);
                if let Err(error) = outcome {
                    error.write_unraisable(py, call.get_item(0).ok().as_ref());
                }
            }
            Ok(None) => {}
            Err(error) => error.write_unraisable(py, None),
        }
    }

    /// Lets go of the memory, and returns the function to call with its owner, if there is one.
    pub(crate) fn into_call(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyTuple>>> {
        match self {
            Self::Object { owner, on_release: Some(on_release) } => {
                Ok(Some(PyTuple::new(py, [on_release, owner])?))
            }
            Self::Object { owner, on_release: None } => {
                owner.drop_ref(py);
                Ok(None)
            }
            Self::View(view) => {
                view.release(py);
                Ok(None)
            }
        }
    }
}

/// Holds an owner, and has it released when dropped, on whichever thread.
pub(crate) struct Lease(Option<Owner>);

impl Lease {
    pub(crate) fn new(owner: Owner) -> Self {
        Self(Some(owner))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(owner) = self.0.take() {
            events::release(owner);
        }
    }
}

/// A view that the buffer protocol gave: contiguous bytes that neither move nor change their size while it exists.
pub(crate) struct View(Box<ffi::Py_buffer>);

// SAFETY: a view is plain data. It is made and released with the GIL held.
unsafe impl Send for View {}
// SAFETY: a shared view gives away its address and size only, or is read with the GIL held.
unsafe impl Sync for View {}

impl View {
    /// Takes a view of `object`.
    ///
    /// # Errors
    /// `BufferError` and `TypeError` of the object: it has no buffer, or one that is not contiguous or not writable.
    pub(crate) fn of(object: &Bound<'_, PyAny>, is_writable: bool) -> PyResult<Self> {
        let mut view = Box::new(MaybeUninit::<ffi::Py_buffer>::uninit());
        let flags: c_int = if is_writable { ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
        // SAFETY: the GIL is held, and the view is a place for a `Py_buffer` that stays where it is.
        let result = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) };
        if result == -1 {
            return Err(explained(object));
        }
        // SAFETY: the call has filled it.
        Ok(Self(unsafe { view.assume_init() }))
    }

    pub(crate) fn address(&self) -> usize {
        self.0.buf as usize
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.0.len.max(0) as usize
    }

    /// Returns the bytes, which Python code may change.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        if self.n_bytes() == 0 {
            return Vec::new();
        }
        // SAFETY: the view is of that many readable bytes, and the GIL is held by the caller.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast::<u8>(), self.n_bytes()) }.to_vec()
    }

    /// Gives the view back.
    pub(crate) fn release(mut self, _py: Python<'_>) {
        // SAFETY: the GIL is held, and the view was filled by `PyObject_GetBuffer` and is released once.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.0) };
    }
}

/// Returns the error of an object that gave no buffer. Tensors have none.
fn explained(object: &Bound<'_, PyAny>) -> PyErr {
    let error = PyErr::fetch(object.py());
    if !error.is_instance_of::<PyTypeError>(object.py()) {
        return error;
    }
    let name = object.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "a {name} has no buffer; of a torch tensor on the CPU give tensor.view(torch.uint8).numpy(), or \
         kvtier.Memory(tensor.data_ptr(), tensor.nbytes, tensor)"
    ))
}

/// Memory of another library, lent for one transfer.
///
/// The bytes must stay mapped and at their place until ``on_release(owner)`` is called, which happens exactly once:
/// when the last transfer has ended, or when the object is collected without ever having been lent. Until then nobody
/// else writes them, and nobody reads them while a fetch fills them.
///
/// :param address: address of the first byte
/// :param n_bytes: size in bytes, at least 1; for a fetch, an upper bound of the chunk's size
/// :param owner: object that keeps the memory alive
/// :param on_release: called with ``owner`` when the memory is free, on the thread ``kvtier-events`` or, for transfers
///     that have ended, by the call that waited for them. It must be short and must not wait for kvtier. It must not
///     refer to this object: neither would ever be collected.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Memory {
    address: usize,
    n_bytes: usize,
    lease: Mutex<Option<Arc<Lease>>>,
}

#[pymethods]
impl Memory {
    #[new]
    #[pyo3(signature = (address, n_bytes, owner=None, on_release=None))]
    fn new(
        py: Python<'_>,
        address: usize,
        n_bytes: usize,
        owner: Option<Py<PyAny>>,
        on_release: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let _inside = gate::enter(py);
        events::start(py)?;
        let owner = owner.unwrap_or_else(|| py.None());
        Self::checked(address, n_bytes, Arc::new(Lease::new(Owner::Object { owner, on_release })))
    }

    /// Makes one object for each address, with one owner for all of them: it is released once, after the last.
    ///
    /// :param addresses: a sequence of integers, or a buffer of 64-bit integers
    /// :param n_bytes: the size of each in bytes, or one size for all
    #[staticmethod]
    #[pyo3(signature = (addresses, n_bytes, owner=None, on_release=None))]
    fn batch<'py>(
        py: Python<'py>,
        addresses: &Bound<'py, PyAny>,
        n_bytes: &Bound<'py, PyAny>,
        owner: Option<Py<PyAny>>,
        on_release: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let _inside = gate::enter(py);
        events::start(py)?;
        let addresses = addresses_arg(addresses)?;
        let sizes = sizes_arg(n_bytes, addresses.len())?;
        let owner = owner.unwrap_or_else(|| py.None());
        let lease = Arc::new(Lease::new(Owner::Object { owner, on_release }));
        let memory: Vec<Self> = addresses
            .into_iter()
            .zip(sizes)
            .map(|(address, n_bytes)| Self::checked(address, n_bytes, Arc::clone(&lease)))
            .collect::<PyResult<_>>()?;
        PyList::new(py, memory.into_iter().map(|memory| Py::new(py, memory)).collect::<PyResult<Vec<_>>>()?)
    }

    /// Address of the first byte.
    #[getter]
    fn address(&self) -> usize {
        self.address
    }

    fn __len__(&self) -> usize {
        self.n_bytes
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A lease that several objects share is not theirs alone. With `on_release`, the collector must not touch it:
        // the function would be called when the collector has cleared it.
        if let Ok(lease) = self.lease.try_lock()
            && let Some(lease) = lease.as_ref().filter(|lease| Arc::strong_count(lease) == 1)
            && let Some(Owner::Object { owner, on_release: None }) = &lease.0
        {
            visit.call(owner)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let mut lease = self.lock();
        let is_plain = lease.as_ref().is_some_and(|lease| {
            Arc::strong_count(lease) == 1 && matches!(&lease.0, Some(Owner::Object { on_release: None, .. }))
        });
        if is_plain {
            drop(lease.take());
        }
    }

    fn __repr__(&self) -> String {
        format!("Memory(address={:#x}, n_bytes={})", self.address, self.n_bytes)
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Lease>>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checked(address: usize, n_bytes: usize, lease: Arc<Lease>) -> PyResult<Self> {
        if address == 0
            || n_bytes == 0
            || address.checked_add(n_bytes).is_none_or(|end| end > isize::MAX as usize)
        {
            return Err(PyValueError::new_err(format!(
                "there is no memory of {n_bytes} bytes at {address:#x}; give the address of at least 1 byte"
            )));
        }
        Ok(Self { address, n_bytes, lease: Mutex::new(Some(lease)) })
    }
}

/// Memory of one chunk, ready to be lent.
pub(crate) struct Lent {
    pub(crate) address: usize,
    pub(crate) n_bytes: usize,
    lease: Arc<Lease>,
}

impl Lent {
    fn of_buffer(object: &Bound<'_, PyAny>, index: usize, is_written: bool) -> PyResult<Self> {
        let view = View::of(object, is_written)?;
        let (address, n_bytes) = (view.address(), view.n_bytes());
        let lease = Arc::new(Lease::new(Owner::View(view)));
        if n_bytes == 0 {
            return Err(PyBufferError::new_err(format!(
                "memory {index} is empty; a chunk has at least 1 byte"
            )));
        }
        Ok(Self { address, n_bytes, lease })
    }

    /// Makes kvtier's buffer of it.
    pub(crate) fn into_buffer(self) -> BufferMut {
        let ptr = NonNull::new(self.address as *mut u8).unwrap_or(NonNull::dangling());
        // SAFETY: whoever made the `Memory` vouches for the bytes until its owner is released; a `View` keeps its
        // object's bytes in place. The lease is dropped with the last use.
        unsafe { BufferMut::lend(ptr, self.n_bytes, self.lease) }
    }
}

/// Takes the memory of a call: `Memory` objects, each of which can be lent once, and objects with the buffer protocol.
/// A call that is refused lends nothing, and holds nothing.
pub(crate) fn lend(memory: &Bound<'_, PyAny>, n_keys: usize, is_written: bool) -> PyResult<Vec<Lent>> {
    let py = memory.py();
    events::release_here(py, || {
        let items = items(memory, n_keys, is_written)?;
        items.into_iter().enumerate().map(|(index, item)| item.lend(index)).collect()
    })
}

fn items<'py>(memory: &Bound<'py, PyAny>, n_keys: usize, is_written: bool) -> PyResult<Vec<Item<'py>>> {
    let sequence = memory.cast::<PySequence>().map_err(|_| {
        PyTypeError::new_err(
            "memory is a sequence of kvtier.Memory or of objects with a buffer, one for each key",
        )
    })?;
    let n_items = sequence.len()?;
    if n_items != n_keys {
        return Err(PyValueError::new_err(format!(
            "{n_keys} keys, but memory for {n_items} chunks; give one for each key"
        )));
    }
    let mut items = Vec::with_capacity(n_items);
    let mut lent = HashSet::with_capacity(n_items);
    for index in 0..n_items {
        let item = match sequence.get_item(index)?.cast_into::<Memory>() {
            Ok(memory) => {
                if memory.get().lock().is_none() {
                    return Err(PyValueError::new_err(format!(
                        "memory {index} was lent before; make a kvtier.Memory for each transfer"
                    )));
                }
                if !lent.insert(memory.as_ptr() as usize) {
                    return Err(PyValueError::new_err(format!(
                        "memory {index} occurs twice; give each chunk its own"
                    )));
                }
                Item::Memory(memory)
            }
            Err(other) => Item::Lent(Lent::of_buffer(&other.into_inner(), index, is_written)?),
        };
        items.push(item);
    }
    Ok(items)
}

/// Memory that a call was given.
enum Item<'py> {
    Memory(Bound<'py, Memory>),
    Lent(Lent),
}

impl Item<'_> {
    fn lend(self, index: usize) -> PyResult<Lent> {
        match self {
            Self::Memory(memory) => {
                let memory = memory.get();
                // Another thread may have been faster.
                let lease = memory.lock().take().ok_or_else(|| {
                    PyValueError::new_err(format!(
                        "memory {index} was lent before; make another kvtier.Memory"
                    ))
                })?;
                Ok(Lent { address: memory.address, n_bytes: memory.n_bytes, lease })
            }
            Self::Lent(lent) => Ok(lent),
        }
    }
}
