//! DLPack: the protocol by which array libraries exchange memory. Version 1.0, which has a read-only flag.
//!
//! Source of the layout: `dlpack.h`, version 1.0.
#![expect(unsafe_code, reason = "makes the structures of a C protocol")]

use std::ffi::{CStr, c_void};
use std::ptr;

use kvtier::Chunk;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// `kDLCPU`, and the only device.
pub(crate) const CPU: (i32, i32) = (1, 0);

const CAPSULE: &CStr = c"dltensor_versioned";
const VERSION: (u32, u32) = (1, 0);
const READ_ONLY: u64 = 1;
/// `kDLUInt`.
const UNSIGNED: u8 = 1;

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: (i32, i32),
    n_dims: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    version: (u32, u32),
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
    flags: u64,
    tensor: Tensor,
}

/// What a tensor keeps.
struct Held {
    managed: Managed,
    shape: [i64; 1],
    strides: [i64; 1],
    _chunk: Chunk,
}

/// Makes a capsule of a chunk's bytes.
pub(crate) fn capsule<'py>(
    py: Python<'py>,
    chunk: &Chunk,
    max_version: Option<(u32, u32)>,
    device: Option<(i32, i32)>,
    copy: Option<bool>,
) -> PyResult<Bound<'py, PyAny>> {
    if max_version.is_none_or(|version| version < VERSION) {
        return Err(PyBufferError::new_err(
            "a chunk is read-only, which DLPack says from version 1.0 on; use a newer library, or its frombuffer",
        ));
    }
    if device.is_some_and(|device| device != CPU) || copy == Some(true) {
        return Err(PyBufferError::new_err("a chunk is given as it is: on the CPU, and not copied"));
    }
    let tensor = Tensor {
        data: chunk.as_ptr().cast_mut().cast(),
        device: CPU,
        n_dims: 1,
        code: UNSIGNED,
        bits: 8,
        lanes: 1,
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    let managed = Managed {
        version: VERSION,
        context: ptr::null_mut(),
        deleter: Some(delete),
        flags: READ_ONLY,
        tensor,
    };
    let held = Held { managed, shape: [chunk.len() as i64], strides: [1], _chunk: chunk.clone() };
    let held = Box::into_raw(Box::new(held));
    // SAFETY: the box was just made, and only this code has its address. Its fields stay where they are.
    let managed = unsafe {
        (*held).managed.context = held.cast();
        (*held).managed.tensor.shape = (&raw mut (*held).shape).cast();
        (*held).managed.tensor.strides = (&raw mut (*held).strides).cast();
        &raw mut (*held).managed
    };
    // SAFETY: the GIL is held; the name and the destructor are static.
    let capsule = unsafe { ffi::PyCapsule_New(managed.cast(), CAPSULE.as_ptr(), Some(destroy)) };
    if capsule.is_null() {
        // SAFETY: nobody else has it.
        unsafe { delete(managed) };
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference.
    Ok(unsafe { Bound::from_owned_ptr(py, capsule) })
}

/// Frees a tensor; called by its consumer, on any thread.
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: the consumer calls it once, with the address it was given.
    drop(unsafe { Box::from_raw((*managed).context.cast::<Held>()) });
}

/// Frees the tensor of a capsule that no consumer has taken. A consumer renames the capsule.
unsafe extern "C" fn destroy(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls it with a capsule that `capsule` has made, and with the GIL held.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, CAPSULE.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()).cast());
        }
    }
}
