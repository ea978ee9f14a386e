//! Uses that have yet to be counted.
//!
//! Reading a chunk needs no lock of the index, so the uses are noted here, in the order in which they
//! happen, and counted by whoever next takes the index's lock, before anything else. So the order of
//! eviction is the exact one at every moment at which somebody could see it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::chunk::{ChunkRecord, IndexId, Slot, record};
use crate::limits::TOUCHES_MAX;
use crate::sync::lock;

/// One use: a slot, and for which of the slot's chunks it serves.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    pub(super) slot: Slot,
    generation: u32,
}

impl Touch {
    /// Says whether the chunk that was used is still in the index `index_id`.
    pub(super) fn is_current(self, index_id: IndexId) -> bool {
        let record = record(self.slot);
        record.generation() == self.generation && record.is_in(index_id)
    }
}

#[derive(Default)]
pub(super) struct Touches {
    noted: Mutex<Vec<Touch>>,
    /// Their number, so that nobody locks for none.
    n_noted: AtomicUsize,
}

impl Touches {
    /// Notes uses, and says whether they should be counted soon.
    pub(super) fn note(&self, used: impl Iterator<Item = &'static ChunkRecord>) -> bool {
        let mut noted = lock(&self.noted);
        noted.extend(used.map(|record| Touch { slot: record.slot(), generation: record.generation() }));
        self.n_noted.store(noted.len(), Ordering::Relaxed);
        noted.len() >= TOUCHES_MAX
    }

    /// Moves all that are noted into `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut Vec<Touch>) {
        if self.n_noted.load(Ordering::Relaxed) > 0 {
            let mut noted = lock(&self.noted);
            std::mem::swap(&mut *noted, taken);
            self.n_noted.store(0, Ordering::Relaxed);
        }
    }
}
