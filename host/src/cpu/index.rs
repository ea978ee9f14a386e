//! The index of the CPU tier: which chunks are here, how often they are pinned, which goes next.
//!
//! Everything here runs under the tier's one lock, save searches of the [`Table`], and nothing here
//! calls out: chunks that leave are handed to the caller, who drops them outside the lock.
//!
//! Invariants: an entry is in the table, in the order and counted in the sums, or in none of them. An
//! entry that is parked in the order is pinned, or watched, so that its release is heard. While the hot
//! cache is off, every entry that is left is parked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

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

pub(super) struct Index {
    table: Arc<Table>,
    touches: Arc<Touches>,
    id: IndexId,
    order: Order,
    /// Of the tier's memory.
    capacity_bytes: usize,
    pub(super) is_hot: bool,
    pub(super) is_closed: bool,
    pub(super) sums: Sums,
    pub(super) evictions: Evictions,
    /// For uses that are taken from the log.
    taken: Vec<Touch>,
    needless_unpins: LogThrottle,
}

/// Running sums over all entries; footprints are payload sizes rounded up by the provider.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Sums {
    pub(super) entries: usize,
    pub(super) payload_bytes: usize,
    pub(super) footprint_bytes: usize,
    pub(super) pinned_entries: usize,
    pub(super) pinned_footprint_bytes: usize,
}

/// What a change of pins left to be done outside the lock.
#[derive(Default)]
pub(super) struct Released {
    /// Entries that left the index.
    pub(super) left: Vec<RemovedChunk>,
    /// More can be evicted than before, so those who wait for memory should try again.
    pub(super) may_fit: bool,
}

impl Index {
    pub(super) fn new(
        policy: EvictionPolicy,
        is_hot: bool,
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
            is_hot,
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
        let Sizes { payload_bytes, footprint_bytes } = self.sizes(record);
        if self.sums.entries == 0 {
            // Most chunks of a model are alike.
            let n_expected = self.capacity_bytes / footprint_bytes.max(1);
            self.table.expect(n_expected);
            self.order.expect(n_expected.min(EXPECTED_MAX));
        }
        self.sums.entries += 1;
        self.sums.payload_bytes += payload_bytes;
        self.sums.footprint_bytes += footprint_bytes;
        self.order.insert(record.slot());
        self.table.insert(key, record.slot());
        Inserted::New
    }

    /// Adds a pin and counts a use; returns whether the key is here.
    pub(super) fn pin(&mut self, key: ChunkKey) -> bool {
        let Some(slot) = self.find(key) else {
            return false;
        };
        let pins = &record(slot).residency.n_pins;
        let n_pins = pins.load(Ordering::Relaxed).saturating_add(1);
        pins.store(n_pins, Ordering::Relaxed);
        if n_pins == 1 {
            self.sums.pinned_entries += 1;
            self.sums.pinned_footprint_bytes += self.sizes(record(slot)).footprint_bytes;
        }
        self.order.touch(slot);
        true
    }

    /// Takes a pin away; returns whether the key is here.
    pub(super) fn unpin(&mut self, key: ChunkKey, released: &mut Released) -> bool {
        let Some(slot) = self.find(key) else {
            return false;
        };
        let pins = &record(slot).residency.n_pins;
        let Some(n_pins) = pins.load(Ordering::Relaxed).checked_sub(1) else {
            if let Some(n_more) = self.needless_unpins.due() {
                tracing::warn!(%key, n_more, "unpin of a chunk that is not pinned: it was unpinned twice");
            }
            return true;
        };
        pins.store(n_pins, Ordering::Relaxed);
        if n_pins == 0 {
            self.sums.pinned_entries -= 1;
            self.sums.pinned_footprint_bytes -= self.sizes(record(slot)).footprint_bytes;
            // Parked or not: an allocation may have given up because of the sum of the pins.
            released.may_fit = true;
            self.release(slot, released);
        }
        true
    }

    pub(super) fn n_pins(&self, key: ChunkKey) -> Option<u32> {
        self.find(key).map(n_pins)
    }

    /// Looks again at an entry whose last reader is gone; or at one that is none of ours any more.
    pub(super) fn last_reader_gone(&mut self, slot: Slot, released: &mut Released) {
        if record(slot).is_in(self.id) {
            self.release(slot, released);
        }
    }

    /// If an entry that was found held is so no longer, makes it evictable, or takes it out when the
    /// cache was switched off meanwhile.
    fn release(&mut self, slot: Slot, released: &mut Released) {
        if !Order::is_parked(slot) || is_held(slot) {
            return;
        }
        let sizes = self.sizes(record(slot));
        if self.is_hot {
            self.unpark(slot);
            released.may_fit = true;
        } else if let Some(left) = record(slot).leave_if_unread() {
            self.evictions.cache_off += 1;
            self.order.remove(slot);
            self.uncount(slot, sizes);
            released.left.push(left);
        } else {
            // Somebody found it meanwhile, and may be gone again.
            self.release(slot, released);
        }
    }

    /// Returns the memory of all entries that are not pinned, in bytes.
    pub(super) fn unpinned_bytes(&self) -> usize {
        self.sums.footprint_bytes - self.sums.pinned_footprint_bytes
    }

    /// Takes an entry out, drops its pins, and leaves its memory to its readers.
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

    /// Lets an entry go if nobody holds it; else parks it, pinned or watched.
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
        // The last reader has gone before it was watched, and nobody reports it.
        self.unpark(slot);
        self.leave_or_park(slot)
    }

    fn unpark(&mut self, slot: Slot) {
        record(slot).unwatch();
        self.order.unpark(slot);
    }

    /// Takes an entry out of all books. It has not left yet.
    fn forget(&mut self, slot: Slot) {
        let sizes = self.sizes(record(slot));
        self.order.remove(slot);
        self.uncount(slot, sizes);
    }

    /// Takes an entry out of the table and the sums.
    fn uncount(&mut self, slot: Slot, Sizes { payload_bytes, footprint_bytes }: Sizes) {
        self.table.remove(record(slot).key(), slot);
        self.sums.entries -= 1;
        self.sums.payload_bytes -= payload_bytes;
        self.sums.footprint_bytes -= footprint_bytes;
        if n_pins(slot) > 0 {
            self.sums.pinned_entries -= 1;
            self.sums.pinned_footprint_bytes -= footprint_bytes;
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

    /// Returns how many references there are to the chunk, the index's own included.
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

fn n_pins(slot: Slot) -> u32 {
    record(slot).residency.n_pins.load(Ordering::Relaxed)
}

/// Says whether an entry is held. If it is, its release will be heard.
fn is_held(slot: Slot) -> bool {
    n_pins(slot) > 0 || record(slot).watch()
}
