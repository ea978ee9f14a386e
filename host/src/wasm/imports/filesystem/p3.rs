//! WASI 0.3.

use std::sync::Arc;

use tokio::sync::oneshot;
use wasmtime::component::{Accessor, FutureReader, Linker, Resource, StreamReader};
use wasmtime::format_err;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p3::bindings::filesystem::types::{self, HostDescriptorWithStore};

use super::super::P3;
use super::listing::{Listing, Outcome};
use super::open::Opening;
use super::pieces;
use super::{Attempt, code_of, code_of_open, file_functions, how_to_open, refusal_in, shadow_directories};
use crate::wasm::state::GuestState;
use crate::wasm::state::file_work::Watched;

type Fd = Resource<Descriptor>;

/// WASI 0.3 has no word of its own for it.
pub(super) fn would_block(words: String) -> types::ErrorCode {
    types::ErrorCode::Other(Some(words))
}

macro_rules! shadow {
    ($instance:ident, $name:literal, $method:ident, [$($from:ident),*], [$($path:expr),*],
        ($($argument:ident: $type:ty),*), $changes:expr) => {
        $instance.func_wrap_concurrent(
            concat!("[method]descriptor.", $name),
            |accessor: &Accessor<GuestState>, ($($argument,)*): ($($type,)*)| {
                Box::pin(async move {
                    let attempt = accessor.with(|mut access| {
                        Attempt::begin(access.get(), [$($from.rep()),*], [$($path),*], $changes)
                    });
                    let attempt = match attempt {
                        Ok(attempt) => attempt,
                        Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                    };
                    let files = accessor.with_getter::<WasiFilesystem>(GuestState::filesystem);
                    let answer =
                        <WasiFilesystem as HostDescriptorWithStore<GuestState>>::$method(&files, $($argument),*);
                    Ok((match answer.await {
                        Ok(answer) => {
                            accessor.with(|mut access| attempt.ended(access.get(), None));
                            Ok(answer)
                        }
                        Err(error) => {
                            let code: types::ErrorCode = error.downcast()?;
                            accessor.with(|mut access| attempt.ended(access.get(), refusal_in!(code)));
                            Err(code)
                        }
                    },))
                })
            },
        )?;
    };
}

pub(in super::super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    shadow_directories!(linker, P3);
    let mut instance = linker.instance(&format!("wasi:filesystem/types@{P3}"))?;
    file_functions!(shadow, instance);
    instance.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |accessor: &Accessor<GuestState>,
         (fd, follow, path, open, flags): (
            Fd,
            types::PathFlags,
            String,
            types::OpenFlags,
            types::DescriptorFlags,
        )| {
            Box::pin(async move {
                let how = how_to_open!(follow, open, flags);
                let opening = accessor.with(|mut access| Opening::new(access.get(), &fd, path, how))?;
                let opening = match opening {
                    Ok(Some(opening)) => opening,
                    Ok(None) => return Ok((Err(types::ErrorCode::NotDirectory),)),
                    Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                };
                let opened = opening.open().await?;
                let opened = accessor.with(|mut access| opened.put(access.get()))?;
                Ok((opened.map_err(|failure| code_of_open!(failure)),))
            })
        },
    )?;
    // It has no error to answer.
    instance.func_wrap_concurrent(
        "[method]descriptor.is-same-object",
        |accessor: &Accessor<GuestState>, (fd, other): (Fd, Fd)| {
            Box::pin(async move {
                let work = accessor.with(|mut access| -> wasmtime::Result<_> {
                    let state: &mut GuestState = access.get();
                    let begun = state
                        .budgets
                        .file_work
                        .begin(0)
                        .ok_or_else(|| format_err!(state.budgets.file_work.refusal()))?;
                    Ok(Watched::new(begun, &state.threads.backend))
                })?;
                let files = accessor.with_getter::<WasiFilesystem>(GuestState::filesystem);
                let is_same = <WasiFilesystem as HostDescriptorWithStore<GuestState>>::is_same_object(
                    &files, fd, other,
                )
                .await?;
                work.ended();
                Ok((is_same,))
            })
        },
    )?;
    pieces::add_to_linker(&mut instance)?;
    instance.func_wrap("[method]descriptor.read-directory", |mut store, (fd,): (Fd,)| {
        let (sender, outcome) = oneshot::channel::<Outcome>();
        let state: &mut GuestState = store.data_mut();
        let directory = match state.table.get(&fd)? {
            Descriptor::Dir(directory) => Ok(Arc::clone(&directory.dir)),
            Descriptor::File(_) => Err(types::ErrorCode::NotDirectory),
        };
        let listing = directory.and_then(|directory| {
            let place =
                state.budgets.open_files.reserve(&state.table).ok_or(types::ErrorCode::InsufficientMemory)?;
            Ok((directory, place))
        });
        let work = Arc::clone(&state.budgets.file_work);
        let entries = match listing {
            Ok((directory, place)) => {
                StreamReader::new(&mut store, Listing::new(directory, sender, place, work))?
            }
            Err(code) => {
                let _heard = sender.send(Err(code));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok(((entries, FutureReader::new(&mut store, outcome)?),))
    })?;
    Ok(())
}
