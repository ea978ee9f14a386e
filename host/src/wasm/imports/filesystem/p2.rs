//! WASI 0.2.

use std::sync::Arc;

use rustix::fs::FileType;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{self, HostDescriptor as _};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsResult};

use super::super::P2;
use super::listing::{Entries, Failed};
use super::open::Opening;
use super::{
    Attempt, Beyond, begin_with, code_of, code_of_open, file_functions, how_to_open, refusal_in,
    shadow_directories,
};
use crate::limits::FILE_WRITE_BYTES_MAX;
use crate::wasm::state::GuestState;
use crate::wasm::state::file_work::Watched;

type Fd = Resource<Descriptor>;

fn would_block(_: String) -> types::ErrorCode {
    types::ErrorCode::WouldBlock
}

macro_rules! shadow {
    ($instance:ident, $name:literal, $method:ident, [$($from:ident),*], [$($path:expr),*],
        ($($argument:ident: $type:ty),*), $changes:expr) => {
        $instance.func_wrap_async(
            concat!("[method]descriptor.", $name),
            |mut store, ($($argument,)*): ($($type,)*)| {
                Box::new(async move {
                    let state: &mut GuestState = store.data_mut();
                    let attempt = match Attempt::begin(state, [$($from.rep()),*], [$($path),*], $changes) {
                        Ok(attempt) => attempt,
                        Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                    };
                    let answer = state.filesystem().$method($($argument),*).await;
                    Ok((match answer {
                        Ok(answer) => {
                            attempt.ended(state, None);
                            Ok(answer)
                        }
                        Err(error) => {
                            let code: types::ErrorCode = error.downcast()?;
                            attempt.ended(state, refusal_in!(code));
                            Err(code)
                        }
                    },))
                })
            },
        )?;
    };
}

pub(in super::super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    shadow_directories!(linker, P2);
    let mut instance = linker.instance(&format!("wasi:filesystem/types@{P2}"))?;
    file_functions!(shadow, instance);
    instance.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store,
         (fd, follow, path, open, flags): (
            Fd,
            types::PathFlags,
            String,
            types::OpenFlags,
            types::DescriptorFlags,
        )| {
            Box::new(async move {
                let opening = Opening::new(store.data_mut(), &fd, path, how_to_open!(follow, open, flags))?;
                let opening = match opening {
                    Ok(Some(opening)) => opening,
                    Ok(None) => return Ok((Err(types::ErrorCode::NotDirectory),)),
                    Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                };
                let opened = opening.open().await?.put(store.data_mut())?;
                Ok((opened.map_err(|failure| code_of_open!(failure)),))
            })
        },
    )?;
    add_moving_to_linker(&mut instance)?;
    add_listings_to_linker(&mut instance)
}

