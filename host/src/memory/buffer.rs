//! A writable buffer with one owner.
#![expect(unsafe_code, reason = "turns a provider's memory into slices")]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{AllocateError, MemoryBlock, Provider};

/// Memory of a provider with exactly one owner, writable; goes back to the provider when dropped.
///
/// The bytes are whatever was there before: memory is recycled without being cleared.
pub struct BufferMut {
    block: MemoryBlock,
    provider: Arc<dyn Provider>,
}

impl BufferMut {
    /// Allocates `size_bytes` bytes from `provider`, or returns `None` when there is no room at the
    /// moment.
    ///
    /// # Errors
    ///
    /// The provider's; see [`AllocateError`].
    pub fn allocate(provider: &Arc<dyn Provider>, size_bytes: usize) -> Result<Option<Self>, AllocateError> {
        let block = provider.allocate(size_bytes)?;
        Ok(block.map(|block| Self { block, provider: Arc::clone(provider) }))
    }

    /// Allocates one buffer per size, all of them or none.
    ///
    /// # Errors
    ///
    /// The provider's; see [`AllocateError`].
    pub fn allocate_batch(
        provider: &Arc<dyn Provider>,
        sizes_bytes: &[usize],
    ) -> Result<Option<Vec<Self>>, AllocateError> {
        let mut blocks = Vec::with_capacity(sizes_bytes.len());
        let fits = provider.allocate_batch(sizes_bytes, &mut blocks)?;
        let own = |block| Self { block, provider: Arc::clone(provider) };
        Ok(fits.then(|| blocks.into_iter().map(own).collect()))
    }

    /// Says whether the memory is `provider`'s.
    pub(crate) fn is_of(&self, provider: &Arc<dyn Provider>) -> bool {
        Arc::ptr_eq(&self.provider, provider)
    }

    /// Returns how much of the provider's memory the buffer takes, in bytes, rounding included.
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
        // SAFETY: the provider guarantees `size_bytes` initialised bytes at `ptr`, used by nobody
        // else until release, which happens in drop.
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
        // SAFETY: this provider handed the block out, a buffer owns its block alone, and
        // drop runs once.
        unsafe { self.provider.release(self.block) };
        self.provider.released().notify();
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferMut").field("len", &self.len()).finish_non_exhaustive()
    }
}
