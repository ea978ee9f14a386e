//! Storing chunks: buffers for the missing ones, then a put to every tier.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::{CPU_TIER, Offer, Receipt, StorageManager, Tiers};
use crate::chunk::{Chunk, ChunkWriter};
use crate::config::OnFull;
use crate::cpu::Inserted;
use crate::key::{ChunkKey, ChunkSpec};
use crate::memory::AllocateError;
use crate::metrics::{DropReason, Operation};
use crate::runtime::unbudgeted;

/// Buffers for the chunks of a request that the CPU tier does not have. The caller fills them and passes them to
/// [`StorageManager::put`]. If it is dropped, nothing is stored.
#[derive(Debug)]
pub struct Allocation {
    keys: Vec<ChunkKey>,
    writers: Vec<(usize, ChunkWriter)>,
    /// Held, so that making room for the missing chunks does not evict the present ones.
    present: Vec<(usize, Chunk)>,
    n_covered: usize,
}

impl Allocation {
    /// Returns the chunks to be filled, in the order of the request.
    pub fn missing(&mut self) -> impl Iterator<Item = Missing<'_>> {
        self.writers.iter_mut().map(|(position, writer)| Missing {
            position: *position,
            key: writer.key(),
            bytes: writer,
        })
    }

    /// Returns how many chunks are to be filled.
    pub fn n_missing(&self) -> usize {
        self.writers.len()
    }

    /// Returns how many of the request's chunks were present.
    pub fn n_present(&self) -> usize {
        self.present.len()
    }

    /// Returns the length of the request's prefix that is present or has a buffer; shorter than the request
    /// if memory ran out.
    pub fn n_covered(&self) -> usize {
        self.n_covered
    }
}

/// The chunks of an allocation that was stored, with their positions in the request.
struct Kept {
    new: Vec<(usize, Chunk)>,
    present: Vec<(usize, Chunk)>,
}

impl Kept {
    /// Returns the chunks in the order of the request.
    fn in_order(self) -> Vec<Chunk> {
        let mut chunks: Vec<(usize, Chunk)> = self.new.into_iter().chain(self.present).collect();
        chunks.sort_unstable_by_key(|(index, _)| *index);
        chunks.into_iter().map(|(_, chunk)| chunk).collect()
    }
}

/// A chunk to be filled.
#[non_exhaustive]
pub struct Missing<'a> {
    /// Its position in the request.
    pub position: usize,
    /// Its key.
    pub key: ChunkKey,
    /// Its bytes. Their content is arbitrary until they are written.
    pub bytes: &'a mut [u8],
}

impl fmt::Debug for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Missing")
            .field("position", &self.position)
            .field("key", &self.key)
            .field("n_bytes", &self.bytes.len())
            .finish()
    }
}

/// The result of [`StorageManager::put`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// Chunks that are new in the CPU tier.
    pub n_new: usize,
    /// The outcome of each chosen backend, in the chain's order.
    pub backends: Vec<Offer>,
}

impl StorageManager {
    /// Reserves buffers for those of `chunks` that the CPU tier does not have, and touches the others. Evicts as
    /// needed, and waits only for puts in flight to release memory, within the timeout. If memory runs out, the buffers
    /// are those of a prefix. With [`Config::skip_save`] there are none.
    ///
    /// [`Config::skip_save`]: crate::Config::skip_save
    ///
    /// # Errors
    /// [`AllocateError`] for sizes that can never be allocated, and after [`StorageManager::close`].
    pub async fn allocate(&self, chunks: &[ChunkSpec]) -> Result<Allocation, AllocateError> {
        let started = Instant::now();
        let deadline = started + self.0.options.timeout;
        let keys: Vec<ChunkKey> = chunks.iter().map(|chunk| chunk.key).collect();
        if self.0.options.skip_save {
            self.0.cpu_metrics.drop_puts(DropReason::SkipSave, chunks.len() as u64);
            return Ok(Allocation { keys, writers: Vec::new(), present: Vec::new(), n_covered: 0 });
        }
        let chunk_bytes_max = self.0.options.chunk_bytes_max;
        if let Some(chunk) = chunks.iter().find(|chunk| chunk.size_bytes > chunk_bytes_max) {
            let size_bytes = chunk.size_bytes;
            return Err(AllocateError::LargerThanChunks { size_bytes, chunk_bytes_max });
        }
        let mut held = Vec::with_capacity(keys.len());
        self.0.cpu.get(&keys, &mut held);
        let mut allocation =
            Allocation { keys, writers: Vec::new(), present: Vec::new(), n_covered: chunks.len() };
        for (index, (chunk, present)) in chunks.iter().zip(held).enumerate() {
            if let Some(present) = present {
                allocation.present.push((index, present));
                continue;
            }
            let Some(buffer) = self.buffer(chunk.size_bytes, deadline).await? else {
                allocation.n_covered = index;
                self.0.cpu_metrics.drop_puts(DropReason::NoMemory, (chunks.len() - index) as u64);
                break;
            };
            allocation.writers.push((index, ChunkWriter::new(chunk.key, buffer)));
        }
        self.0.cpu_metrics.took(Operation::Allocate, started.elapsed());
        Ok(allocation)
    }

    /// Stores filled chunks: in the CPU tier by reference count, in the chosen backends in the background. Also offers
    /// the chunks that were present to the backends that are not known to have them, so that a dropped put is repeated.
    /// The tail of the request is evicted before its head. Returns when the CPU tier has the chunks and, if the chain
    /// is configured to wait, when the queues have room or the timeout has passed.
    pub async fn put(&self, allocation: Allocation, tiers: &Tiers) -> Stored {
        let started = Instant::now();
        let (n_new, kept) = self.keep(allocation, tiers, started);
        let backends = self.backends_to_store_in(tiers);
        if backends.is_empty() {
            return Stored { n_new, backends: Vec::new() };
        }
        Stored { n_new, backends: self.offer(&kept.in_order(), &backends, started, None).await }
    }

