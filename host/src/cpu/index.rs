//! The index of the CPU tier: which chunks it has, how often they are pinned, and which is evicted next.
//!
//! Everything here runs under the tier's one lock, except searches of the [`Table`]. Nothing here calls foreign code:
//! chunks that leave are returned to the caller, which drops them outside the lock.
//!
//! Invariants: an entry is in the table, in the order and counted in the sums, or in none of them. An entry that is
//! parked in the order is pinned or watched, so that its release is noticed. While the hot cache is off, all remaining
//! entries are parked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hot_cache::HotCache;
use super::order::Order;
use super::policy::EvictionPolicy;
use super::report::{Cleared, Evictions, Inserted};
use super::table::{EXPECTED_MAX, Table};
use super::touches::{Touch, Touches};
use crate::chunk::{Chunk, ChunkRecord, IndexId, RemovedChunk, Sizes, Slot, record, sizes_of_indexed};
use crate::clock::Clock;
use crate::key::ChunkKey;
use crate::log_throttle::LogThrottle;

mod check;
mod evict;
mod holds;
mod sums;

pub(super) use holds::Released;
use holds::{is_held, n_pins};
use sums::Sums;

pub(super) struct Index {
    table: Arc<Table>,
    touches: Arc<Touches>,
    id: IndexId,
    order: Order,
    /// The capacity of the tier's memory.
    capacity_bytes: usize,
    pub(super) is_hot: bool,
    pub(super) is_closed: bool,
    pub(super) sums: Sums,
    pub(super) evictions: Evictions,
    /// A buffer for uses that are taken from the log.
    taken: Vec<Touch>,
    needless_unpins: LogThrottle,
}

impl Index {
    pub(super) fn new(
        policy: EvictionPolicy,
        hot_cache: HotCache,
        (table, touches): (Arc<Table>, Arc<Touches>),
        id: IndexId,
        capacity_bytes: usize,
    ) -> Self {
        Self {
            table,
            id,
            order: Order::new(policy, id),
            touches,
            capacity_bytes,
            is_hot: hot_cache == HotCache::On,
            is_closed: false,
            sums: Sums::default(),
            evictions: Evictions::default(),
            taken: Vec::new(),
            needless_unpins: LogThrottle::new(Clock::system()),
        }
    }

    pub(super) fn find(&self, key: ChunkKey) -> Option<Slot> {
        self.table.find(key, |slot| record(slot).is_indexed_as(key, self.id).then_some(slot))
    }

    /// Counts the uses that readers have noted.
    pub(super) fn count_uses(&mut self) {
        let Self { touches, taken, order, .. } = self;
        touches.take(taken);
        for touch in taken.drain(..) {
            order.apply(touch);
        }
    }

    pub(super) fn touch(&mut self, key: ChunkKey) {
        if let Some(slot) = self.find(key) {
            self.order.touch(slot);
        }
    }

    pub(super) fn refresh(&mut self, key: ChunkKey) {
        if let Some(slot) = self.find(key) {
            self.order.refresh(slot);
        }
    }

    pub(super) fn insert(&mut self, chunk: &Chunk) -> Inserted {
        if !self.is_hot || self.is_closed {
            return Inserted::CacheOff;
        }
        let key = chunk.key();
        if let Some(slot) = self.find(key) {
            self.order.touch(slot);
            return Inserted::Present;
        }
        if !chunk.enter_index(self.id) {
            return Inserted::InAnotherTier;
        }
        let record = chunk.record();
        record.residency.n_pins.store(0, Ordering::Relaxed);
        let sizes = self.sizes(record);
        if self.sums.entries == 0 {
            // Most chunks of a model have the same size.
            let n_expected = self.capacity_bytes / sizes.footprint_bytes.max(1);
            self.table.expect(n_expected);
            self.order.expect(n_expected.min(EXPECTED_MAX));
        }
        self.sums.add(sizes);
        self.order.insert(record.slot());
        self.table.insert(key, record.slot());
        Inserted::New
    }

    /// Returns the memory of all entries that are not pinned, in bytes.
    pub(super) fn unpinned_bytes(&self) -> usize {
        self.sums.unpinned_footprint_bytes()
    }

    /// Takes an entry out and drops its pins. Its readers keep its memory.
    pub(super) fn remove(&mut self, key: ChunkKey) -> Option<RemovedChunk> {
        let slot = self.find(key)?;
        self.evictions.removed += 1;
        self.forget(slot);
        Some(record(slot).leave())
    }

    /// Takes out every entry that is not held.
    pub(super) fn clear(&mut self, left: &mut Vec<RemovedChunk>) -> Cleared {
        let mut cleared = Cleared::default();
        for slot in self.table.slots() {
            let sizes = self.sizes(record(slot));
            if let Some(gone) = self.leave_or_park(slot) {
                cleared.chunks += 1;
                cleared.bytes += sizes.payload_bytes as u64;
                self.order.remove(slot);
                self.uncount(slot, sizes);
                left.push(gone);
            }
        }
        cleared
    }

    /// Takes everything out, held or not.
    pub(super) fn close(&mut self, left: &mut Vec<RemovedChunk>) {
        self.is_closed = true;
        for slot in self.table.slots() {
            self.evictions.closed += 1;
            self.forget(slot);
            left.push(record(slot).leave());
        }
    }

    /// Makes an entry's chunk leave if it is not held; else parks the entry, pinned or watched.
    fn leave_or_park(&mut self, slot: Slot) -> Option<RemovedChunk> {
        if n_pins(slot) == 0
            && let Some(left) = record(slot).leave_if_unread()
        {
            return Some(left);
        }
        self.order.park(slot);
        if is_held(slot) {
            return None;
        }
        // The last reader has gone before it was watched, so no notification will come.
        self.unpark(slot);
        self.leave_or_park(slot)
    }

    fn unpark(&mut self, slot: Slot) {
        record(slot).unwatch();
        self.order.unpark(slot);
    }

    /// Takes an entry out of the order, the table and the sums. Its record still has to leave the index.
    fn forget(&mut self, slot: Slot) {
        let sizes = self.sizes(record(slot));
        self.order.remove(slot);
        self.uncount(slot, sizes);
    }

    /// Takes an entry out of the table and the sums.
    fn uncount(&mut self, slot: Slot, sizes: Sizes) {
        self.table.remove(record(slot).key(), slot);
        self.sums.remove(sizes);
        if n_pins(slot) > 0 {
            self.sums.remove_pinned(sizes);
        }
    }

    #[expect(unsafe_code, reason = "entries are slots, and their sizes stand in their chunks")]
    fn sizes(&self, record: &ChunkRecord) -> Sizes {
        debug_assert!(record.is_in(self.id));
        // SAFETY: only called for entries, and `&self` is reached through the index's lock.
        unsafe { sizes_of_indexed(record) }
    }

    pub(super) fn policy(&self) -> EvictionPolicy {
        self.order.policy()
    }

    /// Returns the number of references to the chunk, including the index's own.
    #[cfg(test)]
    pub(super) fn n_references(&self, key: ChunkKey) -> Option<usize> {
        self.find(key).map(|slot| 1 + record(slot).n_readers())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let mut left = Vec::new();
        self.close(&mut left);
    }
}
