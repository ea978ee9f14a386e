//! Chunks: the KV bytes of one chunk, first writable with one owner, then immutable and shared.
//!
//! [`ChunkWriter`] is the writable state, [`freeze`](ChunkWriter::freeze) ends it, and [`Chunk`] is the shared state.
//! This module does not know tiers. A `Watcher` notifies an index when the last reader of a chunk is gone.
//!
//! Invariant: the bytes of a frozen chunk never change, and its memory returns to the provider when the last handle, of
//! a reader or of an index, is dropped.

mod arena;
mod content;
mod life;
mod ownership;
mod record;
mod registration;
mod residency;
mod slot;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use bytes::Bytes;
use once_cell::race::OnceBox;

pub(crate) use arena::record;
pub(crate) use content::Sizes;
use content::{Content, KnownBackends};
pub(crate) use ownership::RemovedChunk;
pub(crate) use record::ChunkRecord;
pub(crate) use registration::{IndexRegistration, Watcher};
pub(crate) use residency::Residency;
pub(crate) use slot::{IndexId, NO_SLOT, Slot};

use crate::integrity::Trailer;
use crate::key::ChunkKey;
use crate::limits::PRESENCE_AGE_MAX;
use crate::memory::BufferMut;
use crate::sync::lock;

/// A chunk being written: a key and a buffer with one owner.
#[derive(Debug)]
pub struct ChunkWriter {
    key: ChunkKey,
    buffer: BufferMut,
}

impl ChunkWriter {
    /// Starts the chunk `key` in `buffer`, which has the payload's size. For a fetch, it may be larger.
    pub fn new(key: ChunkKey, buffer: BufferMut) -> Self {
        Self { key, buffer }
    }

    /// Returns the chunk's key.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// Ends the chunk after `len_bytes` of its buffer. The rest of the memory stays with the chunk.
    pub(crate) fn truncate(&mut self, len_bytes: usize) {
        self.buffer.truncate(len_bytes);
    }

    /// Makes the bytes an immutable chunk. Copies nothing.
    pub fn freeze(self) -> Chunk {
        let content = Content { buffer: self.buffer, notes: OnceBox::new() };
        Chunk { record: ChunkRecord::open(self.key, content) }
    }
}

impl Deref for ChunkWriter {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for ChunkWriter {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

/// An immutable chunk: a handle to bytes that all clones share. Cloning copies and allocates nothing.
pub struct Chunk {
    /// Counts this handle as a reader.
    record: &'static ChunkRecord,
}

impl Chunk {
    /// Returns the chunk's key.
    pub fn key(&self) -> ChunkKey {
        self.record.key()
    }

    /// Returns the payload as [`Bytes`] that keep this chunk alive. Copies nothing.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// Returns a handle to the chunk `key` if the index `index_id` has it in `record` at this moment. Takes no lock.
    #[inline]
    pub(crate) fn acquire(record: &'static ChunkRecord, key: ChunkKey, index_id: IndexId) -> Option<Self> {
        record.acquire(key, index_id).then(|| Self { record })
    }

    /// Enters the chunk into the index `index_id`, and reports whether no index had it.
    pub(crate) fn enter_index(&self, index_id: IndexId) -> bool {
        self.record.enter(index_id)
    }

    #[inline]
    pub(crate) fn record(&self) -> &'static ChunkRecord {
        self.record
    }

    /// Reports whether the chunk's memory is lent for one transfer, so that no index may keep it.
    pub(crate) fn is_lent(&self) -> bool {
        self.content().buffer.is_lent()
    }

    /// Returns the size of the chunk's memory in bytes: the payload, rounded up by the provider.
    pub(crate) fn footprint_bytes(&self) -> usize {
        self.content().sizes().footprint_bytes
    }

    /// Returns the chunk's trailer. `seal` computes it from the payload the first time. It is stored beside the
    /// payload, where no reader of the chunk sees it.
    pub(crate) fn trailer_or_seal(&self, seal: impl FnOnce(&[u8]) -> Trailer) -> &Trailer {
        let content = self.content();
        content.notes().trailer.get_or_init(|| seal(&content.buffer))
    }

    /// Returns the chunk's trailer if it is known.
    pub(crate) fn trailer(&self) -> Option<&Trailer> {
        self.content().notes.get()?.trailer.get()
    }

