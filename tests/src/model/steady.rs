//! A tier that follows the contract: it serves what it has, whatever its neighbour does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvtier::ChunkKey;
use kvtier::tier::{PerChunk, Pinning, Sinks, Sources, Tier, TierError, TierFuture, TransferError};

use super::{Sabotage, turns};

#[derive(Default)]
struct State {
    chunks: BTreeMap<ChunkKey, Vec<u8>>,
    pinned: BTreeSet<ChunkKey>,
    n_removals: u64,
}

/// The tier.
#[derive(Default)]
pub struct Steady {
    state: Mutex<State>,
    sabotage: Option<Sabotage>,
}

impl Steady {
    /// Makes an empty tier, which some kinds of sabotage break.
    pub fn new(sabotage: Option<Sabotage>) -> Self {
        Self { state: Mutex::default(), sabotage }
    }

    /// Reports whether a chunk is present.
    pub fn has(&self, key: ChunkKey) -> bool {
        self.lock().chunks.contains_key(&key)
    }

    /// Returns the number of pinned chunks.
    pub fn n_pinned(&self) -> usize {
        self.lock().pinned.len()
    }

    /// Returns the number of completed removals.
    pub fn n_removals(&self) -> u64 {
        self.lock().n_removals
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, keys: &[ChunkKey], pin: bool) -> usize {
        let mut state = self.lock();
        let n_run = keys.iter().take_while(|key| state.chunks.contains_key(key)).count();
        if pin {
            state.pinned.extend(&keys[..n_run]);
        }
        n_run
    }

    fn store(&self, key: ChunkKey, data: &Sources, index: usize) -> Result<(), TransferError> {
        let sealed = data.chunk(index)?;
        let bytes = sealed.bytes(0..sealed.size_bytes())?.to_vec();
        self.lock().chunks.entry(key).or_insert(bytes);
        Ok(())
    }

    fn load(&self, key: ChunkKey, into: &Sinks, index: usize) -> Result<Option<u64>, TransferError> {
        let state = self.lock();
        match state.chunks.get(&key) {
            Some(bytes) if self.sabotage != Some(Sabotage::LoseChunks) => {
                into.lease(index)?.write(0, bytes)?;
                Ok(Some(bytes.len() as u64))
            }
            _ => Ok(None),
        }
    }
}

fn failed(error: TransferError) -> TierError {
    TierError::Other(error.to_string())
}

impl Tier for Steady {
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        pinning: Pinning,
        _deadline: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move {
            turns(1).await;
            Ok(self.run(&keys, pinning == Pinning::Pin))
        })
    }

    fn put(&self, keys: Arc<[ChunkKey]>, data: Sources, _deadline: Instant) -> TierFuture<'_, PerChunk<()>> {
        Box::pin(async move {
            turns(1).await;
            let each = keys.iter().enumerate();
            Ok(each.map(|(index, key)| self.store(*key, &data, index).map_err(failed)).collect())
        })
    }

    fn get(
        &self,
        keys: Arc<[ChunkKey]>,
        into: Sinks,
        _deadline: Instant,
    ) -> TierFuture<'_, PerChunk<Option<u64>>> {
        Box::pin(async move {
            turns(1).await;
            let each = keys.iter().enumerate();
            Ok(each.map(|(index, key)| self.load(*key, &into, index).map_err(failed)).collect())
        })
    }

    fn pin(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move { Ok(self.run(&keys, true)) })
    }

    fn unpin(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move {
            turns(1).await;
            if self.sabotage == Some(Sabotage::KeepPins) {
                return Ok(keys.len());
            }
            let mut state = self.lock();
            Ok(keys.iter().filter(|key| state.pinned.remove(key)).count())
        })
    }

    fn remove(&self, keys: Arc<[ChunkKey]>, _deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move {
            turns(1).await;
            let mut state = self.lock();
            state.n_removals += 1;
            keys.iter().for_each(|key| _ = state.pinned.remove(key));
            Ok(keys.iter().filter(|key| state.chunks.remove(key).is_some()).count())
        })
    }

    fn close(&self, _deadline: Instant) -> TierFuture<'_, Result<(), TierError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn batch_chunks_max(&self) -> usize {
        4
    }
}
