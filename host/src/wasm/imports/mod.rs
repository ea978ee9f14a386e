//! The functions that a guest can call, in a folder for each interface: the contract's own, and entry points of WASI,
//! which are shadowed so that refusals are recorded.
//!
//! Nothing is granted here. The WASI context that [`super::store`] makes and the
//! [`NetPolicy`](super::policy::network::NetPolicy) decide what may be reached; the functions here pass each attempt to
//! WASI's own and record its refusals. Three decide on their own: making sockets, resolving names, and opening files.
//! Connecting has a time limit. The functions here also limit what WASI's own do not: descriptors, the length of paths,
//! pending operations on files, the bytes that a stream takes at a time, polls, and listings.
//!
//! The host cannot see some refusals: a guest that looks for an environment variable gets the whole list and searches
//! it, and the C library returns "no such file" for an absolute path outside the granted directories without a call to
//! the host.

pub(in crate::wasm) mod filesystem;
#[cfg(feature = "http")]
pub(in crate::wasm) mod http;
#[cfg(not(feature = "http"))]
#[path = "no_http.rs"]
pub(in crate::wasm) mod http;
mod io;
mod limits;
mod logging;
mod sockets;
pub(in crate::wasm) mod storage;

use wasmtime::component::Linker;
use wasmtime_wasi::TrappableError;

pub(super) use self::sockets::check_address;
use super::state::GuestState;

/// The versions under which WASI's functions are linked. A shadow under another one would not be found.
const P2: &str = "0.2.12";
const P3: &str = "0.3.0";

/// Links everything that a guest may import.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    http::add_to_linker(linker)?;
    shadow(linker)?;
    storage::add_to_linker(linker)?;
    limits::add_to_linker(linker)?;
    logging::add_to_linker(linker)
}

/// Shadows the entry points in a linker that has WASI.
fn shadow(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    filesystem::p2::add_to_linker(linker)?;
    filesystem::p3::add_to_linker(linker)?;
    sockets::p2::add_to_linker(linker)?;
    sockets::p3::add_to_linker(linker)?;
    io::streams::add_to_linker(linker)?;
    io::polls::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Separates an error that the guest gets from a trap.
fn without_trap<T, E: std::error::Error + Send + Sync + 'static>(
    answer: Result<T, TrappableError<E>>,
) -> wasmtime::Result<Result<T, E>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) => Ok(Err(error.downcast()?)),
    }
}
