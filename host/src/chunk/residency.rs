//! What an index notes of a chunk that it has.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What an index notes of a chunk that it has: pins, and the place in the order of eviction. Only read
/// and written under that index's lock, but for [`mark`](Self::mark).
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

/// Bits of `group` that are not the group's number.
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

    /// A small number that stands for the place among the order's structures.
    pub(crate) fn position(&self) -> u32 {
        self.group.load(Ordering::Relaxed) & ((1 << POSITION_BITS) - 1)
    }

    pub(crate) fn set_position(&self, position: u32) {
        self.change((1 << POSITION_BITS) - 1, position);
    }

    /// How often the chunk was used since the policy last looked, up to 3.
    pub(crate) fn marks(&self) -> u32 {
        (self.group.load(Ordering::Relaxed) & MARK_MASK) >> MARK_SHIFT
    }

    pub(crate) fn set_marks(&self, n_marks: u32) {
        self.change(MARK_MASK, n_marks << MARK_SHIFT);
    }

    /// Counts a use, without a lock.
    pub(crate) fn mark(&self) {
        let add = |bits: u32| (bits & MARK_MASK != MARK_MASK).then(|| bits + (1 << MARK_SHIFT));
        // Chunks in much use are at the maximum, and are not written to.
        let _at_maximum = self.group.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err();
    }

    fn change(&self, mask: u32, bits: u32) {
        let set = |old: u32| Some(old & !mask | bits & mask);
        let _always = self.group.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set).is_ok();
    }
}
