//! Host memory for chunks: who provides it, and how it is handed out and taken back.
//!
//! A [`Provider`] owns memory; a [`BufferMut`] is one piece of it with one owner, and gives it back
//! when it is dropped. [`Pool`] is kvtier's own provider; an embedding runtime can bring another one
//! (memory of a tensor, memory registered with a device), so that an adapter copies nothing.
//!
//! This module knows nothing of keys, tiers or eviction. Invariant: a byte belongs to at most one
//! live buffer, and returns to its provider exactly once.

mod buffer;
mod error;
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
pub use buffer::BufferMut;
pub use error::PoolError;
pub use pool::Pool;
pub use region::{HUGE_PAGE_BYTES, HugePages, PoolOptions};
pub use signal::{ReleaseSignal, Waiter};
#[cfg(not(miri))]
pub(crate) use trim::trim;

#[allow(unused_imports, reason = "until nothing names the old place")]
pub(crate) use crate::sync::lock;

/// The unit of the pool and the alignment of its buffers, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// A piece of a provider's memory, without an owner: the currency between a [`Provider`] and
/// [`BufferMut`]. Dropping it gives nothing back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBlock {
    /// The first byte.
    pub ptr: NonNull<u8>,
    /// The size that was asked for, in bytes.
    pub size_bytes: usize,
    /// The provider's own note, handed back to it on release.
    pub token: u64,
}

/// Hands out host memory and takes it back.
///
/// # Safety
///
/// For every allocation, from the moment it is handed out until it is released, an implementation
/// guarantees that `size_bytes` bytes from `ptr` are mapped, initialised (their values do not matter),
/// valid for reads and writes from any thread, at a fixed address, and touched by nobody but the
/// holder of the allocation.
#[expect(unsafe_code, reason = "the memory an implementation hands out becomes `&mut [u8]`")]
pub unsafe trait Provider: fmt::Debug + Send + Sync + 'static {
    /// Returns the size of all memory of this provider, in bytes.
    fn capacity_bytes(&self) -> usize;

    /// Returns how much of it is handed out at the moment, in bytes, rounding included.
    fn allocated_bytes(&self) -> usize;

    /// Returns how much memory an allocation of `size_bytes` takes, rounding included.
    fn footprint_bytes(&self, size_bytes: usize) -> usize;

    /// Hands out `size_bytes` bytes, or `None` when there is no room at the moment. Never waits.
    ///
    /// # Errors
    ///
    /// See [`AllocateError`]; these do not depend on how full the provider is.
    fn allocate(&self, size_bytes: usize) -> Result<Option<MemoryBlock>, AllocateError>;

    /// Appends one allocation per size to `out` and returns true, or returns false and hands out
    /// nothing. Others must not be able to see part of a batch taken that is then given back: they
    /// would wait for memory that nobody tells them about.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate); nothing is handed out then.
    fn allocate_batch(
        &self,
        sizes_bytes: &[usize],
        out: &mut Vec<MemoryBlock>,
    ) -> Result<bool, AllocateError>;

    /// Takes an allocation back. The holder notifies [`released`](Self::released) afterwards.
    ///
    /// # Safety
    ///
    /// `allocation` was handed out by this provider, is released for the first time, and is not used
    /// again.
    unsafe fn release(&self, allocation: MemoryBlock);

    /// Returns the signal on which those who found no room wait.
    fn released(&self) -> &ReleaseSignal;
}

/// A request for memory that no amount of waiting or eviction can fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// The size was zero, which is a mistake of the caller and never a lack of memory.
    #[error("cannot allocate a buffer of 0 bytes: pass the payload's size in bytes")]
    ZeroSize,
    /// The size is larger than all memory of the provider.
    #[error(
        "cannot allocate {size_bytes} bytes: the pool has {capacity_bytes} bytes in all; raise \
         max_local_cpu_size or lower chunk_size"
    )]
    TooLarge {
        /// What was asked for, in bytes; for a batch, the sum.
        size_bytes: usize,
        /// All memory of the provider, in bytes.
        capacity_bytes: usize,
    },
    /// The tier has been closed.
    #[error("cannot allocate {size_bytes} bytes: the CPU tier is closed")]
    Closed {
        /// What was asked for, in bytes.
        size_bytes: usize,
    },
}

/// A consistency check that failed: kvtier's own books contradict each other.
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
