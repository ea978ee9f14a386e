//! WASI 0.2.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::ReaddirIterator;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{self, HostDescriptor as _};

use super::super::P2;
use super::{Attempt, code_of, path_functions, refusal_in, shadow_directories};
use crate::wasm::sandbox::State;

type Fd = Resource<Descriptor>;

macro_rules! shadow {
    ($instance:ident, $name:literal, $method:ident, [$($from:ident),*], [$($path:expr),*],
        ($($argument:ident: $type:ty),*), $changes:expr) => {
        $instance.func_wrap_async(
            concat!("[method]descriptor.", $name),
            |mut store, ($($argument,)*): ($($type,)*)| {
                Box::new(async move {
                    let state: &mut State = store.data_mut();
                    let attempt = match Attempt::begin(state, $name, [$($from.rep()),*], [$($path),*], $changes) {
                        Ok(attempt) => attempt,
                        Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                    };
                    let answer = state.filesystem().$method($($argument),*).await;
                    Ok((match answer {
                        Ok(answer) => {
                            attempt.succeeded(state, &answer);
                            Ok(answer)
                        }
                        Err(error) => {
                            let code: types::ErrorCode = error.downcast()?;
                            if let Some(refusal) = refusal_in!(code) {
                                attempt.refused(state, refusal);
                            }
                            Err(code)
                        }
                    },))
                })
            },
        )?;
    };
}

pub(in super::super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    shadow_directories!(linker, P2);
    let mut instance = linker.instance(&format!("wasi:filesystem/types@{P2}"))?;
    path_functions!(shadow, instance);
    // All of it is read at once, and kept.
    instance.func_wrap_async("[method]descriptor.read-directory", |mut store, (fd,): (Fd,)| {
        Box::new(async move {
            let state: &mut State = store.data_mut();
            if !state.open_files.have_room(&state.table) {
                return Ok((Err(types::ErrorCode::InsufficientMemory),));
            }
            let listing: Result<Resource<ReaddirIterator>, _> = state.filesystem().read_directory(fd).await;
            Ok((match listing {
                Ok(listing) => {
                    state.open_files.put(&listing);
                    Ok(listing)
                }
                Err(error) => Err(error.downcast()?),
            },))
        })
    })?;
    Ok(())
}
