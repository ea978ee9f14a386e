//! WASI 0.2.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{self, HostDescriptor as _};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsResult};

use super::super::{P2, without_trap};
use super::listing::Entries;
use super::shadow::{convert_types, shadow, shadow_directories};
use super::{Failure, begin_with, watch};
use crate::limits::FILE_WRITE_BYTES_MAX;
use crate::wasm::state::GuestState;

type Fd = Resource<Descriptor>;

convert_types!(Pending(_) => Self::WouldBlock, Unknown => DescriptorType::Unknown);

pub(in super::super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    shadow_directories!(linker, P2);
    let mut instance = linker.instance(&format!("wasi:filesystem/types@{P2}"))?;
    shadow! {
        instance.func_wrap_async, Box::new,
        store: StoreContextMut<'_, GuestState> => WasiFilesystemCtxView(&mut store.data_mut().filesystem())
    }
    add_bytes_to_linker(&mut instance)?;
    add_listings_to_linker(&mut instance)
}

/// Shadows the functions that read and write open files.
fn add_bytes_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]descriptor.read",
        |mut store, (fd, n_bytes, at): (Fd, types::Filesize, types::Filesize)| {
            Box::new(async move {
                let state: &mut GuestState = store.data_mut();
                note_blocking(state);
                let work = match watch(&state.files(), 0) {
                    Ok(work) => work,
                    Err(failure) => return Ok((Err(types::ErrorCode::from(failure)),)),
                };
                let read = state.filesystem().read(fd, n_bytes, at).await;
                work.ended();
                Ok((without_trap(read)?,))
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
                note_blocking(state);
                let work = match watch(&state.files(), bytes.len()) {
                    Ok(work) => work,
                    Err(failure) => return Ok((Err(types::ErrorCode::from(failure)),)),
                };
                let written = state.filesystem().write(fd, bytes, at).await;
                work.ended();
                Ok((without_trap(written)?,))
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

fn note_blocking(state: &mut GuestState) {
    if let Some(calls) = state.files().blocking_files {
        calls.note();
    }
}

/// Makes a stream from or to a file. It counts as a pending operation for as long as it exists: it may have one under
/// way at any time.
fn stream<S: 'static>(
    state: &mut GuestState,
    make: impl FnOnce(&mut GuestState) -> FsResult<Resource<S>>,
) -> wasmtime::Result<Result<Resource<S>, types::ErrorCode>> {
    note_blocking(state);
    let files = state.files();
    if !files.file_streams.have_room(files.table) {
        return Ok(Err(Failure::OpenFiles.into()));
    }
    let begun = match begin_with(&files, 0) {
        Ok(begun) => begun,
        Err(failure) => return Ok(Err(failure.into())),
    };
    let answer = without_trap(make(state))?;
    if let Ok(stream) = &answer {
        state.files().file_streams.put(stream, begun);
    }
    Ok(answer)
}

/// Shadows the listings of directories, with a resource of kvtier's own: WASI's reads a whole directory and keeps it.
fn add_listings_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.resource("directory-entry-stream", ResourceType::host::<Entries>(), |mut store, place| {
        let files = store.data_mut().files();
        files.table.delete(Resource::<Entries>::new_own(place))?;
        Ok(())
    })?;
    instance.func_wrap("[method]descriptor.read-directory", |mut store, (fd,): (Fd,)| {
        let files = store.data_mut().files();
        let Descriptor::Dir(directory) = files.table.get(&fd)? else {
            return Ok((Err(types::ErrorCode::NotDirectory),));
        };
        let directory = Arc::clone(&directory.dir);
        let Some(slot) = files.open_files.reserve(files.table) else {
            return Ok((Err(types::ErrorCode::InsufficientMemory),));
        };
        Ok((Ok::<_, types::ErrorCode>(files.table.push(Entries::new(directory, slot))?),))
    })?;
    instance.func_wrap_async(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store, (entries,): (Resource<Entries>,)| {
            Box::new(async move {
                let files = store.data_mut().files();
                let begun = match begin_with(&files, 0) {
                    Ok(begun) => begun,
                    Err(failure) => return Ok((Err(types::ErrorCode::from(failure)),)),
                };
                let entry = files.table.get_mut(&entries)?.next(begun).await?;
                Ok((entry.map(|entry| entry.map(types::DirectoryEntry::from)).map_err(Into::into),))
            })
        },
    )
}
