//! Records: the facts about a chunk beside its bytes.
//!
//! A record's memory is only ever reused for another record. An index can therefore be searched without a lock. A late
//! search finds a record that no index has, or one with another key, but never other data.
//!
//! Invariant: the thread that makes the first reader writes the content before there is a second reader, and the thread
//! that ends the chunk's [`Life`] takes it. In between it is only read.
#![expect(unsafe_code, reason = "content is shared by a count that the type system does not see")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::content::Content;
use super::life::Life;
use super::residency::Residency;
use super::slot::{IndexId, Slot};
use crate::key::ChunkKey;

/// The record of one chunk, in one cache line: everything that a search, the count of readers and the order of eviction
/// look at.
#[repr(align(64))]
pub(crate) struct ChunkRecord {
    pub(super) life: Life,
    pub(super) key_hi: AtomicU64,
    pub(super) key_lo: AtomicU64,
    pub(super) content: &'static ContentCell,
    pub(super) slot: Slot,
    /// The index that has the chunk; 0 if none has it, or while one enters or leaves.
    pub(super) index_id: AtomicU32,
    /// Used by the index only.
    pub(crate) residency: Residency,
}

/// The place of a record's content.
pub(super) struct ContentCell(pub(super) UnsafeCell<Option<Content>>);

const _: () = assert!(size_of::<ChunkRecord>() == 64 && size_of::<ContentCell>() == 48);

// SAFETY: a content is shared for reading while the state of its record counts a reader or an index, and moved by one
// thread before and after (see the module's invariant). It is Send and Sync itself.
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
        // SAFETY: while the record is held, no thread writes the content.
        match unsafe { &*self.content.0.get() } {
            Some(content) => content,
            None => unreachable!("a record that is held has its content"),
        }
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Returns the key. Only meaningful while the caller holds the record.
    #[inline]
    pub(crate) fn key(&self) -> ChunkKey {
        ChunkKey { hi: self.key_hi.load(Ordering::Relaxed), lo: self.key_lo.load(Ordering::Relaxed) }
    }

    /// Returns the record's generation; see [`Life::generation`].
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.life.generation()
    }

    #[inline]
    pub(super) fn is_named(&self, key: ChunkKey, index_id: IndexId) -> bool {
        self.key() == key && self.index_id.load(Ordering::Relaxed) == index_id.0
    }

    /// Reports whether the index `index_id` has the record at this moment, for the chunk `key`. Takes no lock.
    #[inline]
    pub(crate) fn is_indexed_as(&self, key: ChunkKey, index_id: IndexId) -> bool {
        let Some(snapshot) = self.life.snapshot() else { return false };
        self.is_named(key, index_id) && self.life.is_same_chunk(snapshot)
    }

    /// Enters the record into the index `index_id`, and reports whether no index had it. The caller is a reader.
    pub(super) fn enter(&self, index_id: IndexId) -> bool {
        let is_new = self.life.enter();
        if is_new {
            self.index_id.store(index_id.0, Ordering::Relaxed);
        }
        is_new
    }

    /// Makes the last reader notify the index when it goes. Reports whether there is a reader; without one
    /// no notification follows.
    pub(crate) fn watch(&self) -> bool {
        self.life.watch()
    }

    pub(crate) fn unwatch(&self) {
        self.life.unwatch();
    }

    /// Returns the number of readers.
    #[cfg(test)]
    pub(crate) fn n_readers(&self) -> usize {
        self.life.n_readers()
    }

    /// Reports whether the index `index_id` has the record at this moment.
    pub(crate) fn is_in(&self, index_id: IndexId) -> bool {
        self.life.is_indexed() && self.index_id.load(Ordering::Relaxed) == index_id.0
    }
}
