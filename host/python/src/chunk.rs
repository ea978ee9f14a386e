//! Chunks as Python objects: read-only views of their bytes.
#![expect(unsafe_code, reason = "fills the buffers that the buffer protocol asks for")]

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::dlpack;

/// A stored chunk: read-only bytes, shared and not copied.
///
/// Views of it (``memoryview``, ``numpy.frombuffer``, ``torch.from_dlpack``) keep its memory, also after the engine is
/// closed. The memory is free for other chunks when the last view and the last ``Chunk`` are gone.
#[pyclass(frozen, module = "kvtier")]
pub(crate) struct Chunk(pub(crate) kvtier::Chunk);

#[pymethods]
impl Chunk {
    /// The chunk's key: 16 bytes.
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.key().to_bytes())
    }

    /// Address of the first byte.
    #[getter]
    fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("Chunk(key={}, {} bytes)", self.0.key(), self.0.len())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes: &[u8] = &slf.get().0;
        // SAFETY: the view keeps a reference to this object, which keeps the bytes in place, and it is read-only.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len() as isize,
                1,
                flags,
            )
        };
        if result == -1 { Err(PyErr::fetch(slf.py())) } else { Ok(()) }
    }

    /// Returns a DLPack capsule: one dimension of unsigned bytes, read-only, on the CPU, not copied.
    ///
    /// :raises BufferError: for consumers older than DLPack 1.0, which could write it; and for another device or a copy
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        dlpack::capsule(py, &self.0, max_version, dl_device, copy)
    }

    /// Returns DLPack's device: the CPU.
    #[expect(clippy::unused_self, reason = "Python calls a method")]
    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::CPU
    }
}
