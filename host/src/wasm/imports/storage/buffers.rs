//! `buffers`: sources to read from, and sinks to fill.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::{Linker, Resource, WasmList};
use wasmtime::{Result, StoreContextMut, format_err};

use super::{check_index, check_indices, range, refused, run_off_lane};
use crate::copies::{Pass, note};
use crate::limits::SELECTED_CHUNKS_MAX;
use crate::transfer::{Sinks, Sources};
use crate::wasm::contract::buffers;
use crate::wasm::contract::types::Error;
use crate::wasm::state::{GuestState, Storage, StorageView};

const BUFFERS: &str = "kvtier:storage/buffers@0.1.0";

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    buffers::add_to_linker::<_, Storage>(linker, GuestState::storage)?;
    // The generated glue for these two copies bytes through a vector; these functions do not.
    linker.allow_shadowing(true);
    let mut shadows = linker.instance(BUFFERS)?;
    shadows.func_wrap("[method]sources.read", read)?;
    shadows.func_wrap("[method]sinks.write", write)?;
    linker.allow_shadowing(false);
    Ok(())
}

type ReadArgs = (Resource<Sources>, u32, u64, u64);

#[expect(clippy::needless_pass_by_value, reason = "the linker calls it so")]
fn read(
    store: StoreContextMut<'_, GuestState>,
    (sources, index, offset, len): ReadArgs,
) -> Result<(std::result::Result<Bytes, Error>,)> {
    let GuestState { table, budgets, threads, .. } = store.data();
    let sources = table.get(&sources)?;
    check_index(index, sources.count())?;
    if len > budgets.read_bytes_max {
        let text = format!("{len} bytes are more than the {} of one read", budgets.read_bytes_max);
        return Ok((Err(Error::InvalidArgument(text)),));
    }
    let bytes = sources.chunk(index as usize).and_then(|chunk| {
        let range = range(offset, len)?;
        run_off_lane(&threads.lanes, chunk.n_bytes_to_read(&range), || {
            // Into the guest's memory, when this returns.
            note(Pass::Copy, chunk.pieces(range.clone())?[0]);
            chunk.bytes(range)
        })
    });
    Ok((bytes.map_err(refused),))
}

type WriteArgs = (Resource<Sinks>, u32, u64, WasmList<u8>);

#[expect(clippy::needless_pass_by_value, reason = "the linker calls it so")]
fn write(
    store: StoreContextMut<'_, GuestState>,
    (sinks, index, offset, bytes): WriteArgs,
) -> Result<(std::result::Result<(), Error>,)> {
    let GuestState { table, threads, .. } = store.data();
    let sinks = table.get(&sinks)?;
    check_index(index, sinks.count())?;
    let bytes = bytes.as_le_slice(&store);
    let written = sinks.lease(index as usize).and_then(|mut sink| {
        run_off_lane(&threads.lanes, bytes.len(), || sink.write(offset as usize, bytes))
    });
    Ok((written.map_err(refused),))
}

impl buffers::Host for StorageView<'_> {}

impl StorageView<'_> {
    /// Reserves room for a selection of `n` chunks, until the selection is dropped.
    fn room_for(&self, n: usize) -> std::result::Result<OwnedSemaphorePermit, Error> {
        let n_chunks = u32::try_from(n).ok();
        let room = n_chunks.and_then(|n| Arc::clone(&self.budgets.selections).try_acquire_many_owned(n).ok());
        room.ok_or_else(|| {
            let why = format!(
                "would-block: the selections of this instance name more than {SELECTED_CHUNKS_MAX} chunks; drop some"
            );
            Error::Unavailable(why)
        })
    }
}

impl buffers::HostSources for StorageView<'_> {
    fn count(&mut self, sources: Resource<Sources>) -> Result<u32> {
        Ok(self.table.get(&sources)?.count() as u32)
    }

    fn len(&mut self, sources: Resource<Sources>, index: u32) -> Result<u64> {
        let sources = self.table.get(&sources)?;
        check_index(index, sources.count())?;
        Ok(sources.size_bytes(index as usize).unwrap_or_default() as u64)
    }

    fn read(
        &mut self,
        _: Resource<Sources>,
        _: u32,
        _: u64,
        _: u64,
    ) -> Result<std::result::Result<Vec<u8>, Error>> {
        Err(format_err!("shadowed by a function that moves bytes once"))
    }

    fn select(
        &mut self,
        sources: Resource<Sources>,
        indices: Vec<u32>,
    ) -> Result<std::result::Result<Resource<Sources>, Error>> {
        let from = self.table.get(&sources)?;
        check_indices(indices.iter().copied(), from.count(), "indices")?;
        let room = self.room_for(indices.len());
        match room.and_then(|room| from.select(&indices, room).map_err(refused)) {
            Ok(selected) => Ok(Ok(self.table.push(selected)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn drop(&mut self, sources: Resource<Sources>) -> Result<()> {
        self.table.delete(sources)?;
        Ok(())
    }
}

impl buffers::HostSinks for StorageView<'_> {
    fn count(&mut self, sinks: Resource<Sinks>) -> Result<u32> {
        Ok(self.table.get(&sinks)?.count() as u32)
    }

    fn capacity(&mut self, sinks: Resource<Sinks>, index: u32) -> Result<u64> {
        let sinks = self.table.get(&sinks)?;
        check_index(index, sinks.count())?;
        Ok(sinks.capacity(index as usize).unwrap_or_default() as u64)
    }

    fn write(
        &mut self,
        _: Resource<Sinks>,
        _: u32,
        _: u64,
        _: Vec<u8>,
    ) -> Result<std::result::Result<(), Error>> {
        Err(format_err!("shadowed by a function that moves bytes once"))
    }

    fn select(
        &mut self,
        sinks: Resource<Sinks>,
        indices: Vec<u32>,
    ) -> Result<std::result::Result<Resource<Sinks>, Error>> {
        let from = self.table.get(&sinks)?;
        check_indices(indices.iter().copied(), from.count(), "indices")?;
        let room = self.room_for(indices.len());
        match room.and_then(|room| from.select(&indices, room).map_err(refused)) {
            Ok(selected) => Ok(Ok(self.table.push(selected)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn drop(&mut self, sinks: Resource<Sinks>) -> Result<()> {
        self.table.delete(sinks)?;
        Ok(())
    }
}