/// Shadows what moves bytes of open files.
fn add_moving_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]descriptor.read",
        |mut store, (fd, n_bytes, at): (Fd, types::Filesize, types::Filesize)| {
            Box::new(async move {
                let state: &mut GuestState = store.data_mut();
                let work = match begin_with(state, 0) {
                    Ok(begun) => Watched::new(begun, &state.threads.backend),
                    Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                };
                let read = state.filesystem().read(fd, n_bytes, at).await;
                work.ended();
                Ok((plain(read)?,))
            })
        },
    )?;
    // Fewer bytes may be written than are given.
    instance.func_wrap_async(
        "[method]descriptor.write",
        |mut store, (fd, mut bytes, at): (Fd, Vec<u8>, types::Filesize)| {
            Box::new(async move {
                let state: &mut GuestState = store.data_mut();
                bytes.truncate(FILE_WRITE_BYTES_MAX);
                bytes.shrink_to_fit();
                let work = match begin_with(state, bytes.len()) {
                    Ok(begun) => Watched::new(begun, &state.threads.backend),
                    Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                };
                let written = state.filesystem().write(fd, bytes, at).await;
                work.ended();
                Ok((plain(written)?,))
            })
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store, (fd, at): (Fd, types::Filesize)| {
            let make = |state: &mut GuestState| state.filesystem().read_via_stream(fd, at);
            Ok((stream::<DynInputStream>(store.data_mut(), make)?,))
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store, (fd, at): (Fd, types::Filesize)| {
            let make = |state: &mut GuestState| state.filesystem().write_via_stream(fd, at);
            Ok((stream::<DynOutputStream>(store.data_mut(), make)?,))
        },
    )?;
    instance.func_wrap("[method]descriptor.append-via-stream", |mut store, (fd,): (Fd,)| {
        let make = |state: &mut GuestState| state.filesystem().append_via_stream(fd);
        Ok((stream::<DynOutputStream>(store.data_mut(), make)?,))
    })
}

/// Makes a stream from or to a file, which counts as a pending operation as long as it is there: it may have one under
/// way at any time.
fn stream<S: 'static>(
    state: &mut GuestState,
    make: impl FnOnce(&mut GuestState) -> FsResult<Resource<S>>,
) -> wasmtime::Result<Result<Resource<S>, types::ErrorCode>> {
    if !state.budgets.file_streams.have_room(&state.table) {
        return Ok(Err(code_of!(Beyond::OpenFiles)));
    }
    let begun = match begin_with(state, 0) {
        Ok(begun) => begun,
        Err(beyond) => return Ok(Err(code_of!(beyond))),
    };
    let answer = plain(make(state))?;
    if let Ok(stream) = &answer {
        state.budgets.file_streams.put(stream, begun);
    }
    Ok(answer)
}

/// Tells the error of a function from a trap.
fn plain<T>(answer: FsResult<T>) -> wasmtime::Result<Result<T, types::ErrorCode>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

/// Shadows the lists of directories, with a resource of its own: WASI's reads a whole directory and keeps it.
fn add_listings_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.resource("directory-entry-stream", ResourceType::host::<Entries>(), |mut store, place| {
        let state: &mut GuestState = store.data_mut();
        state.table.delete(Resource::<Entries>::new_own(place))?;
        Ok(())
    })?;
    instance.func_wrap("[method]descriptor.read-directory", |mut store, (fd,): (Fd,)| {
        let state: &mut GuestState = store.data_mut();
        let Descriptor::Dir(directory) = state.table.get(&fd)? else {
            return Ok((Err(types::ErrorCode::NotDirectory),));
        };
        let directory = Arc::clone(&directory.dir);
        let Some(place) = state.budgets.open_files.reserve(&state.table) else {
            return Ok((Err(types::ErrorCode::InsufficientMemory),));
        };
        let entries = Entries::new(directory, place);
        Ok((Ok::<_, types::ErrorCode>(state.table.push(entries)?),))
    })?;
    instance.func_wrap_async(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store, (entries,): (Resource<Entries>,)| {
            Box::new(async move {
                let state: &mut GuestState = store.data_mut();
                let begun = match begin_with(state, 0) {
                    Ok(begun) => begun,
                    Err(beyond) => return Ok((Err(code_of!(beyond)),)),
                };
                let entry = state.table.get_mut(&entries)?.next(begun).await?;
                Ok((match entry {
                    Ok(entry) => Ok(entry.map(|entry| types::DirectoryEntry {
                        type_: descriptor_type(entry.kind),
                        name: entry.name,
                    })),
                    Err(Failed::System(error)) => Err(types::ErrorCode::from(error)),
                    Err(Failed::NotText) => Err(types::ErrorCode::IllegalByteSequence),
                },))
            })
        },
    )
}

fn descriptor_type(kind: FileType) -> types::DescriptorType {
    match kind {
        FileType::RegularFile => types::DescriptorType::RegularFile,
        FileType::Directory => types::DescriptorType::Directory,
        FileType::Symlink => types::DescriptorType::SymbolicLink,
        FileType::Fifo => types::DescriptorType::Fifo,
        FileType::Socket => types::DescriptorType::Socket,
        FileType::CharacterDevice => types::DescriptorType::CharacterDevice,
        FileType::BlockDevice => types::DescriptorType::BlockDevice,
        FileType::Unknown => types::DescriptorType::Unknown,
    }
}
