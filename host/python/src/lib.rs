//! kvtier for Python: the compiled part of the package, `kvtier._kvtier`.
//!
//! Invariants:
//! - Python runs only on Python's threads. What kvtier's own threads let go of or complete becomes an event, and one
//!   Python thread handles events in order (`events.rs`).
//! - A wait gives up the GIL, and looks for signals in between (`run.rs`).
//! - When the interpreter is finalized, no thread is in this code (`gate.rs`).
//! - Memory of Python objects that a transfer uses is held until the transfer ends, whatever becomes of its caller
//!   (`memory.rs`).

#![allow(clippy::doc_markdown, reason = "docstrings are Python's: names in double backticks")]
#![allow(clippy::needless_pass_by_value, reason = "arguments that PyO3 converts come by value")]
#![allow(
    clippy::used_underscore_binding,
    reason = "a keyword that is private in Python begins with an underscore"
)]
#![allow(
    clippy::cast_possible_wrap,
    reason = "Python's sizes are signed, and no buffer has more than isize::MAX bytes"
)]

mod allocation;
mod args;
mod build;
mod chunk;
mod command;
mod dlpack;
mod engine;
mod errors;
mod events;
mod gate;
mod live;
mod log;
mod memory;
mod prompt;
mod receipt;
mod report;
mod results;
mod run;
mod storage;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
fn _kvtier(module: &Bound<'_, PyModule>) -> PyResult<()> {
    refuse_subinterpreters()?;
    errors::import(module.py());
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<allocation::Allocation>()?;
    module.add_class::<allocation::Missing>()?;
    module.add_class::<chunk::Chunk>()?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<memory::Memory>()?;
    module.add_class::<prompt::Prompt>()?;
    module.add_class::<receipt::Receipt>()?;
    module.add_class::<results::Miss>()?;
    module.add_class::<results::Offer>()?;
    module.add_class::<results::Prefix>()?;
    module.add_class::<results::Retrieved>()?;
    module.add_class::<results::Stored>()?;
    module.add_class::<storage::Storage>()?;
    module.add_function(wrap_pyfunction!(command::main, module)?)?;
    module.add_function(wrap_pyfunction!(events::next_events, module)?)?;
    module.add_function(wrap_pyfunction!(events::stop_events, module)?)?;
    module.add_function(wrap_pyfunction!(events::drop_events, module)?)?;
    module.add_function(wrap_pyfunction!(gate::close_gate, module)?)?;
    module.add_function(wrap_pyfunction!(log::set_log_level, module)?)?;
    Ok(())
}

/// The queue of events belongs to the process, and its thread to one interpreter.
fn refuse_subinterpreters() -> PyResult<()> {
    // SAFETY: the GIL is held, so this thread has a current interpreter.
    #[expect(unsafe_code, reason = "PyO3 has no function for it")]
    let id = unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) };
    if id == 0 {
        return Ok(());
    }
    Err(pyo3::exceptions::PyImportError::new_err(
        "kvtier works in the main interpreter only, not in subinterpreters",
    ))
}
