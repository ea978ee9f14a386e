//! Memory that an embedder lends for single transfers.
#![expect(unsafe_code, reason = "makes a buffer of an embedder's memory")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::{AllocateError, BufferMut, MemoryBlock, Provider, ReleaseSignal};
use crate::sync::lock;

impl BufferMut {
    /// Makes a buffer of memory that belongs to someone else, for one put or one fetch: no byte is copied. The CPU tier
    /// never keeps a chunk of lent memory, whichever tiers an operation names.
    ///
    /// `owner` keeps the memory alive. It is dropped exactly once, from any thread, when the last reader, transfer or
    /// handle of the memory is gone, and not before: a call that has expired may still be moving bytes when its caller
    /// has long had its answer. Its destructor must not wait, since kvtier's own threads run it.
    ///
    /// # Safety
    ///
    /// Until `owner` is dropped, `len_bytes` bytes from `ptr` are mapped, initialised (with any values) and at a fixed
    /// address; any thread may read them, and write them as long as this is a buffer and not yet a chunk. Nobody else
    /// writes them, and while this is a buffer, nobody else reads them.
    pub unsafe fn lend(ptr: NonNull<u8>, len_bytes: usize, owner: impl Send + 'static) -> Self {
        let lent =
            Lent { len_bytes, owner: Mutex::new(Some(Box::new(owner))), released: ReleaseSignal::new() };
        Self::of(MemoryBlock { ptr, size_bytes: len_bytes, token: 0 }, Arc::new(lent))
    }
}

/// The provider of one lent buffer: it hands out nothing, and drops the memory's owner when the buffer comes back.
struct Lent {
    len_bytes: usize,
    owner: Mutex<Option<Box<dyn Send>>>,
    released: ReleaseSignal,
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}

// SAFETY: hands nothing out. The one block that comes back is the one that `BufferMut::lend` vouches for.
unsafe impl Provider for Lent {
    fn capacity_bytes(&self) -> usize {
        self.len_bytes
    }

    fn allocated_bytes(&self) -> usize {
        self.len_bytes
    }

    fn footprint_bytes(&self, _: usize) -> usize {
        self.len_bytes
    }

    fn allocate(&self, _: usize) -> Result<Option<MemoryBlock>, AllocateError> {
        Ok(None)
    }

    fn allocate_batch(&self, _: &[usize], _: &mut Vec<MemoryBlock>) -> Result<bool, AllocateError> {
        Ok(false)
    }

    unsafe fn release(&self, _: MemoryBlock) {
        // Dropped outside the lock, since the destructor is the embedder's.
        let owner = lock(&self.owner).take();
        drop(owner);
    }

    fn released(&self) -> &ReleaseSignal {
        &self.released
    }

    fn is_lent(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::chunk::ChunkWriter;
    use crate::key::ChunkKey;

    const KEY: ChunkKey = ChunkKey { hi: 1, lo: 2 };

    /// Owns memory, and counts its drops.
    struct Owner {
        bytes: Box<[u8]>,
        n_drops: Arc<AtomicUsize>,
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            self.n_drops.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn lend(bytes: &[u8]) -> (BufferMut, Arc<AtomicUsize>) {
        let n_drops = Arc::<AtomicUsize>::default();
        let mut owner = Owner { bytes: bytes.into(), n_drops: Arc::clone(&n_drops) };
        let (ptr, len) = (NonNull::from(&mut *owner.bytes).cast(), bytes.len());
        // SAFETY: the owner has the memory on the heap, and nothing else uses it.
        (unsafe { BufferMut::lend(ptr, len, owner) }, n_drops)
    }

    #[test]
    fn lent_memory_is_used_in_place_and_its_owner_dropped_once_with_the_last_handle() {
        let (buffer, n_drops) = lend(b"payload");
        let address = buffer.as_ptr();
        let chunk = ChunkWriter::new(KEY, buffer).freeze();
        assert!(chunk.is_lent());
        assert_eq!((chunk.as_ptr(), &chunk[..]), (address, &b"payload"[..]));
        let bytes = chunk.to_bytes();
        drop(chunk);
        assert_eq!(n_drops.load(Ordering::SeqCst), 0, "a reader is left");
        std::thread::spawn(move || drop(bytes)).join().unwrap();
        assert_eq!(n_drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_buffer_that_never_becomes_a_chunk_gives_its_memory_back_too() {
        let (mut buffer, n_drops) = lend(b"payload");
        buffer.truncate(3);
        assert!(buffer.is_lent(), "also when it is shortened");
        drop(buffer);
        assert_eq!(n_drops.load(Ordering::SeqCst), 1);
    }
}
