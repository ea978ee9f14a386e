//! The CPU tier: chunks in host memory, found by key and shared without a copy.
//!
//! All operations are synchronous, and never wait for memory, a backend or an executor; a [`Waiter`] waits for memory.
//! Searching and reading never take the index's lock. Changes take it once for a list of keys. The tier also allocates
//! buffers, with the hot cache on or off: an allocation that finds no room evicts as many unheld chunks as it needs, in
//! the order of the [`EvictionPolicy`].
//!
//! A chunk is *held* while it is pinned or has a handle outside the index; held chunks are never evicted. Within a
//! request the tail of a prefix is evicted before its head, so operations on a list count as uses from the last key to
//! the first (under MRU from the first to the last).
//!
//! Lookup ids, pin timeouts, deadlines and other tiers are not here but in the storage manager.

mod allocate;
mod hot_cache;
mod index;
mod order;
mod policy;
mod report;
mod shared;
mod table;
mod touches;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::chunk::{Chunk, IndexRegistration, RemovedChunk, Watcher};
use crate::key::ChunkKey;
use crate::memory::{Inconsistency, Provider, Waiter};
use index::{Index, Released};
use order::use_order;
use shared::Shared;
use table::{LOOKED_AHEAD, Table};
use touches::Touches;

pub use hot_cache::HotCache;
pub use policy::{EvictionPolicy, UnknownPolicy};
pub use report::{Allocated, Cleared, CpuStats, Evictions, Exhausted, Inserted};

/// The first tier of the chain; see the module's documentation.
pub struct CpuTier {
    shared: Arc<Shared>,
}

impl CpuTier {
    /// Makes an empty tier over `provider`'s memory. With the hot cache off it allocates buffers and keeps no chunks.
    pub fn new(provider: Arc<dyn Provider>, policy: EvictionPolicy, hot_cache: HotCache) -> Self {
        let shared = Arc::new_cyclic(|me: &Weak<Shared>| {
            let registration = IndexRegistration::new(Weak::clone(me) as Weak<dyn Watcher>);
            let table = Arc::new(Table::new());
            let capacity_bytes = provider.capacity_bytes();
            let touches = Arc::new(Touches::default());
            let parts = (Arc::clone(&table), Arc::clone(&touches));
            let index = Index::new(policy, hot_cache, parts, registration.id(), capacity_bytes);
            Shared {
                provider,
                policy,
                table,
                touches,
                index: Mutex::new(index),
                registration,
                n_evict_failures: AtomicU64::new(0),
                is_closed: AtomicBool::new(false),
            }
        });
        Self { shared }
    }

