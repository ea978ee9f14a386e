//! Fetching chunks into buffers that the caller gives.

use std::sync::Arc;
use std::time::Instant;

use futures::stream::{self, StreamExt as _};

use super::backend::Backend;
use super::breaker::{Direction, OwnedPermit};
use super::fetched::Fetched;
use super::flights::{Call, CallGroup};
use super::{CPU_TIER, Miss, StorageManager, Tiers};
use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::TRAILER_BYTES;
use crate::key::ChunkKey;
use crate::limits::{BATCH_BYTES_MAX, GET_BATCHES_IN_FLIGHT, GET_BYTES_IN_FLIGHT_MAX};
use crate::metrics::Operation;
use crate::runtime::unbudgeted;
use crate::tier::TierError;

/// A chunk that [`StorageManager::fetch_into`] did not deliver.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotFetched {
    /// The reason: that of the last tier that was asked, or of an earlier one if the last one does not have the chunk.
    pub miss: Miss,
    /// The buffer, with arbitrary bytes. `None` if a transfer still uses it: its memory is released when that ends.
    pub buffer: Option<ChunkWriter>,
}

/// One chunk on its way.
struct Item {
    writer: Option<ChunkWriter>,
    outcome: Fetched,
}

impl StorageManager {
    /// Fetches chunks into buffers of the caller, each from the first of the chosen tiers that has it and delivers the
    /// right bytes. Returns one result for each buffer, in order, whatever became of the others: unlike
    /// [`StorageManager::get`], it does not stop at a gap, and does not promote what it fetches into the CPU tier.
    ///
    /// A buffer has the chunk's size, or more; the returned chunk is as long as the stored one. A chunk that the CPU
    /// tier has is copied; all other bytes are moved once, by the backend, and are verified while they move. The fetch
    /// is not shared with other retrievals of the same chunks, since its memory is not.
    ///
    /// # Cancellation
    /// The memory of each buffer is released when the last transfer into it ends.
    pub async fn fetch_into(
        &self,
        buffers: Vec<ChunkWriter>,
        tiers: &Tiers,
    ) -> Vec<Result<Chunk, NotFetched>> {
        let deadline = self.deadline();
        let mut items: Vec<Item> = buffers
            .into_iter()
            .map(|writer| Item { writer: Some(writer), outcome: Err(Miss::NotFound) })
            .collect();
        if tiers.includes(CPU_TIER) {
            unbudgeted(self.copy_from_cpu(&mut items)).await;
        }
        let backends: Vec<_> = self.backends(tiers).map(|(_, backend)| backend).collect();
        for backend in backends {
            if items.iter().all(|item| item.writer.is_none()) {
                break;
            }
            unbudgeted(backend.fetch_into(&mut items, deadline)).await;
        }
        items
            .into_iter()
            .map(|Item { writer, outcome }| outcome.map_err(|miss| NotFetched { miss, buffer: writer }))
            .collect()
    }

    async fn copy_from_cpu(&self, items: &mut [Item]) {
        let started = Instant::now();
        let keys: Vec<ChunkKey> = items.iter().flat_map(|item| &item.writer).map(ChunkWriter::key).collect();
        let mut found = Vec::with_capacity(keys.len());
        self.0.cpu.get(&keys, &mut found);
        let n_absent = found.iter().filter(|chunk| chunk.is_none()).count();
        let mut found_here = Vec::new();
        for (index, (item, found)) in items.iter_mut().zip(found).enumerate() {
            let Some(chunk) = found else { continue };
            found_here.extend(item.writer.take().map(|writer| (index, chunk, writer)));
        }
        let n_bytes = found_here.iter().map(|(_, chunk, _)| chunk.len()).sum();
        // Much is copied on another thread: the caller may be an executor's, or a control thread.
        let copied = self.0.control.compute(n_bytes, move || {
            found_here
                .into_iter()
                .map(|(index, chunk, writer)| (index, copy(&chunk, writer)))
                .collect::<Vec<_>>()
        });
        let (mut n_hits, mut n_bytes) = (0, 0);
        for (index, item) in copied.await {
            if let Ok(chunk) = &item.outcome {
                (n_hits, n_bytes) = (n_hits + 1, n_bytes + chunk.len() as u64);
            }
            items[index] = item;
        }
        self.0.cpu_metrics.hit(n_hits, n_bytes);
        self.0.cpu_metrics.miss(Miss::NotFound.reason(), n_absent as u64);
        self.0.cpu_metrics.took(Operation::Get, started.elapsed());
    }
}

