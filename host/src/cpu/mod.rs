//! The CPU tier: chunks in host memory, found by key and shared without a copy.
//!
//! All operations are synchronous, and never wait for memory, a backend or an executor; whoever wants
//! to wait for memory does so with a [`Waiter`](crate::memory::Waiter). Searching and reading take no
//! lock of the index, whatever else goes on; what changes it takes the one lock, once for a list of
//! keys. The tier is also the place where buffers are allocated, with the hot cache on or off: an
//! allocation that finds no room evicts chunks that nobody holds, as many as it needs, in the order of the
//! [`Policy`].
//!
//! A chunk is *held* while it is pinned or somebody besides the index has a handle to it; held chunks
//! are never evicted. Within a request the tail of a prefix goes before its head, so operations on a
//! list count as uses from the last key to the first (under MRU from the first to the last).
//!
//! What is not here: lookup ids, pin time-outs, deadlines and other tiers are the storage manager's.

mod index;
mod order;
mod policy;
mod table;
mod touches;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::chunk::{Chunk, Home, Left, Slot, Watcher, record};
use crate::key::ChunkKey;
use crate::memory::{AllocateError, BufferMut, Inconsistency, Provider, Waiter};
use crate::sync::lock;
use index::{Index, Released};
use order::Use;
use table::{LOOKED_AHEAD, Table};
use touches::Touches;

pub use policy::{Policy, UnknownPolicy};

/// The first tier of the chain; see the module's documentation. Cheap to share by reference.
pub struct CpuTier {
    shared: Arc<Shared>,
}

/// What hears that the last reader of a chunk is gone.
struct Shared {
    provider: Arc<dyn Provider>,
    policy: Policy,
    /// The index's table, for searches without its lock.
    table: Arc<Table>,
    /// Shared with the index, which counts them.
    touches: Arc<Touches>,
    index: Mutex<Index>,
    /// After the index, which is at home there until it is dropped.
    home: Home,
    n_evict_failures: AtomicU64,
    /// The index knows as well; this one spares an allocation that has room the lock.
    is_closed: AtomicBool,
}

/// The outcome of an allocation that was possible in principle.
#[derive(Debug)]
pub enum Allocated<B = BufferMut> {
    /// The buffer, or for a batch all buffers.
    Ready(B),
    /// There is no room and nothing that can be evicted, at the moment.
    Exhausted(Exhausted),
}

/// Says how full the tier was when an allocation found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room for {size_bytes} bytes: {allocated_bytes} of {capacity_bytes} bytes are in use, and \
     every chunk is pinned or being read; wait for a release or raise max_local_cpu_size"
)]
pub struct Exhausted {
    /// What was asked for, in bytes; for a batch, the sum.
    pub size_bytes: usize,
    /// All memory, in bytes.
    pub capacity_bytes: usize,
    /// Memory handed out, in bytes.
    pub allocated_bytes: usize,
}

/// The outcome of putting one chunk into the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inserted {
    /// The index has a handle to the chunk now.
    New,
    /// The key was here already. Its chunk stays as it is, and this counts as a use.
    Present,
    /// The hot cache is off or the tier closed; nothing was kept.
    CacheOff,
    /// Another CPU tier has this chunk in its index; nothing was kept.
    InAnotherTier,
}

/// What [`CpuTier::clear`] took out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Number of chunks.
    pub chunks: u64,
    /// Sum of their payloads, in bytes.
    pub bytes: u64,
}

/// How many chunks have left the index so far, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Evicted by the policy to make room.
    pub pressure: u64,
    /// Removed by key.
    pub removed: u64,
    /// Taken out by `clear`.
    pub cleared: u64,
    /// Taken out because the hot cache was switched off.
    pub cache_off: u64,
    /// Taken out by `close`.
    pub closed: u64,
}

/// The state of a CPU tier at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuStats {
    /// Chunks in the index.
    pub entries: usize,
    /// Sum of their payloads, in bytes.
    pub entry_bytes: usize,
    /// Chunks with at least one pin.
    pub pinned_entries: usize,
    /// Memory handed out, in bytes: chunks in the index, and buffers and chunks only others hold.
    pub allocated_bytes: usize,
    /// All memory, in bytes.
    pub capacity_bytes: usize,
    /// Chunks that left the index.
    pub evictions: Evictions,
    /// Allocations that found no room and nothing to evict.
    pub evict_failures: u64,
}