    /// Returns the provider of the tier's memory.
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.shared.provider
    }

    /// Returns how many keys from the first on are present without a gap. Does not count as a use. Takes no lock.
    pub fn contains_run(&self, keys: &[ChunkKey]) -> usize {
        let mut n_found = 0;
        for keys in keys.chunks(LOOKED_AHEAD) {
            let found = self.shared.find_some(keys);
            let n = found[..keys.len()].iter().take_while(|slot| slot.is_some()).count();
            n_found += n;
            if n < keys.len() {
                break;
            }
        }
        n_found
    }

    /// Sets `present` to whether each key is present. Does not count as a use. Takes no lock.
    pub fn contains_each(&self, keys: &[ChunkKey], present: &mut Vec<bool>) {
        present.clear();
        for keys in keys.chunks(LOOKED_AHEAD) {
            present.extend(self.shared.find_some(keys)[..keys.len()].iter().map(Option::is_some));
        }
    }

    /// Sets `chunks` to a handle for each present key, and counts a use of each. Takes the index's lock only once in
    /// [`TOUCHES_MAX`](crate::limits::TOUCHES_MAX) chunks, to count their uses.
    pub fn get(&self, keys: &[ChunkKey], chunks: &mut Vec<Option<Chunk>>) {
        chunks.clear();
        for keys in keys.chunks(LOOKED_AHEAD) {
            self.shared.acquire_some(keys, chunks);
        }
        self.shared.count_uses(chunks);
    }

    /// Pins every present key, counts a use of each, and returns their number. Pins are counted; each needs its
    /// [`unpin`](Self::unpin).
    pub fn pin(&self, keys: &[ChunkKey]) -> usize {
        let mut index = self.shared.locked();
        use_order(index.policy(), keys.len()).filter(|&i| index.pin(keys[i])).count()
    }

    /// Pins the keys from the first on that are present without a gap, and returns their number:
    /// [`contains_run`](Self::contains_run) and [`pin`](Self::pin) in one step, without an eviction in between.
    pub fn pin_run(&self, keys: &[ChunkKey]) -> usize {
        let mut index = self.shared.locked();
        let n_keys = keys.iter().take_while(|&&key| index.find(key).is_some()).count();
        use_order(index.policy(), n_keys).filter(|&i| index.pin(keys[i])).count()
    }

    /// Removes one pin of every present key, and returns the number of present keys. A key without a pin stays as it
    /// is, with a warning.
    pub fn unpin(&self, keys: &[ChunkKey]) -> usize {
        let mut released = Released::default();
        let n_found = {
            let mut index = self.shared.locked();
            keys.iter().filter(|&&key| index.unpin(key, &mut released)).count()
        };
        self.shared.finish_release(released);
        n_found
    }

    /// Returns how often `key` is pinned, or `None` if it is not present.
    pub fn n_pins(&self, key: ChunkKey) -> Option<u32> {
        self.shared.locked().n_pins(key)
    }

    /// Counts a use of every present key.
    pub fn touch(&self, keys: &[ChunkKey]) {
        let mut index = self.shared.locked();
        for i in use_order(index.policy(), keys.len()) {
            index.touch(keys[i]);
        }
    }

    /// Renews the recency of every present key without counting a use: as [`touch`](Self::touch) under LRU and MRU,
    /// only among keys used equally often under LFU, and not at all under the others. For keys just stored, so that the
    /// head of a prefix outlives its tail.
    pub fn refresh(&self, keys: &[ChunkKey]) {
        let mut index = self.shared.locked();
        for i in use_order(index.policy(), keys.len()) {
            index.refresh(keys[i]);
        }
    }

    /// Registers a waiter for memory: it is notified when a buffer was released, or when a chunk that eviction found
    /// held is no longer held. Make it before the attempt that may fail.
    pub fn waiter(&self) -> Waiter<'_> {
        self.shared.provider.released().waiter()
    }

    /// Adds a chunk to the index, by reference count. The first chunk of a key stays.
    pub fn insert(&self, chunk: &Chunk) -> Inserted {
        let inserted = self.shared.locked().insert(chunk);
        self.shared.announce_if_new(inserted == Inserted::New);
        inserted
    }

    /// Adds the chunks of a request, in the order of the prompt, to the index, and sets `inserted` to the outcome of
    /// each.
    pub fn insert_all(&self, chunks: &[Chunk], inserted: &mut Vec<Inserted>) {
        inserted.clear();
        inserted.resize(chunks.len(), Inserted::CacheOff);
        for chunks in chunks.chunks(LOOKED_AHEAD) {
            // Loads the beginnings of the searches before the lock is taken.
            let mut keys = [ChunkKey { hi: 0, lo: 0 }; LOOKED_AHEAD];
            for (key, chunk) in keys.iter_mut().zip(chunks) {
                *key = chunk.key();
            }
            self.shared.table.look_ahead(&keys[..chunks.len()]);
        }
        let mut index = self.shared.locked();
        for i in use_order(index.policy(), chunks.len()) {
            inserted[i] = index.insert(&chunks[i]);
        }
        drop(index);
        self.shared.announce_if_new(inserted.contains(&Inserted::New));
    }

    /// Takes every present key out of the index, held or not, and returns their number. Their pins are gone; the last
    /// reader of a chunk releases its memory.
    pub fn remove(&self, keys: &[ChunkKey]) -> usize {
        let mut index = self.shared.locked();
        let left: Vec<RemovedChunk> = keys.iter().filter_map(|&key| index.remove(key)).collect();
        drop(index);
        left.len()
    }

    /// Takes every chunk that is not held out of the index.
    pub fn clear(&self) -> Cleared {
        let mut left = Vec::new();
        let mut index = self.shared.locked();
        let cleared = index.clear(&mut left);
        index.evictions.cleared += cleared.chunks;
        drop(index);
        cleared
    }

    /// Turns the hot cache on or off. Off takes out every chunk that is not held, in one step with the change. Held
    /// chunks leave when they are released.
    pub fn set_hot_cache(&self, hot_cache: HotCache) {
        let mut left = Vec::new();
        let mut index = self.shared.locked();
        index.is_hot = hot_cache == HotCache::On;
        if hot_cache == HotCache::Off {
            index.evictions.cache_off += index.clear(&mut left).chunks;
        }
        drop(index);
    }

    /// Reports whether the hot cache is on.
    pub fn is_hot(&self) -> bool {
        self.shared.locked().is_hot
    }

    /// Returns the tier's state and counters.
    pub fn stats(&self) -> CpuStats {
        let index = self.shared.locked();
        let (sums, evictions) = (index.sums, index.evictions);
        drop(index);
        CpuStats {
            entries: sums.entries,
            entry_bytes: sums.payload_bytes,
            pinned_entries: sums.pinned_entries,
            allocated_bytes: self.shared.provider.allocated_bytes(),
            capacity_bytes: self.shared.provider.capacity_bytes(),
            evictions,
            evict_failures: self.shared.n_evict_failures.load(Ordering::Relaxed),
        }
    }

    /// Verifies the index, the eviction order and the counters against each other. Takes time in
    /// proportion to the number of chunks.
    ///
    /// # Errors
    ///
    /// The first contradiction.
    pub fn check(&self) -> Result<(), Inconsistency> {
        self.shared.locked().check()
    }

    /// Empties the tier for good: nothing can be allocated or stored any more, and waiters for memory are woken and get
    /// an error. The last reader of a chunk releases its memory.
    pub fn close(&self) {
        let mut left = Vec::new();
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.locked().close(&mut left);
        drop(left);
        self.shared.provider.released().notify();
    }
}

impl std::fmt::Debug for CpuTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuTier").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod allocate_tests;
#[cfg(test)]
mod hot_cache_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod pin_tests;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wait_tests;
