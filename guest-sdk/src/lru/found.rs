//! Puts chunks that a store finds into the order by their age, without sorting them.
//!
//! There may be more of them than a second list has room for. So they are put into classes of about the same age, 64 to
//! each doubling, and if they are few sorted within a class as far as some steps go.

use std::time::Duration;

use super::entry::{Entries, NONE};

/// Classes: 64 doublings of an age in nanoseconds, 64 classes each.
const CLASSES: usize = 1 << 12;
/// Bits of an age that tell entries of a class apart.
const BITS_BELOW: u32 = 18;
/// Found entries lie this far behind the stamps of all others, and less than twice as far.
const BEHIND: u32 = 1 << 30;
/// Steps that are taken to sort within a class, as long as there are not more entries than this: each step is a look at
/// memory far away.
const STEPS_MAX: usize = 64;
const SORTED_MAX: usize = 1 << 14;

pub(super) struct Found {
    /// The clock when it began.
    base: u32,
    /// The youngest entry of each class.
    youngest: Vec<u32>,
}

impl Found {
    /// Returns an empty order, or `None` if there is no memory for it.
    pub(super) fn new(clock: u32) -> Option<Self> {
        let mut youngest = Vec::new();
        youngest.try_reserve_exact(CLASSES).ok()?;
        youngest.resize(CLASSES, NONE);
        Some(Self { base: clock, youngest })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.youngest.capacity() * size_of::<u32>()
    }

    /// Returns the stamp of a chunk that was last used `age` ago.
    pub(super) fn stamp(&self, age: Duration) -> u32 {
        self.base.wrapping_sub(BEHIND + rank(age))
    }

    fn rank_of(&self, stamp: u32) -> Option<u32> {
        let rank = self.base.wrapping_sub(stamp).checked_sub(BEHIND)?;
        (rank < BEHIND).then_some(rank)
    }

    fn class_of(&self, stamp: u32) -> Option<usize> {
        Some((self.rank_of(stamp)? >> BITS_BELOW) as usize)
    }

    /// Returns the entry behind which a found one belongs, and notes it.
    pub(super) fn place<V>(&mut self, entries: &Entries<V>, at: u32) -> u32 {
        let (Some(rank), Some(class)) = (self.rank_of(entries[at].stamp), self.class_of(entries[at].stamp))
        else {
            return NONE;
        };
        let is_older = |other: u32| self.rank_of(entries[other].stamp).is_none_or(|other| other >= rank);
        let youngest = self.youngest[class];
        if youngest == NONE || is_older(youngest) {
            let mut older_classes = self.youngest[class..].iter().copied();
            let older = older_classes.find(|&entry| entry != NONE).unwrap_or(NONE);
            self.youngest[class] = at;
            return older;
        }
        let mut younger = youngest;
        let n_steps = if entries.len() > SORTED_MAX { 0 } else { STEPS_MAX };
        for _ in 0..n_steps {
            let next = entries[younger].older;
            if next == NONE || is_older(next) {
                break;
            }
            younger = next;
        }
        entries[younger].older
    }

    pub(super) fn remove<V>(&mut self, entries: &Entries<V>, at: u32) {
        let Some(class) = self.class_of(entries[at].stamp) else { return };
        if self.youngest[class] == at {
            let older = entries[at].older;
            let is_next = older != NONE && self.class_of(entries[older].stamp) == Some(class);
            self.youngest[class] = if is_next { older } else { NONE };
        }
    }

    pub(super) fn moved<V>(&mut self, entries: &Entries<V>, from: u32, to: u32) {
        let Some(class) = self.class_of(entries[to].stamp) else { return };
        if self.youngest[class] == from {
            self.youngest[class] = to;
        }
    }
}

/// Returns a number of 30 bits that grows with the age: the place of its highest bit, and the 24 bits below.
fn rank(age: Duration) -> u32 {
    let ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX).max(1);
    let highest = ns.ilog2();
    let below = ns << (63 - highest) << 1;
    highest << 24 | (below >> 40) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BEHIND, BITS_BELOW, CLASSES, rank};

    #[test]
    fn ranks_grow_with_ages() {
        let ages = [0, 1, 2, 3, 1000, 1_000_000, 1_000_001, 3_600_000_000_000, 3_600_000_200_000, u64::MAX];
        let ranks: Vec<u32> = ages.iter().map(|&ns| rank(Duration::from_nanos(ns))).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
        assert!(ranks[7] < ranks[8], "an hour is told apart to a few tenths of a millisecond");
        assert!(ranks[9] < BEHIND && (ranks[9] >> BITS_BELOW) as usize == CLASSES - 1);
        assert_eq!(rank(Duration::MAX), ranks[9]);
    }
}
