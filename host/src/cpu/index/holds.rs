//! Pins and readers, which hold entries, and the consequences of their release.

use std::sync::atomic::Ordering;

use super::Index;
use crate::chunk::{RemovedChunk, Slot, record};
use crate::cpu::order::Order;
use crate::key::ChunkKey;

/// The consequences of a change of pins, to be handled outside the lock.
#[derive(Default)]
pub(in crate::cpu) struct Released {
    /// Entries that left the index.
    pub(in crate::cpu) left: Vec<RemovedChunk>,
    /// More can be evicted than before, so waiters for memory should try again.
    pub(in crate::cpu) may_fit: bool,
}

impl Index {
    /// Adds a pin and counts a use. Reports whether the key is present.
    pub(in crate::cpu) fn pin(&mut self, key: ChunkKey) -> bool {
        let Some(slot) = self.find(key) else {
            return false;
        };
        let pins = &record(slot).residency.n_pins;
        let n_pins = pins.load(Ordering::Relaxed).saturating_add(1);
        pins.store(n_pins, Ordering::Relaxed);
        if n_pins == 1 {
            let sizes = self.sizes(record(slot));
            self.sums.add_pinned(sizes);
        }
        self.order.touch(slot);
        true
    }

    /// Removes a pin. Reports whether the key is present.
    pub(in crate::cpu) fn unpin(&mut self, key: ChunkKey, released: &mut Released) -> bool {
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
            let sizes = self.sizes(record(slot));
            self.sums.remove_pinned(sizes);
            // Even if it is not parked: an allocation may have given up because of the sum of the pins.
            released.may_fit = true;
            self.release(slot, released);
        }
        true
    }

    pub(in crate::cpu) fn n_pins(&self, key: ChunkKey) -> Option<u32> {
        self.find(key).map(n_pins)
    }

    /// Checks an entry after its last reader has gone. By now the slot may not be an entry of this index.
    pub(in crate::cpu) fn last_reader_gone(&mut self, slot: Slot, released: &mut Released) {
        if record(slot).is_in(self.id) {
            self.release(slot, released);
        }
    }

    /// If a parked entry is no longer held, makes it evictable. If the cache has been switched off, takes it out.
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
            // A reader found it in between, and may be gone again.
            self.release(slot, released);
        }
    }
}

pub(super) fn n_pins(slot: Slot) -> u32 {
    record(slot).residency.n_pins.load(Ordering::Relaxed)
}

/// Reports whether an entry is held. If it is, its release will be noticed.
pub(super) fn is_held(slot: Slot) -> bool {
    n_pins(slot) > 0 || record(slot).watch()
}
