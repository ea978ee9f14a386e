//! A writable buffer with one owner.
#![expect(unsafe_code, reason = "turns a provider's memory into slices")]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{AllocateError, MemoryBlock, Provider, ReleaseSignal};

/// Writable memory of a provider with exactly one owner. Returns to the provider when it is dropped.
///
/// The bytes are whatever was there before: memory is reused without being cleared.
pub struct BufferMut {
    block: MemoryBlock,
    provider: Arc<dyn Provider>,
}

impl BufferMut {
    /// Allocates `size_bytes` bytes from `provider`, or returns `None` if there is no room at the moment.
    ///
    /// # Errors
    ///
    /// Those of the provider; see [`AllocateError`].
    pub fn allocate(provider: &Arc<dyn Provider>, size_bytes: usize) -> Result<Option<Self>, AllocateError> {
        let block = provider.allocate(size_bytes)?;
        Ok(block.map(|block| Self { block, provider: Arc::clone(provider) }))
    }

    /// Allocates one buffer per size, all of them or none.
    ///
    /// # Errors
    ///
    /// Those of the provider; see [`AllocateError`].
    pub fn allocate_batch(
        provider: &Arc<dyn Provider>,
        sizes_bytes: &[usize],
    ) -> Result<Option<Vec<Self>>, AllocateError> {
        let mut blocks = Vec::with_capacity(sizes_bytes.len());
        let fits = provider.allocate_batch(sizes_bytes, &mut blocks)?;
        let own = |block| Self { block, provider: Arc::clone(provider) };
        Ok(fits.then(|| blocks.into_iter().map(own).collect()))
    }

    /// Reports whether the memory belongs to `provider`.
    pub(crate) fn is_of(&self, provider: &Arc<dyn Provider>) -> bool {
        Arc::ptr_eq(&self.provider, provider)
    }

    /// Shortens the buffer to `len_bytes` if it is longer. It keeps all of its memory, which returns to the provider as
    /// a whole. Allocates a few bytes on the heap. A shortened buffer no longer counts as its provider's
    /// ([`is_of`](Self::is_of)), so its memory is not used for a chunk of another length.
    pub(crate) fn truncate(&mut self, len_bytes: usize) {
        if len_bytes >= self.block.size_bytes {
            return;
        }
        let shortened = Shortened { whole: self.block, provider: Arc::clone(&self.provider) };
        self.provider = Arc::new(shortened);
        self.block.size_bytes = len_bytes;
    }

    /// Makes a buffer of a block that `provider` has handed out.
    pub(super) fn of(block: MemoryBlock, provider: Arc<dyn Provider>) -> Self {
        Self { block, provider }
    }

    /// Reports whether the memory is lent for one transfer.
    pub(crate) fn is_lent(&self) -> bool {
        self.provider.is_lent()
    }

    /// Returns the size of the provider's memory that the buffer takes, in bytes, including rounding.
    pub fn footprint_bytes(&self) -> usize {
        self.provider.footprint_bytes(self.block.size_bytes)
    }
}

// SAFETY: a provider's memory may be used from any thread, and the buffer is its only user; the
// provider itself is Send + Sync. Shared references only read.
unsafe impl Send for BufferMut {}
// SAFETY: as above.
unsafe impl Sync for BufferMut {}

impl Deref for BufferMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let MemoryBlock { ptr, size_bytes, .. } = self.block;
        // SAFETY: the provider guarantees `size_bytes` initialised bytes at `ptr`, used by no other code until the
        // release in drop.
        unsafe { std::slice::from_raw_parts(ptr.as_ptr(), size_bytes) }
    }
}

impl DerefMut for BufferMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let MemoryBlock { ptr, size_bytes, .. } = self.block;
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr(), size_bytes) }
    }
}

impl Drop for BufferMut {
    fn drop(&mut self) {
        // SAFETY: this provider handed the block out, a buffer owns its block alone, and drop runs once.
        unsafe { self.provider.release(self.block) };
        self.provider.released().notify();
    }
}

/// The provider of one shortened buffer, whose whole memory it releases. A field of `BufferMut` would make every
/// chunk's record larger than a cache line, for a rare case.
#[derive(Debug)]
struct Shortened {
    whole: MemoryBlock,
    provider: Arc<dyn Provider>,
}

// SAFETY: it hands out nothing; the pointer in `whole` only returns to the provider that it came from.
unsafe impl Send for Shortened {}
// SAFETY: as above.
unsafe impl Sync for Shortened {}

// SAFETY: it hands out nothing.
unsafe impl Provider for Shortened {
    fn capacity_bytes(&self) -> usize {
        self.provider.capacity_bytes()
    }

    fn allocated_bytes(&self) -> usize {
        self.provider.allocated_bytes()
    }

    fn footprint_bytes(&self, _: usize) -> usize {
        self.provider.footprint_bytes(self.whole.size_bytes)
    }

    fn allocate(&self, _: usize) -> Result<Option<MemoryBlock>, AllocateError> {
        Ok(None)
    }

    fn allocate_batch(&self, _: &[usize], _: &mut Vec<MemoryBlock>) -> Result<bool, AllocateError> {
        Ok(false)
    }

    unsafe fn release(&self, _: MemoryBlock) {
        // SAFETY: the provider handed `whole` out; the only buffer that has this provider releases it once, in drop.
        unsafe { self.provider.release(self.whole) };
    }

    fn released(&self) -> &ReleaseSignal {
        self.provider.released()
    }

    fn is_lent(&self) -> bool {
        self.provider.is_lent()
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferMut").field("len", &self.len()).finish_non_exhaustive()
    }
}
