//! Doubly linked lists through the records themselves: they need no allocation, and an entry leaves its list without a
//! search. An entry is in at most one list.

use std::sync::atomic::Ordering;

use crate::chunk::{NO_SLOT, Residency, Slot, record};

/// Entries from the oldest to the newest.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) first: Slot,
    pub(super) last: Slot,
    pub(super) n_entries: usize,
}

fn residency(slot: Slot) -> &'static Residency {
    &record(slot).residency
}

pub(super) fn next(slot: Slot) -> Slot {
    residency(slot).next.load(Ordering::Relaxed)
}

impl List {
    pub(super) const fn new() -> Self {
        Self { first: NO_SLOT, last: NO_SLOT, n_entries: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == NO_SLOT
    }

    pub(super) fn push_last(&mut self, slot: Slot) {
        let entry = residency(slot);
        entry.previous.store(self.last, Ordering::Relaxed);
        entry.next.store(NO_SLOT, Ordering::Relaxed);
        if self.last == NO_SLOT {
            self.first = slot;
        } else {
            residency(self.last).next.store(slot, Ordering::Relaxed);
        }
        self.last = slot;
        self.n_entries += 1;
    }

    /// Takes out an entry of this list.
    pub(super) fn unlink(&mut self, slot: Slot) {
        let entry = residency(slot);
        let (previous, next) = (entry.previous.load(Ordering::Relaxed), entry.next.load(Ordering::Relaxed));
        if previous == NO_SLOT {
            self.first = next;
        } else {
            residency(previous).next.store(next, Ordering::Relaxed);
        }
        if next == NO_SLOT {
            self.last = previous;
        } else {
            residency(next).previous.store(previous, Ordering::Relaxed);
        }
        self.n_entries -= 1;
    }

    /// Verifies the links, and returns the entries, oldest first.
    pub(super) fn check(&self) -> Result<Vec<Slot>, String> {
        let (mut slots, mut before, mut slot) = (Vec::new(), NO_SLOT, self.first);
        while slot != NO_SLOT {
            if residency(slot).previous.load(Ordering::Relaxed) != before {
                return Err("a list is not linked both ways".into());
            }
            slots.push(slot);
            (before, slot) = (slot, next(slot));
        }
        if self.last != before || self.n_entries != slots.len() {
            return Err(format!(
                "a list of {} entries has {}, or ends elsewhere",
                self.n_entries,
                slots.len()
            ));
        }
        Ok(slots)
    }
}
