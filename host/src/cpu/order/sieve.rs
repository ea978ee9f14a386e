//! SIEVE: one list in the order of arrival, and a hand that circles from the oldest entry to the newest. It skips
//! entries that were used since its last visit, and stops at one that was not.
//!
//! # Source
//! Zhang and others, "SIEVE is Simpler than LRU", NSDI 2024, algorithm 1.

use super::list::{List, next};
use super::position::{Position, set_position, unless};
use crate::chunk::{NO_SLOT, Slot, record};

pub(super) struct Sieve {
    list: List,
    /// Where the next search begins; `NO_SLOT` is the oldest entry.
    hand: Slot,
}

impl Sieve {
    pub(super) fn new() -> Self {
        Self { list: List::new(), hand: NO_SLOT }
    }

    pub(super) fn insert(&mut self, slot: Slot) {
        self.list.push_last(slot);
        set_position(slot, Position::Linked);
    }

    pub(super) fn candidate(&mut self) -> Option<Slot> {
        if self.list.is_empty() {
            return None;
        }
        let or_oldest = |slot| if slot == NO_SLOT { self.list.first } else { slot };
        self.hand = or_oldest(self.hand);
        // One round unmarks everything. Entries that are used during the round are marked again, so the loop is
        // bounded.
        for _ in 0..self.list.n_entries {
            let residency = &record(self.hand).residency;
            if residency.marks() == 0 {
                break;
            }
            residency.set_marks(0);
            self.hand = or_oldest(next(self.hand));
        }
        Some(self.hand)
    }

    pub(super) fn detach(&mut self, slot: Slot) {
        if super::position(slot) == Position::Linked {
            if self.hand == slot {
                self.hand = next(slot);
            }
            self.list.unlink(slot);
        }
    }

    pub(super) fn park(&mut self, slot: Slot) {
        self.detach(slot);
        set_position(slot, Position::Parked);
    }

    pub(super) fn unpark(&mut self, slot: Slot) {
        record(slot).residency.set_marks(0);
        self.insert(slot);
    }

    pub(super) fn check(&self) -> Result<usize, String> {
        let slots = self.list.check()?;
        unless(self.hand == NO_SLOT || slots.contains(&self.hand), "the hand points outside the list")?;
        unless(slots.iter().all(|&slot| super::position(slot) == Position::Linked), "an entry is misplaced")?;
        Ok(slots.len())
    }
}