    /// Notes that the backend at `place` of the chain has the chunk at `generation`.
    pub(crate) fn note_stored_in(&self, place: usize, generation: u64) {
        let mut known = lock(&self.content().notes().known_backends);
        if known.generation != generation {
            *known = KnownBackends { generation, backends: 0, since: None };
        }
        let since = *known.since.get_or_insert_with(Instant::now);
        if since.elapsed() > PRESENCE_AGE_MAX {
            *known = KnownBackends { generation, backends: 0, since: Some(Instant::now()) };
        }
        known.backends |= 1_u64.checked_shl(place as u32).unwrap_or(0);
    }

    /// Reports whether the backend at `place` is known to have the chunk at `generation`.
    pub(crate) fn is_stored_in(&self, place: usize, generation: u64) -> bool {
        let Some(notes) = self.content().notes.get() else { return false };
        let known = lock(&notes.known_backends);
        let bit = 1_u64.checked_shl(place as u32).unwrap_or(0);
        let is_fresh = known.since.is_some_and(|since| since.elapsed() <= PRESENCE_AGE_MAX);
        is_fresh && known.generation == generation && known.backends & bit != 0
    }

    #[inline]
    #[expect(unsafe_code, reason = "the handle is what makes the content readable")]
    fn content(&self) -> &Content {
        // SAFETY: this handle is one of the record's readers until it drops.
        unsafe { self.record.content() }
    }
}

/// Returns the sizes of a chunk that an index has.
///
/// # Safety
/// The caller holds the lock of the index that has the record.
#[expect(unsafe_code, reason = "an index keeps slots, not handles")]
pub(crate) unsafe fn sizes_of_indexed(record: &ChunkRecord) -> Sizes {
    // SAFETY: an index that has the record holds it, and releases it only under its lock.
    unsafe { record.content() }.sizes()
}

impl Clone for Chunk {
    #[inline]
    fn clone(&self) -> Self {
        self.record.share();
        Self { record: self.record }
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        self.record.release();
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.content().buffer
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("key", &self.key()).field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Chunk, ChunkWriter};
    use crate::key::ChunkKey;
    use crate::memory::{BufferMut, PAGE_BYTES, Pool, Provider};

    const KEY: ChunkKey = ChunkKey { hi: 1, lo: 2 };

    fn pool() -> Arc<dyn Provider> {
        Arc::new(Pool::new(4 * PAGE_BYTES).unwrap())
    }

    fn chunk(pool: &Arc<dyn Provider>, payload: &[u8]) -> Chunk {
        let buffer = BufferMut::allocate(pool, payload.len()).unwrap().unwrap();
        let mut writer = ChunkWriter::new(KEY, buffer);
        writer.copy_from_slice(payload);
        writer.freeze()
    }

    #[test]
    fn freeze_and_bytes_share_the_memory_that_was_written() {
        let pool = pool();
        let chunk = chunk(&pool, b"some kv");
        let address = chunk.as_ptr();
        let bytes = chunk.to_bytes();
        assert_eq!((chunk.key(), chunk.len(), &*chunk), (KEY, 7, &b"some kv"[..]));
        assert_eq!((bytes.as_ptr(), chunk.clone().as_ptr()), (address, address));
        drop(chunk);
        assert_eq!(&bytes[..], b"some kv");
        assert_eq!(pool.allocated_bytes(), PAGE_BYTES);
        drop(bytes);
        assert_eq!(pool.allocated_bytes(), 0);
    }

    #[test]
    fn the_trailer_is_computed_once_and_no_reader_sees_it() {
        let pool = pool();
        let chunk = chunk(&pool, b"payload");
        let seal = |payload: &[u8]| [payload[0]; 64];
        assert_eq!(chunk.trailer_or_seal(seal), &[b'p'; 64]);
        let again = chunk.clone();
        assert_eq!(again.trailer_or_seal(|_| unreachable!("sealed already")), &[b'p'; 64]);
        assert_eq!(&*again, b"payload");
    }

    #[test]
    fn handles_are_owned_and_cross_threads() {
        fn assert_owned<T: Clone + Send + Sync + 'static>(_: &T) {}
        let pool = pool();
        let chunk = chunk(&pool, b"x");
        assert_owned(&chunk);
        let there = std::thread::spawn(move || chunk[0]).join().unwrap();
        assert_eq!((there, pool.allocated_bytes()), (b'x', 0));
    }

    #[test]
    fn debug_prints_the_length_and_not_the_bytes() {
        let pool = pool();
        let text = format!("{:?}", chunk(&pool, b"secret"));
        assert_eq!(text, "Chunk { key: 00000000000000010000000000000002, len: 6 }");
    }
}
