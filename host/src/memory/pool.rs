//! kvtier's own memory: one anonymous region, reserved at start and committed when it is touched.
#![expect(unsafe_code, reason = "computes addresses inside the region")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Mutex;

use super::pages::{PAGES_MAX, RunId};
use super::recycler::Recycler;
use super::region::Region;
use super::{
    AllocateError, HUGE_PAGE_BYTES, HugePages, Inconsistency, MemoryBlock, PAGE_BYTES, PoolError,
    PoolOptions, Provider, ReleaseSignal,
};
use crate::sync::lock;

/// A buffer pool over one region of memory at a fixed address.
///
/// Buffers start at multiples of [`PAGE_BYTES`], as DMA and direct I/O require, and take whole pages. The region is
/// reserved without being touched or cleared, unless [`PoolOptions`] ask for it. The system commits a page when it is
/// first written, and a page stays committed. With huge pages, the region starts at a multiple of [`HUGE_PAGE_BYTES`],
/// and chunks of whole huge pages that are all of one size do too. The region is unmapped when the pool and all its
/// buffers and chunks are gone.
pub struct Pool {
    region: Region,
    capacity_bytes: usize,
    options: PoolOptions,
    pages: Mutex<Recycler>,
    released: ReleaseSignal,
}

impl Pool {
    /// Reserves a pool of `capacity_bytes` in ordinary pages. Bytes after the last whole page are never used. Takes
    /// less than a millisecond for any size.
    ///
    /// # Errors
    ///
    /// If the capacity is less than a page or more than 16 TiB, or if the system refuses.
    pub fn new(capacity_bytes: usize) -> Result<Self, PoolError> {
        Self::with_options(capacity_bytes, PoolOptions::default())
    }

    /// Reserves a pool of `capacity_bytes` with `options`. Bytes after the last whole page, or huge page if these are
    /// explicit, are never used.
    ///
    /// Only [`prefault`](PoolOptions::prefault) takes time in proportion to the size. It blocks for that time.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if the system does not grant an option. There is no silent fallback.
    pub fn with_options(capacity_bytes: usize, options: PoolOptions) -> Result<Self, PoolError> {
        let page_bytes = match options.huge_pages {
            HugePages::Explicit => HUGE_PAGE_BYTES,
            HugePages::Off | HugePages::Transparent => PAGE_BYTES,
        };
        let region_bytes = capacity_bytes / page_bytes * page_bytes;
        let n_pages = region_bytes / PAGE_BYTES;
        if n_pages == 0 || n_pages > PAGES_MAX {
            return Err(PoolError::Size { capacity_bytes, page_bytes });
        }
        let region = Region::reserve(region_bytes, options)?;
        let pages = Mutex::new(Recycler::new(n_pages as u32));
        Ok(Self { region, capacity_bytes, options, pages, released: ReleaseSignal::new() })
    }

    /// Returns the options that are in force, which are those that were asked for.
    pub fn options(&self) -> PoolOptions {
        self.options
    }

    /// Returns the address of the region's first byte, for registration with a device or a transport.
    pub fn base_ptr(&self) -> NonNull<u8> {
        self.region.base
    }

    /// Returns the length of the region in bytes: the capacity rounded down to whole pages, or huge pages if these are
    /// explicit.
    pub fn region_bytes(&self) -> usize {
        self.region.n_bytes
    }

    /// Returns the configured capacity in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// Returns the number of bytes that are handed out, in whole pages.
    pub fn allocated_bytes(&self) -> usize {
        let pages = lock(&self.pages);
        (pages.n_total() - pages.n_free()) as usize * PAGE_BYTES
    }

    /// Verifies the allocator's records: free and allocated pages add up to all pages, and no two free runs are
    /// adjacent. Takes time in proportion to the pool, and allocation waits for it.
    ///
    /// # Errors
    ///
    /// The first contradiction.
    pub fn check(&self) -> Result<(), Inconsistency> {
        lock(&self.pages).check()
    }

    fn pages_of(&self, size_bytes: usize) -> Result<u32, AllocateError> {
        let n_pages = size_bytes.div_ceil(PAGE_BYTES);
        if n_pages == 0 {
            return Err(AllocateError::ZeroSize);
        }
        if n_pages > self.region.n_bytes / PAGE_BYTES {
            let capacity_bytes = self.capacity_bytes;
            return Err(AllocateError::TooLarge { size_bytes, capacity_bytes });
        }
        Ok(n_pages as u32)
    }

    fn allocation(&self, start: u32, id: RunId, size_bytes: usize) -> MemoryBlock {
        // SAFETY: the run starts at page `start` of the region, so the address is inside it.
        let ptr = unsafe { self.region.base.add(start as usize * PAGE_BYTES) };
        MemoryBlock { ptr, size_bytes, token: u64::from(id) }
    }
}

// SAFETY: runs lie inside the region and do not overlap (`Pages`); the region is mapped readable and
// writable, anonymous and so initialised, at one address until the pool is dropped.
unsafe impl Provider for Pool {
    fn capacity_bytes(&self) -> usize {
        // Bytes after the last whole page, or huge page, are not part of the pool.
        self.region_bytes()
    }

    fn allocated_bytes(&self) -> usize {
        self.allocated_bytes()
    }

    fn footprint_bytes(&self, size_bytes: usize) -> usize {
        size_bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES)
    }

    fn allocate(&self, size_bytes: usize) -> Result<Option<MemoryBlock>, AllocateError> {
        let n_pages = self.pages_of(size_bytes)?;
        let found = {
            let mut pages = lock(&self.pages);
            pages.allocate(n_pages).map(|id| (pages.start(id), id))
        };
        Ok(found.map(|(start, id)| self.allocation(start, id, size_bytes)))
    }

    fn allocate_batch(
        &self,
        sizes_bytes: &[usize],
        out: &mut Vec<MemoryBlock>,
    ) -> Result<bool, AllocateError> {
        let mut n_pages_all = 0_usize;
        for &size_bytes in sizes_bytes {
            n_pages_all = n_pages_all.saturating_add(self.pages_of(size_bytes)? as usize);
        }
        if n_pages_all > self.region.n_bytes / PAGE_BYTES {
            return Err(AllocateError::TooLarge {
                size_bytes: sizes_bytes.iter().fold(0, |sum, &size| sum.saturating_add(size)),
                capacity_bytes: self.capacity_bytes,
            });
        }
        let mut pages = lock(&self.pages);
        if n_pages_all > pages.n_free() as usize {
            return Ok(false);
        }
        let n_before = out.len();
        for &size_bytes in sizes_bytes {
            let Some(id) = pages.allocate(size_bytes.div_ceil(PAGE_BYTES) as u32) else {
                for allocation in out.drain(n_before..) {
                    pages.free(allocation.token as RunId);
                }
                return Ok(false);
            };
            out.push(self.allocation(pages.start(id), id, size_bytes));
        }
        Ok(true)
    }

    unsafe fn release(&self, allocation: MemoryBlock) {
        lock(&self.pages).free(allocation.token as RunId);
    }

    fn released(&self) -> &ReleaseSignal {
        &self.released
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("capacity_bytes", &self.capacity_bytes).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(miri)))]
mod options_tests;
#[cfg(test)]
mod tests;