    /// Like [`StorageManager::put`], and also returns a receipt, as
    /// [`put_chunks_with_receipt`](StorageManager::put_chunks_with_receipt) does. It has an outcome for each of the
    /// [`Allocation::n_covered`] chunks, in the order of the request.
    pub async fn put_with_receipt(&self, allocation: Allocation, tiers: &Tiers) -> (Stored, Receipt) {
        let started = Instant::now();
        let (n_new, kept) = self.keep(allocation, tiers, started);
        let (chunks, backends) = (kept.in_order(), self.backends_to_store_in(tiers));
        let receipt = Receipt::new(backends.iter().map(|backend| backend.name.clone()), chunks.len());
        let backends = self.offer(&chunks, &backends, started, Some(&receipt)).await;
        (Stored { n_new, backends }, receipt)
    }

    /// Puts the filled chunks of an allocation into the CPU tier, if it is chosen. Returns how many are new there.
    fn keep(&self, allocation: Allocation, tiers: &Tiers, started: Instant) -> (usize, Kept) {
        let Allocation { keys, writers, present, n_covered } = allocation;
        let new: Vec<(usize, Chunk)> =
            writers.into_iter().map(|(index, writer)| (index, writer.freeze())).collect();
        let mut n_new = 0;
        if tiers.includes(CPU_TIER) {
            let chunks: Vec<Chunk> = new.iter().map(|(_, chunk)| chunk.clone()).collect();
            n_new = self.put_in_cpu(&chunks, started);
            if !present.is_empty() {
                self.0.cpu.refresh(&keys[..n_covered]);
            }
        }
        (n_new, Kept { new, present })
    }

    /// Stores existing chunks, in the order of their request. In an engine on keys, chunks larger than its largest
    /// chunk ([`StorageMetadata::chunk_bytes_max`](crate::StorageMetadata::chunk_bytes_max)) are dropped.
    pub async fn put_chunks(&self, chunks: &[Chunk], tiers: &Tiers) -> Stored {
        let started = Instant::now();
        let mut stored = Stored::default();
        if self.0.options.skip_save {
            self.0.cpu_metrics.drop_puts(DropReason::SkipSave, chunks.len() as u64);
            return stored;
        }
        if tiers.includes(CPU_TIER) {
            stored.n_new = self.put_in_cpu(chunks, started);
        }
        stored.backends = self.offer(chunks, &self.backends_to_store_in(tiers), started, None).await;
        stored
    }

    /// Like [`StorageManager::put_chunks`], and also returns a receipt, which resolves with what became of each chunk
    /// in each backend. The CPU tier has no part in it: it has what it keeps when this returns.
    pub async fn put_chunks_with_receipt(&self, chunks: &[Chunk], tiers: &Tiers) -> (Stored, Receipt) {
        let started = Instant::now();
        if self.0.options.skip_save {
            return (self.put_chunks(chunks, tiers).await, Receipt::new([], chunks.len()));
        }
        let mut stored = Stored::default();
        if tiers.includes(CPU_TIER) {
            stored.n_new = self.put_in_cpu(chunks, started);
        }
        let backends = self.backends_to_store_in(tiers);
        let receipt = Receipt::new(backends.iter().map(|backend| backend.name.clone()), chunks.len());
        stored.backends = self.offer(chunks, &backends, started, Some(&receipt)).await;
        (stored, receipt)
    }

    /// Puts chunks into the CPU tier, except those of lent memory and too large ones, and returns how many are new
    /// there.
    pub(super) fn put_in_cpu(&self, chunks: &[Chunk], started: Instant) -> usize {
        let is_kept = |chunk: &Chunk| !chunk.is_lent() && chunk.len() <= self.0.options.chunk_bytes_max;
        if !chunks.iter().all(is_kept) {
            let kept: Vec<Chunk> = chunks.iter().filter(|chunk| is_kept(chunk)).cloned().collect();
            return if kept.is_empty() { 0 } else { self.put_in_cpu(&kept, started) };
        }
        let mut inserted = Vec::with_capacity(chunks.len());
        self.0.cpu.insert_all(chunks, &mut inserted);
        let new = inserted.iter().zip(chunks).filter(|(inserted, _)| **inserted == Inserted::New);
        let (n_new, n_bytes) = new.fold((0, 0), |(n, bytes), (_, chunk)| (n + 1, bytes + chunk.len() as u64));
        self.0.cpu_metrics.stored(n_new as u64, n_bytes);
        self.0.cpu_metrics.took(Operation::Put, started.elapsed());
        n_new
    }

    /// Offers chunks to backends concurrently, so that one without room does not use up the time of the others.
    async fn offer(
        &self,
        chunks: &[Chunk],
        backends: &[&Arc<Backend>],
        started: Instant,
        receipt: Option<&Receipt>,
    ) -> Vec<Offer> {
        let wait_until = match self.0.options.on_full {
            OnFull::Drop => None,
            OnFull::Wait => Some(started + self.0.options.timeout),
        };
        let offers = backends.iter().enumerate().map(|(position, backend)| {
            let chunk_bytes_max = self.0.options.chunk_bytes_max;
            let slot = move |index| Some(receipt?.slot(position, index));
            backend.offer(chunks, chunk_bytes_max, wait_until, slot)
        });
        unbudgeted(futures::future::join_all(offers)).await
    }

    /// Returns the backends that a put concerns.
    fn backends_to_store_in<'a>(&'a self, tiers: &'a Tiers) -> Vec<&'a Arc<Backend>> {
        self.backends(tiers).map(|(_, backend)| backend).collect()
    }
}
