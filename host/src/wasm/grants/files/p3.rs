//! WASI 0.3.

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p3::bindings::filesystem::types::{self, HostDescriptorWithStore};

use super::super::P3;
use super::super::denial::Denial;
use super::{Attempt, Refusal, path_functions};
use crate::wasm::sandbox::State;

type Fd = Resource<Descriptor>;

fn refusal(code: &types::ErrorCode) -> Option<Refusal> {
    match code {
        types::ErrorCode::NotPermitted => Some(Refusal::NotPermitted),
        types::ErrorCode::Access => Some(Refusal::Access),
        _ => None,
    }
}

macro_rules! shadow {
    ($instance:ident, $name:literal, $method:ident, [$($from:ident),*], [$($path:expr),*],
        ($($argument:ident: $type:ty),*), $changes:expr) => {
        $instance.func_wrap_concurrent(
            concat!("[method]descriptor.", $name),
            |accessor: &Accessor<State>, ($($argument,)*): ($($type,)*)| {
                Box::pin(async move {
                    let attempt = Attempt::new([$($from.rep()),*], [$($path),*], $changes);
                    let files = accessor.with_getter::<WasiFilesystem>(State::filesystem);
                    let answer =
                        <WasiFilesystem as HostDescriptorWithStore<State>>::$method(&files, $($argument),*);
                    Ok((match answer.await {
                        Ok(answer) => Ok(answer),
                        Err(error) => {
                            let code: types::ErrorCode = error.downcast()?;
                            if let Some(refusal) = refusal(&code) {
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
    let mut instance = linker.instance(&format!("wasi:filesystem/preopens@{P3}"))?;
    instance.func_wrap("get-directories", |mut store, (): ()| {
        let state: &mut State = store.data_mut();
        let directories = state.filesystem().get_directories()?;
        if directories.is_empty() {
            state.witness.record(Denial::NoDirectory);
        }
        Ok((directories,))
    })?;
    let mut instance = linker.instance(&format!("wasi:filesystem/types@{P3}"))?;
    path_functions!(shadow, instance);
    Ok(())
}
