//! Allocation: a buffer from the provider, or room for one by evicting chunks.

use std::sync::atomic::Ordering;

use super::shared::Shared;
use super::{Allocated, CpuTier, Exhausted};
use crate::chunk::RemovedChunk;
use crate::memory::{AllocateError, BufferMut};

impl CpuTier {
    /// Allocates a buffer of `size_bytes`, and evicts chunks until it fits. Does not wait. If there would be no room
    /// even after the eviction of everything unpinned, nothing is evicted.
    ///
    /// # Errors
    ///
    /// If the size is zero or larger than all memory, or the tier is closed. Then nothing is evicted.
    pub fn allocate(&self, size_bytes: usize) -> Result<Allocated, AllocateError> {
        let provider = &self.shared.provider;
        let footprint_bytes = provider.footprint_bytes(size_bytes);
        let mut room = Room::new(size_bytes, footprint_bytes);
        loop {
            self.shared.refuse_if_closed(size_bytes)?;
            if let Some(buffer) = BufferMut::allocate(provider, size_bytes)? {
                return Ok(Allocated::Ready(buffer));
            }
            match self.shared.make_room(&mut room) {
                // Most chunks are of one size: the buffer of an evicted one fits without a detour through the pool.
                Ok(left) => {
                    let mut fitting = left.into_iter().map(|left| left.into_buffer(provider, size_bytes));
                    if let Some(buffer) = fitting.find_map(|buffer| buffer) {
                        return Ok(Allocated::Ready(buffer));
                    }
                }
                Err(exhausted) => return Ok(Allocated::Exhausted(exhausted)),
            }
        }
    }

    /// Allocates one buffer per size, all of them or none, as [`allocate`](Self::allocate). The buffers need not be
    /// adjacent.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate); the sum of the sizes counts.
    pub fn allocate_batch(&self, sizes_bytes: &[usize]) -> Result<Allocated<Vec<BufferMut>>, AllocateError> {
        let provider = &self.shared.provider;
        let asked_bytes = sizes_bytes.iter().fold(0, |sum: usize, &size| sum.saturating_add(size));
        let mut room = Room::new(asked_bytes, 0);
        let mut buffers = Vec::with_capacity(sizes_bytes.len());
        loop {
            self.shared.refuse_if_closed(asked_bytes)?;
            let rest = &sizes_bytes[buffers.len()..];
            if rest.is_empty() {
                return Ok(Allocated::Ready(buffers));
            }
            if let Some(fitting) = BufferMut::allocate_batch(provider, rest)? {
                buffers.extend(fitting);
                return Ok(Allocated::Ready(buffers));
            }
            room.footprint_bytes = rest.iter().map(|&size| provider.footprint_bytes(size)).sum();
            let left = match self.shared.make_room(&mut room) {
                Ok(left) => left,
                Err(exhausted) => return Ok(Allocated::Exhausted(exhausted)),
            };
            for left in left {
                if let Some(&size_bytes) = sizes_bytes.get(buffers.len()) {
                    buffers.extend(left.into_buffer(provider, size_bytes));
                }
            }
        }
    }
}

/// The progress of one allocation.
struct Room {
    size_bytes: usize,
    footprint_bytes: usize,
    has_evicted: bool,
}

impl Room {
    fn new(size_bytes: usize, footprint_bytes: usize) -> Self {
        Self { size_bytes, footprint_bytes, has_evicted: false }
    }
}

impl Shared {
    fn free_bytes(&self) -> usize {
        self.provider.capacity_bytes().saturating_sub(self.provider.allocated_bytes())
    }

    fn refuse_if_closed(&self, size_bytes: usize) -> Result<(), AllocateError> {
        let is_closed = self.is_closed.load(Ordering::Acquire);
        if is_closed { Err(AllocateError::Closed { size_bytes }) } else { Ok(()) }
    }

    /// Evicts enough chunks to make up for the missing memory. Returns those whose memory the caller can reuse or, by
    /// dropping them outside the lock, release: a provider may run foreign code. Fails if nothing could be evicted.
    fn make_room(&self, room: &mut Room) -> Result<Vec<RemovedChunk>, Exhausted> {
        let free_bytes = self.free_bytes();
        let mut index = self.locked();
        let may_fit =
            room.has_evicted || index.unpinned_bytes().saturating_add(free_bytes) >= room.footprint_bytes;
        let mut left = Vec::new();
        if may_fit {
            // At least one: the free memory may be fragmented.
            index.evict(room.footprint_bytes.saturating_sub(free_bytes).max(1), &mut left);
        }
        drop(index);
        room.has_evicted = true;
        if !left.is_empty() {
            return Ok(left);
        }
        self.n_evict_failures.fetch_add(1, Ordering::Relaxed);
        Err(Exhausted {
            size_bytes: room.size_bytes,
            capacity_bytes: self.provider.capacity_bytes(),
            allocated_bytes: self.provider.allocated_bytes(),
        })
    }
}
