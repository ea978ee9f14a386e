//! Results of the CPU tier's operations.

use crate::memory::BufferMut;

/// The outcome of an allocation that was possible in principle.
#[derive(Debug)]
pub enum Allocated<B = BufferMut> {
    /// The buffer, or for a batch all buffers.
    Ready(B),
    /// At the moment there is no room, and nothing can be evicted.
    Exhausted(Exhausted),
}

/// The state of the tier when an allocation found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room for {size_bytes} bytes: {allocated_bytes} of {capacity_bytes} bytes are in use, and \
     every chunk is pinned or being read; wait for a release or raise max_local_cpu_size"
)]
pub struct Exhausted {
    /// The requested size in bytes; for a batch, the sum.
    pub size_bytes: usize,
    /// All memory, in bytes.
    pub capacity_bytes: usize,
    /// Memory handed out, in bytes.
    pub allocated_bytes: usize,
}

/// The outcome of putting one chunk into the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inserted {
    /// The index has a handle to the chunk now.
    New,
    /// The key was already present. Its chunk stays, and this counts as a use.
    Present,
    /// The hot cache is off or the tier is closed; nothing was kept.
    CacheOff,
    /// Another CPU tier has this chunk in its index; nothing was kept.
    InAnotherTier,
}

/// The chunks that [`CpuTier::clear`](super::CpuTier::clear) took out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Number of chunks.
    pub chunks: u64,
    /// Sum of their payloads, in bytes.
    pub bytes: u64,
}

/// How many chunks have left the index so far, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Evicted by the policy to make room.
    pub pressure: u64,
    /// Removed by key.
    pub removed: u64,
    /// Taken out by `clear`.
    pub cleared: u64,
    /// Taken out because the hot cache was switched off.
    pub cache_off: u64,
    /// Taken out by `close`.
    pub closed: u64,
}

/// The state of a CPU tier at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuStats {
    /// Chunks in the index.
    pub entries: usize,
    /// Sum of their payloads, in bytes.
    pub entry_bytes: usize,
    /// Chunks with at least one pin.
    pub pinned_entries: usize,
    /// Memory handed out, in bytes: the index's chunks, and buffers and chunks that only others hold.
    pub allocated_bytes: usize,
    /// All memory, in bytes.
    pub capacity_bytes: usize,
    /// Chunks that left the index.
    pub evictions: Evictions,
    /// Allocations that found no room and nothing to evict.
    pub evict_failures: u64,
}
