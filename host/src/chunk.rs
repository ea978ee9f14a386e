//! Chunks: the bytes of one chunk of KV, first writable with one owner, then immutable and shared.
//!
//! [`ChunkWriter`] is the writable state, [`freeze`](ChunkWriter::freeze) ends it, [`Chunk`] is the
//! shared one. Nothing here knows tiers; an index that keeps chunks learns through a [`Watcher`] when
//! the last reader of one is gone.
//!
//! Invariant: once frozen, a chunk's bytes never change, and its memory goes back to the provider
//! when the last handle, reader or index, is dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use bytes::Bytes;

use crate::integrity::Trailer;
use crate::key::ChunkKey;
use crate::limits::HOLDER_TRUST_MAX;
use crate::memory::{BufferMut, lock};

/// A chunk being written: a key and a buffer with one owner.
#[derive(Debug)]
pub struct ChunkWriter {
    key: ChunkKey,
    buffer: BufferMut,
}

impl ChunkWriter {
    /// Starts the chunk `key` in `buffer`, which has exactly the payload's size.
    pub fn new(key: ChunkKey, buffer: BufferMut) -> Self {
        Self { key, buffer }
    }

    /// Returns the chunk's key.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// Makes the bytes as they are now an immutable chunk. Copies nothing; allocates the handle.
    pub fn freeze(self) -> Chunk {
        let payload = Payload {
            key: self.key,
            footprint_bytes: self.buffer.footprint_bytes(),
            buffer: self.buffer,
            trailer: OnceLock::new(),
            holders: Mutex::default(),
            n_readers: AtomicUsize::new(1),
            is_indexed: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            watcher: Mutex::new(None),
        };
        Chunk { payload: Some(Arc::new(payload)) }
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
    /// `None` only inside `drop`, which has to let go of the payload before it tells the watcher.
    payload: Option<Arc<Payload>>,
}

struct Payload {
    key: ChunkKey,
    footprint_bytes: usize,
    buffer: BufferMut,
    trailer: OnceLock<Trailer>,
    holders: Mutex<Holders>,
    /// Handles outside an index. The count of the `Arc` cannot serve: after the decrement that makes
    /// a chunk evictable, `is_watched` has still to be read.
    n_readers: AtomicUsize,
    is_indexed: AtomicBool,
    is_watched: AtomicBool,
    watcher: Mutex<Option<Weak<dyn Watcher>>>,
}

/// The backends that are known to have a chunk: a bit for each, valid for one generation of the chain's
/// removals.
#[derive(Default)]
struct Holders {
    generation: u64,
    backends: u64,
    /// When the first of them was noted: a backend may evict, and says nothing.
    since: Option<Instant>,
}

/// Hears that a chunk which it watches has lost its last reader. Called outside any lock of ours, and
/// after the reader's handle is gone.
pub(crate) trait Watcher: Send + Sync {
    fn last_reader_gone(&self, key: ChunkKey);
}

impl Chunk {
    /// Returns the chunk's key.
    pub fn key(&self) -> ChunkKey {
        self.payload().key
    }

    /// Returns the payload as [`Bytes`] that keep this chunk alive. Copies nothing.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// Returns the memory that the chunk takes, in bytes: its payload rounded up by the provider.
    pub(crate) fn footprint_bytes(&self) -> usize {
        self.payload().footprint_bytes
    }

    /// Returns the chunk's trailer, computed from the payload by `seal` the first time it is asked for.
    /// It lies beside the payload, where no reader of the chunk sees it.
    pub(crate) fn trailer_or_seal(&self, seal: impl FnOnce(&[u8]) -> Trailer) -> &Trailer {
        let payload = self.payload();
        payload.trailer.get_or_init(|| seal(&payload.buffer))
    }

    /// Notes that the backend at `place` of the chain has the chunk, as far as is known at `generation`.
    pub(crate) fn note_holder(&self, place: usize, generation: u64) {
        let mut holders = lock(&self.payload().holders);
        if holders.generation != generation {
            *holders = Holders { generation, backends: 0, since: None };
        }
        let since = *holders.since.get_or_insert_with(Instant::now);
        if since.elapsed() > HOLDER_TRUST_MAX {
            *holders = Holders { generation, backends: 0, since: Some(Instant::now()) };
        }
        holders.backends |= 1_u64.checked_shl(place as u32).unwrap_or(0);
    }

    /// Says whether the backend at `place` is known to have the chunk at `generation`.
    pub(crate) fn has_holder(&self, place: usize, generation: u64) -> bool {
        let holders = lock(&self.payload().holders);
        let bit = 1_u64.checked_shl(place as u32).unwrap_or(0);
        let is_fresh = holders.since.is_some_and(|since| since.elapsed() <= HOLDER_TRUST_MAX);
        is_fresh && holders.generation == generation && holders.backends & bit != 0
    }

    /// Returns the handle under which an index keeps the chunk, or `None` when one has it already.
    pub(crate) fn enter_index(&self) -> Option<IndexedChunk> {
        let payload = self.payload.as_ref()?;
        let was_indexed = payload.is_indexed.swap(true, Ordering::SeqCst);
        (!was_indexed).then(|| IndexedChunk(Arc::clone(payload)))
    }

    #[inline]
    fn payload(&self) -> &Payload {
        match &self.payload {
            Some(payload) => payload,
            None => unreachable!("the payload is taken in drop only"),
        }
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        self.payload().n_readers.fetch_add(1, Ordering::Relaxed);
        Self { payload: self.payload.clone() }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let payload = self.payload();
        // Either this load sees that the chunk is watched, or `IndexedChunk::watch` sees that the last
        // reader is gone: both sides write first and read then, in one total order.
        let was_last = payload.n_readers.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last && payload.is_watched.load(Ordering::SeqCst) {
            let key = payload.key;
            let watcher = lock(&payload.watcher).clone();
            self.payload = None;
            if let Some(watcher) = watcher.and_then(|watcher| watcher.upgrade()) {
                watcher.last_reader_gone(key);
            }
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.payload().buffer
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

/// An index's own handle to a chunk, which does not count as a reader. A chunk is in one index at
/// most. Readers are made from it under the index's lock only, so that under this lock "no reader"
/// stays true.
pub(crate) struct IndexedChunk(Arc<Payload>);

impl IndexedChunk {
    /// Makes a handle for a reader.
    #[inline]
    pub(crate) fn reader(&self) -> Chunk {
        self.0.n_readers.fetch_add(1, Ordering::Relaxed);
        Chunk { payload: Some(Arc::clone(&self.0)) }
    }

    pub(crate) fn has_readers(&self) -> bool {
        self.0.n_readers.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.0.buffer.len()
    }

    pub(crate) fn footprint_bytes(&self) -> usize {
        self.0.footprint_bytes
    }

    /// Asks for `watcher` to be told when the last reader goes. The caller has to look at
    /// [`has_readers`](Self::has_readers) afterwards: if there is none by then, none may be reported.
    pub(crate) fn watch(&self, watcher: &Weak<dyn Watcher>) {
        *lock(&self.0.watcher) = Some(Weak::clone(watcher));
        self.0.is_watched.store(true, Ordering::SeqCst);
    }

    pub(crate) fn unwatch(&self) {
        self.0.is_watched.store(false, Ordering::SeqCst);
    }

    /// Ends the chunk's stay in the index: from now on it may enter one again.
    pub(crate) fn leave_index(&self) {
        self.unwatch();
        self.0.is_indexed.store(false, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn n_references(&self) -> usize {
        Arc::strong_count(&self.0)
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