/// Copies a chunk into a buffer, if it fits.
fn copy(chunk: &Chunk, mut writer: ChunkWriter) -> Item {
    if chunk.len() > writer.len() {
        let (stored, capacity) = (chunk.len() as u64, writer.len() as u64);
        return Item { writer: Some(writer), outcome: Err(Miss::LargerThanBuffer { stored, capacity }) };
    }
    writer[..chunk.len()].copy_from_slice(chunk);
    writer.truncate(chunk.len());
    Item { writer: None, outcome: Ok(writer.freeze()) }
}

impl Backend {
    /// Fetches what is still missing, in calls of which several are in flight.
    async fn fetch_into(self: &Arc<Self>, items: &mut [Item], deadline: Instant) {
        let tier = self.tier();
        let missing: Vec<(usize, ChunkWriter)> = items
            .iter_mut()
            .enumerate()
            .filter_map(|(index, item)| item.writer.take().map(|writer| (index, writer)))
            .collect();
        let batches = cut(missing, tier.batch_chunks_max().max(1));
        let n_bytes_max = batches.iter().map(|batch| n_bytes_of(batch)).max().unwrap_or(1);
        let bytes = GET_BYTES_IN_FLIGHT_MAX.min(tier.bytes_in_flight_max());
        let n_calls = GET_BATCHES_IN_FLIGHT.min(tier.calls_in_flight_max()).min(bytes / n_bytes_max).max(1);
        let group = Arc::<CallGroup>::default();
        let mut calls = stream::iter(batches)
            .map(|batch| self.fetch_batch(batch, &group, deadline))
            .buffer_unordered(n_calls);
        while let Some(fetched) = calls.next().await {
            for (index, outcome, writer) in fetched {
                let item = &mut items[index];
                item.writer = writer;
                // A tier that does not have the chunk leaves the reason of an earlier one.
                if !matches!(outcome, Err(Miss::NotFound)) {
                    item.outcome = outcome;
                }
            }
        }
    }

    /// Fetches the chunks of one call.
    async fn fetch_batch(
        self: &Arc<Self>,
        batch: Vec<(usize, ChunkWriter)>,
        group: &Arc<CallGroup>,
        deadline: Instant,
    ) -> Vec<(usize, Fetched, Option<ChunkWriter>)> {
        let n_bytes = n_bytes_of(&batch);
        let (indices, writers): (Vec<usize>, Vec<ChunkWriter>) = batch.into_iter().unzip();
        let error = if self.control.is_forked_child() {
            Some(TierError::Forked)
        } else {
            let left = deadline.saturating_duration_since(Instant::now());
            left.is_zero().then_some(TierError::Timeout(left))
        };
        let permit = match error {
            Some(error) => Err(error),
            None => self
                .admit(Direction::Reading, writers.iter().map(ChunkWriter::key))
                .ok_or(TierError::BreakerOpen),
        };
        let fetched = match permit {
            Ok(permit) => {
                let call = Call::alone(OwnedPermit::new(&self.breakers, Direction::Reading, permit), group);
                let moving = self.move_bytes(n_bytes, n_bytes);
                let promised = vec![false; writers.len()];
                self.fetch(&call, writers, &promised, moving.deadline.min(deadline)).await
            }
            Err(error) => {
                self.metrics.miss(error.kind(), writers.len() as u64);
                writers.into_iter().map(|writer| (Err(Miss::Error(error.clone())), Some(writer))).collect()
            }
        };
        indices.into_iter().zip(fetched).map(|(index, (outcome, writer))| (index, outcome, writer)).collect()
    }
}

/// Divides chunks into calls.
fn cut(chunks: Vec<(usize, ChunkWriter)>, n_chunks_max: usize) -> Vec<Vec<(usize, ChunkWriter)>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut n_bytes = 0;
    for chunk in chunks {
        let size_bytes = chunk.1.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < n_chunks_max && n_bytes + size_bytes <= BATCH_BYTES_MAX => {
                n_bytes += size_bytes;
                batch.push(chunk);
            }
            _ => {
                n_bytes = size_bytes;
                batches.push(vec![chunk]);
            }
        }
    }
    batches
}

fn n_bytes_of(batch: &[(usize, ChunkWriter)]) -> usize {
    batch.iter().map(|(_, writer)| writer.len() + TRAILER_BYTES).sum()
}
