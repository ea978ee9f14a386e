//! The facts that an index keeps about a chunk.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The facts that an index keeps about a chunk: its pins, and its place in the order of eviction. Read and written only
/// under that index's lock, except by [`mark`](Self::mark).
#[derive(Default)]
pub(crate) struct Residency {
    /// When the chunk was placed.
    pub(crate) time: AtomicU64,
    /// Neighbours in a list.
    pub(crate) previous: AtomicU32,
    pub(crate) next: AtomicU32,
    pub(crate) n_pins: AtomicU32,
    /// The list that the chunk is in.
    group: AtomicU32,
}

/// The bits of `group` that hold other facts.
const POSITION_BITS: u32 = 4;
const MARK_SHIFT: u32 = POSITION_BITS;
const MARK_MASK: u32 = 0b11 << MARK_SHIFT;
const GROUP_SHIFT: u32 = 8;

impl Residency {
    /// Groups are numbered below this.
    pub(crate) const GROUPS_MAX: u32 = 1 << (32 - GROUP_SHIFT);

    pub(crate) fn group(&self) -> u32 {
        self.group.load(Ordering::Relaxed) >> GROUP_SHIFT
    }

    pub(crate) fn set_group(&self, group: u32) {
        self.change(u32::MAX << GROUP_SHIFT, group << GROUP_SHIFT);
    }

    /// A small number: the chunk's place among the structures of the order.
    pub(crate) fn position(&self) -> u32 {
        self.group.load(Ordering::Relaxed) & ((1 << POSITION_BITS) - 1)
    }

    pub(crate) fn set_position(&self, position: u32) {
        self.change((1 << POSITION_BITS) - 1, position);
    }

    /// Uses since the policy last looked, at most 3.
    pub(crate) fn marks(&self) -> u32 {
        (self.group.load(Ordering::Relaxed) & MARK_MASK) >> MARK_SHIFT
    }

    pub(crate) fn set_marks(&self, n_marks: u32) {
        self.change(MARK_MASK, n_marks << MARK_SHIFT);
    }

    /// Counts a use, without a lock.
    pub(crate) fn mark(&self) {
        let add = |bits: u32| (bits & MARK_MASK != MARK_MASK).then(|| bits + (1 << MARK_SHIFT));
        // A frequently used chunk is at the maximum, and is not written to.
        let _at_maximum = self.group.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err();
    }

    fn change(&self, mask: u32, bits: u32) {
        let set = |old: u32| Some(old & !mask | bits & mask);
        let _always = self.group.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set).is_ok();
    }
}
