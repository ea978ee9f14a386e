//! The state that the handles of a CPU tier share: searches without the index's lock, and access to the index.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};

use super::index::{Index, Released};
use super::order::{Use, use_order};
use super::policy::EvictionPolicy;
use super::table::{LOOKED_AHEAD, Table};
use super::touches::Touches;
use crate::chunk::{Chunk, IndexRegistration, Slot, Watcher, record};
use crate::key::ChunkKey;
use crate::memory::Provider;
use crate::sync::lock;

/// The shared state. It is notified when the last reader of a chunk is gone.
pub(super) struct Shared {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) policy: EvictionPolicy,
    /// The index's table, for searches without its lock.
    pub(super) table: Arc<Table>,
    /// Shared with the index, which counts them.
    pub(super) touches: Arc<Touches>,
    pub(super) index: Mutex<Index>,
    /// Dropped after the index, whose number it reserves.
    pub(super) registration: IndexRegistration,
    pub(super) n_evict_failures: AtomicU64,
    /// The index has the same flag; with this one, an allocation that has room takes no lock.
    pub(super) is_closed: AtomicBool,
}

impl Shared {
    /// Takes the index's lock, for everything except searching and reading.
    pub(super) fn locked(&self) -> MutexGuard<'_, Index> {
        let mut index = lock(&self.index);
        index.count_uses();
        index
    }

    #[inline]
    pub(super) fn find_some(&self, keys: &[ChunkKey]) -> [Option<Slot>; LOOKED_AHEAD] {
        let index_id = self.registration.id();
        let accept = |key, slot| record(slot).is_indexed_as(key, index_id).then_some(slot);
        self.table.find_some(keys, |slot| u64::from(record(slot).generation()), accept)
    }

    #[inline]
    pub(super) fn acquire(&self, key: ChunkKey) -> Option<Chunk> {
        let index_id = self.registration.id();
        self.table.find(key, |slot| Chunk::acquire(record(slot), key, index_id))
    }

    /// Appends a handle or `None` for each of at most [`LOOKED_AHEAD`] keys.
    pub(super) fn acquire_some(&self, keys: &[ChunkKey], chunks: &mut Vec<Option<Chunk>>) {
        if let [key] = keys {
            return chunks.push(self.acquire(*key));
        }
        // All searches before the first atomic change, because the processor does not look ahead across one.
        let slots = self.find_some(keys);
        let index_id = self.registration.id();
        let acquire = |(&slot, &key): (&Option<Slot>, &ChunkKey)| {
            // A chunk that has left in between may have returned in another slot.
            Chunk::acquire(record(slot?), key, index_id).or_else(|| self.acquire(key))
        };
        chunks.extend(slots.iter().zip(keys).map(acquire));
    }

    /// Counts a use of each chunk of a request, given in the order of the prompt.
    pub(super) fn count_uses(&self, chunks: &[Option<Chunk>]) {
        match Use::of(self.policy) {
            Use::Nothing => {}
            Use::Marks => chunks.iter().flatten().for_each(|chunk| chunk.record().residency.mark()),
            Use::Places => {
                let used = use_order(self.policy, chunks.len()).filter_map(|i| chunks[i].as_ref());
                if self.touches.note(used.map(Chunk::record)) {
                    drop(self.locked());
                }
            }
        }
    }

    /// Wakes waiters for memory after new chunks were inserted. The waiters find the chunks held by the caller, and are
    /// notified of their release.
    pub(super) fn announce_if_new(&self, is_new: bool) {
        if is_new {
            self.provider.released().notify();
        }
    }

    /// Handles the consequences of a release, outside the lock.
    pub(super) fn finish_release(&self, released: Released) {
        drop(released.left);
        if released.may_fit {
            self.provider.released().notify();
        }
    }
}

impl Watcher for Shared {
    fn last_reader_gone(&self, slot: Slot) {
        let mut released = Released::default();
        self.locked().last_reader_gone(slot, &mut released);
        self.finish_release(released);
    }
}
