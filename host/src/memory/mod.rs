//! Host memory for chunks: its providers, and how it is allocated and returned.
//!
//! A [`Provider`] owns memory. A [`BufferMut`] is one piece of it with one owner, and returns it when it is dropped.
//! [`Pool`] is kvtier's own provider. An embedding runtime can supply another (memory of a tensor, memory registered
//! with a device), so that an adapter copies nothing.
//!
//! This module does not know keys, tiers or eviction. Invariant: a byte belongs to at most one live buffer, and returns
//! to its provider exactly once.

mod absent;
mod buffer;
mod error;
mod lent;
#[cfg(all(test, not(miri)))]
mod mix;
#[cfg(all(test, not(miri)))]
mod mix_tests;
mod pages;
mod pool;
mod recycler;
mod region;
mod signal;
#[cfg(not(miri))]
mod trim;

use std::fmt;
use std::ptr::NonNull;

pub use crate::chunk::ChunkWriter;
pub(crate) use absent::Absent;
pub use buffer::BufferMut;
pub use error::PoolError;
pub use pool::Pool;
pub use region::{HugePages, PoolOptions};
pub use signal::{ReleaseSignal, Waiter};
#[cfg(not(miri))]
pub(crate) use trim::trim;

/// The unit of the pool and the alignment of its buffers, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// The size of a huge page, and the alignment of a region that has them, in bytes.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A piece of a provider's memory without an owner, exchanged between a [`Provider`] and [`BufferMut`]. Dropping it
/// returns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBlock {
    /// The first byte.
    pub ptr: NonNull<u8>,
    /// The requested size in bytes.
    pub size_bytes: usize,
    /// The provider's own note, which it gets back on release.
    pub token: u64,
}

/// Allocates and releases host memory.
///
/// # Safety
///
/// For every allocation, from the moment it is handed out until it is released, an implementation guarantees that
/// `size_bytes` bytes from `ptr` are mapped, initialised (with any values), valid for reads and writes from any thread,
/// at a fixed address, and touched only by the holder of the allocation.
#[expect(unsafe_code, reason = "the memory an implementation hands out becomes `&mut [u8]`")]
pub unsafe trait Provider: fmt::Debug + Send + Sync + 'static {
    /// Returns the size of all memory of this provider in bytes.
    fn capacity_bytes(&self) -> usize;

    /// Returns the size of the memory that is handed out at the moment, in bytes, including rounding.
    fn allocated_bytes(&self) -> usize;

    /// Returns the size of the memory that an allocation of `size_bytes` takes, in bytes, including rounding.
    fn footprint_bytes(&self, size_bytes: usize) -> usize;

    /// Allocates `size_bytes` bytes, or returns `None` if there is no room at the moment. Never waits.
    ///
    /// # Errors
    ///
    /// See [`AllocateError`]. The errors do not depend on how full the provider is.
    fn allocate(&self, size_bytes: usize) -> Result<Option<MemoryBlock>, AllocateError>;

    /// Appends one allocation per size to `out` and returns true, or allocates nothing and returns false. Other callers
    /// must not see a part of the batch taken and then returned: they would wait for memory without a notification.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate); then nothing is allocated.
    fn allocate_batch(
        &self,
        sizes_bytes: &[usize],
        out: &mut Vec<MemoryBlock>,
    ) -> Result<bool, AllocateError>;

    /// Releases an allocation. The holder notifies [`released`](Self::released) afterwards.
    ///
    /// # Safety
    ///
    /// `allocation` is of this provider, it is released for the first time, and is not used again.
    unsafe fn release(&self, allocation: MemoryBlock);

    /// Returns the signal for callers that wait for memory.
    fn released(&self) -> &ReleaseSignal;

    /// Reports whether the memory is lent for single transfers, as by [`BufferMut::lend`]. The CPU tier does not keep
    /// chunks of such memory.
    fn is_lent(&self) -> bool {
        false
    }
}

/// A request for memory that no waiting and no eviction can fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// The size was zero: a mistake of the caller, never a lack of memory.
    #[error("cannot allocate a buffer of 0 bytes: pass the payload's size in bytes")]
    ZeroSize,
    /// The size is larger than all memory of the provider.
    #[error(
        "cannot allocate {size_bytes} bytes: the pool has {capacity_bytes} bytes in all; raise \
         max_local_cpu_size or lower chunk_size"
    )]
    TooLarge {
        /// The requested size in bytes; for a batch, the sum.
        size_bytes: usize,
        /// All memory of the provider, in bytes.
        capacity_bytes: usize,
    },
    /// The engine was built without a CPU tier, so it has no memory.
    #[error(
        "cannot allocate {size_bytes} bytes: the engine has no CPU tier; lend memory for each transfer, or build the \
         engine with a CPU tier"
    )]
    WithoutCpuTier {
        /// The requested size in bytes.
        size_bytes: usize,
    },
    /// The size is larger than the engine's chunks can be.
    #[error(
        "cannot allocate {size_bytes} bytes: the engine was built for chunks of at most {chunk_bytes_max} bytes; raise \
         chunk_bytes_max"
    )]
    LargerThanChunks {
        /// The requested size in bytes.
        size_bytes: usize,
        /// The size of the largest chunk in bytes.
        chunk_bytes_max: usize,
    },
    /// The tier has been closed.
    #[error("cannot allocate {size_bytes} bytes: the CPU tier is closed")]
    Closed {
        /// The requested size in bytes.
        size_bytes: usize,
    },
}

/// A failed consistency check: kvtier's own records contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("inconsistent {what}: {detail}; this is a defect of kvtier, please report it")]
pub struct Inconsistency {
    what: &'static str,
    detail: String,
}

impl Inconsistency {
    /// Fails with `detail` unless `holds`.
    pub(crate) fn unless(
        holds: bool,
        what: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { what, detail: detail() }) }
    }
}