impl CpuTier {
    /// Makes an empty tier over `provider`'s memory. With `hot_cache` false it allocates buffers and
    /// keeps no chunks.
    pub fn new(provider: Arc<dyn Provider>, policy: Policy, hot_cache: bool) -> Self {
        let shared = Arc::new_cyclic(|me: &Weak<Shared>| {
            let home = Home::new(Weak::clone(me) as Weak<dyn Watcher>);
            let table = Arc::new(Table::new());
            let capacity_bytes = provider.capacity_bytes();
            let touches = Arc::new(Touches::default());
            let parts = (Arc::clone(&table), Arc::clone(&touches));
            let index = Index::new(policy, hot_cache, parts, home.id(), capacity_bytes);
            Shared {
                provider,
                policy,
                table,
                touches,
                index: Mutex::new(index),
                home,
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

    /// Returns how many keys from the first on are here without a gap. Counts as no use. Takes no lock.
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

    /// Makes `present` say for each key whether it is here. Counts as no use. Takes no lock.
    pub fn contains_each(&self, keys: &[ChunkKey], present: &mut Vec<bool>) {
        present.clear();
        for keys in keys.chunks(LOOKED_AHEAD) {
            present.extend(self.shared.find_some(keys)[..keys.len()].iter().map(Option::is_some));
        }
    }

    /// Makes `chunks` hold a handle for each key that is here, and counts a use of each. Takes no lock of
    /// the index, but once in [`TOUCHES_MAX`](crate::limits::TOUCHES_MAX) chunks to count their uses.
    pub fn get(&self, keys: &[ChunkKey], chunks: &mut Vec<Option<Chunk>>) {
        chunks.clear();
        for keys in keys.chunks(LOOKED_AHEAD) {
            self.shared.acquire_some(keys, chunks);
        }
        self.shared.count_uses(chunks);
    }

    /// Pins every key that is here, and counts a use of each; returns how many are here. Pins are
    /// counted; each needs its [`unpin`](Self::unpin).
    pub fn pin(&self, keys: &[ChunkKey]) -> usize {
        let mut index = self.shared.locked();
        use_order(index.policy(), keys.len()).filter(|&i| index.pin(keys[i])).count()
    }

    /// Pins the keys from the first on that are here without a gap, and returns how many:
    /// [`contains_run`](Self::contains_run) and [`pin`](Self::pin) in one, with no eviction between.
    pub fn pin_run(&self, keys: &[ChunkKey]) -> usize {
        let mut index = self.shared.locked();
        let n_keys = keys.iter().take_while(|&&key| index.find(key).is_some()).count();
        use_order(index.policy(), n_keys).filter(|&i| index.pin(keys[i])).count()
    }

    /// Takes one pin from every key that is here; returns how many are here. A key without a pin is
    /// left as it is, with a warning.
    pub fn unpin(&self, keys: &[ChunkKey]) -> usize {
        let mut released = Released::default();
        let n_found = {
            let mut index = self.shared.locked();
            keys.iter().filter(|&&key| index.unpin(key, &mut released)).count()
        };
        self.shared.settle(released);
        n_found
    }

    /// Returns how often `key` is pinned, or `None` when it is not here.
    pub fn n_pins(&self, key: ChunkKey) -> Option<u32> {
        self.shared.locked().n_pins(key)
    }

    /// Counts a use of every key that is here.
    pub fn touch(&self, keys: &[ChunkKey]) {
        let mut index = self.shared.locked();
        for i in use_order(index.policy(), keys.len()) {
            index.touch(keys[i]);
        }
    }

    /// Renews the recency of every key that is here without counting a use: as
    /// [`touch`](Self::touch) under LRU and MRU, only among keys used equally often under LFU, not at
    /// all under the others. For keys just stored, so that the head of a prefix outlives its tail.
    pub fn refresh(&self, keys: &[ChunkKey]) {
        let mut index = self.shared.locked();
        for i in use_order(index.policy(), keys.len()) {
            index.refresh(keys[i]);
        }
    }

    /// Allocates a buffer of `size_bytes`, evicting chunks until it fits. Does not wait. When even the eviction of everything unpinned would not make room, nothing is evicted.
    ///
    /// # Errors
    ///
    /// A size of zero or larger than all memory, and a closed tier; these evict nothing.
    pub fn allocate(&self, size_bytes: usize) -> Result<Allocated, AllocateError> {
        let provider = &self.shared.provider;
        let footprint_bytes = provider.footprint_bytes(size_bytes);
        let mut room = Room::new(size_bytes, footprint_bytes);
        loop {
            self.shared.refuse_if_closed(size_bytes)?;
            if let Some(buffer) = BufferMut::allocate(provider, size_bytes)? {
                return Ok(Allocated::Ready(buffer));
            }
            match self.shared.make_room(&mut room) {
                // Most chunks are of one size: what one leaves fits the next, without a way through the pool.
                Ok(left) => {
                    let mut fitting = left.into_iter().map(|left| left.into_buffer(provider, size_bytes));
                    if let Some(buffer) = fitting.find_map(|buffer| buffer) {
                        return Ok(Allocated::Ready(buffer));
                    }
                }
                Err(exhausted) => return Ok(Allocated::Exhausted(exhausted)),
            }
        }
    }

    /// Allocates one buffer per size, all of them or none, as [`allocate`](Self::allocate). The
    /// buffers need not be adjacent.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate); the sum counts for what is too large.
    pub fn allocate_batch(&self, sizes_bytes: &[usize]) -> Result<Allocated<Vec<BufferMut>>, AllocateError> {
        let provider = &self.shared.provider;
        let asked_bytes = sizes_bytes.iter().fold(0, |sum: usize, &size| sum.saturating_add(size));
        let mut room = Room::new(asked_bytes, 0);
        let mut buffers = Vec::with_capacity(sizes_bytes.len());
        loop {
            self.shared.refuse_if_closed(asked_bytes)?;
            let rest = &sizes_bytes[buffers.len()..];
            if rest.is_empty() {
                return Ok(Allocated::Ready(buffers));
            }
            if let Some(fitting) = BufferMut::allocate_batch(provider, rest)? {
                buffers.extend(fitting);
                return Ok(Allocated::Ready(buffers));
            }
            room.footprint_bytes = rest.iter().map(|&size| provider.footprint_bytes(size)).sum();
            let left = match self.shared.make_room(&mut room) {
                Ok(left) => left,
                Err(exhausted) => return Ok(Allocated::Exhausted(exhausted)),
            };
            for left in left {
                if let Some(&size_bytes) = sizes_bytes.get(buffers.len()) {
                    buffers.extend(left.into_buffer(provider, size_bytes));
                }
            }
        }
    }

    /// Registers a waiter that hears when memory has become available here: a buffer was given back,
    /// or a chunk that eviction had found held is held no longer. Make it before the attempt whose
    /// failure it is to wait out.
    pub fn waiter(&self) -> Waiter<'_> {
        self.shared.provider.released().waiter()
    }

    /// Puts a chunk into the index, by reference count. The first chunk of a key stays.
    pub fn insert(&self, chunk: &Chunk) -> Inserted {
        let inserted = self.shared.locked().insert(chunk);
        self.shared.announce_if_new(inserted == Inserted::New);
        inserted
    }

    /// Puts the chunks of a request, given in the order of the prompt, into the index, and makes
    /// `inserted` hold the outcome of each.
    pub fn insert_all(&self, chunks: &[Chunk], inserted: &mut Vec<Inserted>) {
        inserted.clear();
        inserted.resize(chunks.len(), Inserted::CacheOff);
        for chunks in chunks.chunks(LOOKED_AHEAD) {
            // What the searches under the lock begin with, before it is taken.
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

    /// Takes every key that is here out of the index, held or not, and returns how many. Pins on them
    /// are gone; memory that is being read is given back when the last reader drops it.
    pub fn remove(&self, keys: &[ChunkKey]) -> usize {
        let mut index = self.shared.locked();
        let left: Vec<Left> = keys.iter().filter_map(|&key| index.remove(key)).collect();
        drop(index);
        left.len()
    }

    /// Takes every chunk out of the index that is not held.
    pub fn clear(&self) -> Cleared {
        let mut left = Vec::new();
        let mut index = self.shared.locked();
        let cleared = index.clear(&mut left);
        index.evictions.cleared += cleared.chunks;
        drop(index);
        cleared
    }

    /// Switches the hot cache. Switching it off takes out every chunk that is not held, in one step
    /// with the switch; those that are held stay and leave when they are released.
    pub fn set_hot_cache(&self, is_hot: bool) {
        let mut left = Vec::new();
        let mut index = self.shared.locked();
        index.is_hot = is_hot;
        if !is_hot {
            index.evictions.cache_off += index.clear(&mut left).chunks;
        }
        drop(index);
    }

    /// Returns whether the hot cache is on.
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
    /// What does not agree.
    pub fn check(&self) -> Result<(), Inconsistency> {
        self.shared.locked().check()
    }

    /// Empties the tier for good: nothing can be allocated or put any more, and those who wait for
    /// memory are woken to learn it. Memory being read is given back by its readers.
    pub fn close(&self) {
        let mut left = Vec::new();
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.locked().close(&mut left);
        drop(left);
        self.shared.provider.released().notify();
    }
}

/// One allocation's way to its memory.
struct Room {
    size_bytes: usize,
    footprint_bytes: usize,
    has_evicted: bool,
}

impl Room {
    fn new(size_bytes: usize, footprint_bytes: usize) -> Self {
        Self { size_bytes, footprint_bytes, has_evicted: false }
    }
}

impl Shared {
    /// Takes the index's lock, for everything but searching and reading.
    fn locked(&self) -> MutexGuard<'_, Index> {
        let mut index = lock(&self.index);
        index.count_uses();
        index
    }

    #[inline]
    fn find_some(&self, keys: &[ChunkKey]) -> [Option<Slot>; LOOKED_AHEAD] {
        let home = self.home.id();
        let accept = |key, slot| record(slot).is_indexed_as(key, home).then_some(slot);
        self.table.find_some(keys, |slot| u64::from(record(slot).generation()), accept)
    }

    #[inline]
    fn acquire(&self, key: ChunkKey) -> Option<Chunk> {
        let home = self.home.id();
        self.table.find(key, |slot| Chunk::acquire(record(slot), key, home))
    }

    /// Appends a handle, or none, for each of at most [`LOOKED_AHEAD`] keys.
    fn acquire_some(&self, keys: &[ChunkKey], chunks: &mut Vec<Option<Chunk>>) {
        if let [key] = keys {
            return chunks.push(self.acquire(*key));
        }
        // All searches before the first atomic change, across which the processor does not look ahead.
        let slots = self.find_some(keys);
        let home = self.home.id();
        let acquire = |(&slot, &key): (&Option<Slot>, &ChunkKey)| {
            // One that has left meanwhile may have come again in another slot.
            Chunk::acquire(record(slot?), key, home).or_else(|| self.acquire(key))
        };
        chunks.extend(slots.iter().zip(keys).map(acquire));
    }

    /// Counts a use of each chunk of a request, given in the order of the prompt.
    fn count_uses(&self, chunks: &[Option<Chunk>]) {
        match self.policy.a_use() {
            Use::Nothing => {}
            Use::Marks => chunks.iter().flatten().for_each(|chunk| chunk.record().standing.mark()),
            Use::Places => {
                let used = use_order(self.policy, chunks.len()).filter_map(|i| chunks[i].as_ref());
                if self.touches.note(used.map(Chunk::record)) {
                    drop(self.locked());
                }
            }
        }
    }

    fn free_bytes(&self) -> usize {
        self.provider.capacity_bytes().saturating_sub(self.provider.allocated_bytes())
    }

    fn refuse_if_closed(&self, size_bytes: usize) -> Result<(), AllocateError> {
        let is_closed = self.is_closed.load(Ordering::Acquire);
        if is_closed { Err(AllocateError::Closed { size_bytes }) } else { Ok(()) }
    }

    /// Evicts as many chunks as make up for what is not free, or says that there are none: those whose memory
    /// the caller can use or, by dropping them outside the lock, give back. A provider may be anybody's code.
    fn make_room(&self, room: &mut Room) -> Result<Vec<Left>, Exhausted> {
        let free_bytes = self.free_bytes();
        let mut index = self.locked();
        let may_fit =
            room.has_evicted || index.unpinned_bytes().saturating_add(free_bytes) >= room.footprint_bytes;
        let mut left = Vec::new();
        if may_fit {
            // One at least: what is free may be in pieces.
            index.evict(room.footprint_bytes.saturating_sub(free_bytes).max(1), &mut left);
        }
        drop(index);
        room.has_evicted = true;
        if !left.is_empty() {
            return Ok(left);
        }
        self.n_evict_failures.fetch_add(1, Ordering::Relaxed);
        Err(Exhausted {
            size_bytes: room.size_bytes,
            capacity_bytes: self.provider.capacity_bytes(),
            allocated_bytes: self.provider.allocated_bytes(),
        })
    }

    /// Lets those who wait for memory look at a chunk that was not in the index when they last did.
    /// They find it held, by who put it, and hear of its release.
    fn announce_if_new(&self, is_new: bool) {
        if is_new {
            self.provider.released().notify();
        }
    }

    /// Does, outside the lock, what a release calls for.
    fn settle(&self, released: Released) {
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
        self.settle(released);
    }
}

/// The order in which operations on a request's keys count as uses, so that the tail of a prefix is
/// evicted before its head.
fn use_order(policy: Policy, n_keys: usize) -> impl Iterator<Item = usize> {
    let is_head_first = policy == Policy::Mru;
    (0..n_keys).map(move |i| if is_head_first { i } else { n_keys - 1 - i })
}

impl std::fmt::Debug for CpuTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuTier").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wait_tests;
