//! WASI 0.3.

use std::sync::Arc;

use tokio::sync::oneshot;
use wasmtime::component::{Accessor, FutureReader, Linker, Resource, StreamReader};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p3::bindings::filesystem::types::{self, HostDescriptorWithStore};

use super::super::P3;
use super::listing::{Listing, Outcome};
use super::{Attempt, code_of, path_functions, refusal_in, shadow_directories};
use crate::wasm::sandbox::State;

type Fd = Resource<Descriptor>;

macro_rules! shadow {
    ($instance:ident, $name:literal, $method:ident, [$($from:ident),*], [$($path:expr),*],
        ($($argument:ident: $type:ty),*), $changes:expr) => {
        $instance.func_wrap_concurrent(
            concat!("[method]descriptor.", $name),
            |accessor: &Accessor<State>, ($($argument,)*): ($($type,)*)| {
                Box::pin(async move {
                    let attempt = accessor.with(|mut access| {
                        Attempt::begin(access.get(), $name, [$($from.rep()),*], [$($path),*], $changes)
                    });
                    let attempt = match attempt {
                        Ok(attempt) => attempt,
                        Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                    };
                    let files = accessor.with_getter::<WasiFilesystem>(State::filesystem);
                    let answer =
                        <WasiFilesystem as HostDescriptorWithStore<State>>::$method(&files, $($argument),*);
                    Ok((match answer.await {
                        Ok(answer) => {
                            accessor.with(|mut access| attempt.succeeded(access.get(), &answer));
                            Ok(answer)
                        }
                        Err(error) => {
                            let code: types::ErrorCode = error.downcast()?;
                            if let Some(refusal) = refusal_in!(code) {
                                accessor.with(|mut access| attempt.refused(access.get(), refusal));
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
    shadow_directories!(linker, P3);
    let mut instance = linker.instance(&format!("wasi:filesystem/types@{P3}"))?;
    path_functions!(shadow, instance);
    instance.func_wrap("[method]descriptor.read-directory", |mut store, (fd,): (Fd,)| {
        let (sender, outcome) = oneshot::channel::<Outcome>();
        let state: &mut State = store.data_mut();
        let directory = match state.table.get(&fd)? {
            Descriptor::Dir(directory) => Ok(Arc::clone(&directory.dir)),
            Descriptor::File(_) => Err(types::ErrorCode::NotDirectory),
        };
        let listing = directory.and_then(|directory| {
            let place = state.open_files.reserve(&state.table).ok_or(types::ErrorCode::InsufficientMemory)?;
            Ok((directory, place))
        });
        let entries = match listing {
            Ok((directory, place)) => StreamReader::new(&mut store, Listing::new(directory, sender, place))?,
            Err(code) => {
                let _heard = sender.send(Err(code));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok(((entries, FutureReader::new(&mut store, outcome)?),))
    })?;
    Ok(())
}
