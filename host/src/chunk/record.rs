//! Records: what is kept beside a chunk's bytes.
//!
//! Records are type-stable: their memory is recycled for other records and for nothing else. So an
//! index can be searched without a lock. A searcher that comes late finds a record that no index has,
//! or one with another key, never memory that has become something else.
//!
//! Invariant: the content is written by the maker of the first reader, before there is a second, and
//! taken by whoever ends the chunk's [`Life`]; in between it is only read.
#![expect(unsafe_code, reason = "content is shared by a count that the type system does not see")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::content::Content;
use super::life::Life;
use super::residency::Residency;
use super::slot::{IndexId, Slot};
use crate::key::ChunkKey;

/// One chunk's record: all that a search, a reader's coming and going, and the order of eviction look at,
/// in one line of the cache.
#[repr(align(64))]
pub(crate) struct ChunkRecord {
    pub(super) life: Life,
    pub(super) key_hi: AtomicU64,
    pub(super) key_lo: AtomicU64,
    pub(super) content: &'static ContentCell,
    pub(super) slot: Slot,
    /// The index that has the chunk; 0 if none has, or is leaving or entering.
    pub(super) index_id: AtomicU32,
    /// For the index alone.
    pub(crate) residency: Residency,
}

/// Where a record's content lies.
pub(super) struct ContentCell(pub(super) UnsafeCell<Option<Content>>);

const _: () = assert!(size_of::<ChunkRecord>() == 64 && size_of::<ContentCell>() == 48);

// SAFETY: a content is shared for reading while the state of its record counts a reader or an index, and
// moved by one thread before and after (see the module's invariant); it is Send and Sync itself.
unsafe impl Sync for ContentCell {}

impl ChunkRecord {
    pub(super) fn new(slot: Slot, content: &'static ContentCell) -> Self {
        Self {
            life: Life::new(),
            key_hi: AtomicU64::new(0),
            key_lo: AtomicU64::new(0),
            content,
            slot,
            index_id: AtomicU32::new(0),
            residency: Residency::default(),
        }
    }

    /// Returns the chunk's content.
    ///
    /// # Safety
    /// The caller holds the record: as a reader, or as the index that has it, under that index's lock.
    #[inline]
    pub(super) unsafe fn content(&self) -> &Content {
        // SAFETY: while the record is held nobody writes the content.
        match unsafe { &*self.content.0.get() } {
            Some(content) => content,
            None => unreachable!("a record that is held has its content"),
        }
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Returns the chunk's key, if the caller holds the record; else some chunk's key.
    #[inline]
    pub(crate) fn key(&self) -> ChunkKey {
        ChunkKey { hi: self.key_hi.load(Ordering::Relaxed), lo: self.key_lo.load(Ordering::Relaxed) }
    }

    /// Returns for which of its chunks the record serves; see [`Life::generation`].
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.life.generation()
    }

    #[inline]
    pub(super) fn is_named(&self, key: ChunkKey, index_id: IndexId) -> bool {
        self.key() == key && self.index_id.load(Ordering::Relaxed) == index_id.0
    }

    /// Says whether the index `index_id` has the record now, for the chunk `key`. Needs no lock.
    #[inline]
    pub(crate) fn is_indexed_as(&self, key: ChunkKey, index_id: IndexId) -> bool {
        let Some(snapshot) = self.life.snapshot() else { return false };
        self.is_named(key, index_id) && self.life.is_same_chunk(snapshot)
    }

    /// Notes that the index `index_id` has the record, unless one has it already. The caller is a reader.
    pub(super) fn enter(&self, index_id: IndexId) -> bool {
        let is_new = self.life.enter();
        if is_new {
            self.index_id.store(index_id.0, Ordering::Relaxed);
        }
        is_new
    }

    /// Asks for the index to be told when the last reader goes; false if there is none, and nobody will
    /// be told.
    pub(crate) fn watch(&self) -> bool {
        self.life.watch()
    }

    pub(crate) fn unwatch(&self) {
        self.life.unwatch();
    }

    /// Returns how many readers there are.
    #[cfg(test)]
    pub(crate) fn n_readers(&self) -> usize {
        self.life.n_readers()
    }

    /// Says whether the index `index_id` has the record, at this moment.
    pub(crate) fn is_in(&self, index_id: IndexId) -> bool {
        self.life.is_indexed() && self.index_id.load(Ordering::Relaxed) == index_id.0
    }
}
