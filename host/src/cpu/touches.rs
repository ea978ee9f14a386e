//! Uses that are not counted yet.
//!
//! Reading a chunk does not take the index's lock. Uses are noted here in their order, and the next thread that takes
//! the index's lock counts them first. So the order of eviction is exact at every moment at which a thread can see it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::chunk::{ChunkRecord, IndexId, Slot, record};
use crate::limits::TOUCHES_MAX;
use crate::sync::lock;

/// One use: a slot, and the generation of the chunk in it.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    pub(super) slot: Slot,
    generation: u32,
}

impl Touch {
    /// Reports whether the chunk that was used is still in the index `index_id`.
    pub(super) fn is_current(self, index_id: IndexId) -> bool {
        let record = record(self.slot);
        record.generation() == self.generation && record.is_in(index_id)
    }
}

#[derive(Default)]
pub(super) struct Touches {
    noted: Mutex<Vec<Touch>>,
    /// Their number, so that no thread locks for none.
    n_noted: AtomicUsize,
}

impl Touches {
    /// Notes uses, and reports whether they should be counted soon.
    pub(super) fn note(&self, used: impl Iterator<Item = &'static ChunkRecord>) -> bool {
        let mut noted = lock(&self.noted);
        noted.extend(used.map(|record| Touch { slot: record.slot(), generation: record.generation() }));
        self.n_noted.store(noted.len(), Ordering::Relaxed);
        noted.len() >= TOUCHES_MAX
    }

    /// Moves all noted uses into `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut Vec<Touch>) {
        if self.n_noted.load(Ordering::Relaxed) > 0 {
            let mut noted = lock(&self.noted);
            std::mem::swap(&mut *noted, taken);
            self.n_noted.store(0, Ordering::Relaxed);
        }
    }
}
