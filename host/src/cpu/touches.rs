//! Uses that have yet to be counted.
//!
//! Reading a chunk needs no lock of the index, so the uses are noted here, in the order in which they
//! happen, and counted by whoever next takes the index's lock, before anything else. So the order of
//! eviction is the exact one at every moment at which somebody could see it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::order::Use;
use crate::chunk::{HomeId, Record, Slot, record};
use crate::limits::TOUCHES_MAX;
use crate::memory::lock;

/// One use: a slot, and what tells this use of it from others: its time, or which of the slot's chunks was
/// used. Half of the time is enough, since no use stays as long as the other half takes to change.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    pub(super) slot: Slot,
    pub(super) stamp: u32,
}

impl Touch {
    /// Says whether the chunk that was used is still in the index `home`, of a use stamped with a generation.
    pub(super) fn is_current(self, home: HomeId) -> bool {
        let record = record(self.slot);
        record.generation() == self.stamp && record.is_in(home)
    }
}

#[derive(Default)]
pub(super) struct Touches {
    noted: Mutex<Noted>,
    /// The number of uses, so that nobody locks for none.
    n_noted: AtomicUsize,
}

#[derive(Default)]
struct Noted {
    touches: Vec<Touch>,
    /// Counts placings.
    clock: u64,
}

impl Touches {
    /// Notes uses, and says whether they should be counted soon.
    pub(super) fn note(&self, a_use: Use, used: impl Iterator<Item = &'static Record>) -> bool {
        let mut noted = lock(&self.noted);
        let Noted { touches, clock } = &mut *noted;
        touches.extend(used.map(|record| {
            let stamp = if a_use == Use::Places {
                *clock += 1;
                record.standing.time.store(*clock, Ordering::Relaxed);
                *clock as u32
            } else {
                record.generation()
            };
            Touch { slot: record.slot(), stamp }
        }));
        self.n_noted.store(touches.len(), Ordering::Relaxed);
        touches.len() >= TOUCHES_MAX
    }

    /// Moves all that are noted into `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut Vec<Touch>) {
        if self.n_noted.load(Ordering::Relaxed) > 0 {
            let mut noted = lock(&self.noted);
            std::mem::swap(&mut noted.touches, taken);
            self.n_noted.store(0, Ordering::Relaxed);
        }
    }
}
