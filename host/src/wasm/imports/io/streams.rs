//! WASI 0.2's output streams.

use wasmtime::component::{Linker, Resource};
use wasmtime::format_err;
use wasmtime_wasi::p2::bindings::io::streams::{Host as _, HostOutputStream as _, StreamError};
use wasmtime_wasi::p2::{DynOutputStream, StreamResult};

use super::super::P2;
use crate::wasm::state::GuestState;

pub(in crate::wasm) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:io/streams@{P2}"))?;
    instance.func_wrap(
        "[method]output-stream.write",
        |mut store, (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            let state: &mut GuestState = store.data_mut();
            Ok((match write(state, stream, bytes) {
                Ok(()) => Ok::<(), StreamError>(()),
                Err(error) => Err(state.table.convert_stream_error(error)?),
            },))
        },
    )?;
    Ok(())
}

/// Writes bytes for which the stream has room; more is a trap, as in WASI. Otherwise a stream into a file would take
/// any number of bytes, and keep them until a thread writes them.
fn write(state: &mut GuestState, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
    let n_allowed = state.table.get_mut(&stream)?.check_write()?;
    if bytes.len() > n_allowed {
        let n_bytes = bytes.len();
        let error = format_err!("wrote {n_bytes} bytes to a stream that takes {n_allowed} at the moment");
        return Err(wasmtime_wasi::p2::StreamError::Trap(error));
    }
    state.table.write(stream, bytes)
}
