//! kvtier's own memory: one anonymous region, reserved at start, committed as it is touched.
#![expect(unsafe_code, reason = "maps memory and computes addresses inside it")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Mutex;

use super::pages::{PAGES_MAX, RunId};
use super::recycler::Recycler;
use super::{AllocateError, Allocation, Inconsistency, PAGE_BYTES, Provider, ReleaseSignal, lock};

/// A buffer pool over one region of memory at a fixed address.
///
/// Buffers start at multiples of [`PAGE_BYTES`] and take whole pages. The region is reserved without
/// being touched or cleared; the system commits a page when it is first written, and a page stays
/// committed. The region is unmapped when the pool and all buffers and chunks in it are gone.
pub struct Pool {
    region: Region,
    capacity_bytes: usize,
    pages: Mutex<Recycler>,
    released: ReleaseSignal,
}

impl Pool {
    /// Reserves a pool of `capacity_bytes`; what is beyond the last whole page is never used.
    ///
    /// # Errors
    ///
    /// A capacity of less than a page or more than 16 TiB, and what the system answers.
    pub fn new(capacity_bytes: usize) -> Result<Self, PoolError> {
        let n_pages = capacity_bytes / PAGE_BYTES;
        if n_pages == 0 || n_pages > PAGES_MAX {
            return Err(PoolError::Size { capacity_bytes });
        }
        let region = Region::reserve(n_pages * PAGE_BYTES)
            .map_err(|source| PoolError::Reserve { capacity_bytes, source })?;
        let pages = Mutex::new(Recycler::new(n_pages as u32));
        Ok(Self { region, capacity_bytes, pages, released: ReleaseSignal::new() })
    }

    /// Returns the address of the region's first byte, for registration with a device or a transport.
    pub fn base_ptr(&self) -> NonNull<u8> {
        self.region.base
    }

    /// Returns the length of the region in bytes: the capacity rounded down to whole pages.
    pub fn region_bytes(&self) -> usize {
        self.region.n_bytes
    }

    /// Returns the capacity as configured, in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// Returns how many bytes are handed out, in whole pages.
    pub fn allocated_bytes(&self) -> usize {
        let pages = lock(&self.pages);
        (pages.n_total() - pages.n_free()) as usize * PAGE_BYTES
    }

    /// Verifies the allocator's books: free and allocated pages add up to all pages, and no two free
    /// runs are adjacent. Takes time in proportion to the pool and stops allocation meanwhile.
    ///
    /// # Errors
    ///
    /// What does not agree.
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

    fn allocation(&self, start: u32, id: RunId, size_bytes: usize) -> Allocation {
        // SAFETY: the run starts at page `start` of the region, so the address is inside it.
        let ptr = unsafe { self.region.base.add(start as usize * PAGE_BYTES) };
        Allocation { ptr, size_bytes, token: u64::from(id) }
    }
}

// SAFETY: runs lie inside the region and do not overlap (`Pages`); the region is mapped readable and
// writable, anonymous and so initialised, at one address until the pool is dropped.
unsafe impl Provider for Pool {
    fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    fn allocated_bytes(&self) -> usize {
        self.allocated_bytes()
    }

    fn footprint_bytes(&self, size_bytes: usize) -> usize {
        size_bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES)
    }

    fn allocate(&self, size_bytes: usize) -> Result<Option<Allocation>, AllocateError> {
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
        out: &mut Vec<Allocation>,
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

    unsafe fn release(&self, allocation: Allocation) {
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

/// A pool that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The capacity is less than one page, or more than can be kept account of.
    #[error(
        "cannot make a pool of {capacity_bytes} bytes: max_local_cpu_size must be at least 4096 \
         bytes and less than 16 TiB"
    )]
    Size {
        /// The capacity asked for, in bytes.
        capacity_bytes: usize,
    },
    /// The system refused to reserve the region.
    #[error(
        "cannot reserve a pool of {capacity_bytes} bytes of address space; lower \
         max_local_cpu_size, or raise the process's limit (ulimit -v, container)"
    )]
    Reserve {
        /// The capacity asked for, in bytes.
        capacity_bytes: usize,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The mapped memory itself.
struct Region {
    base: NonNull<u8>,
    n_bytes: usize,
}

// SAFETY: the region is plain memory, and this type only knows where it is.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

#[cfg(not(miri))]
impl Region {
    fn reserve(n_bytes: usize) -> std::io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags};
        // NORESERVE: the pool may be most of the machine's memory, and only what is used counts.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the system's choice aliases nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), n_bytes, protection, flags) }?;
        let base = NonNull::new(base.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, n_bytes })
    }
}

#[cfg(not(miri))]
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `reserve` with this length; every buffer holds the pool, so
        // none is left.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.n_bytes) } {
            tracing::warn!(%error, bytes = self.n_bytes, "cannot unmap the buffer pool");
        }
    }
}

/// Miri has no mappings; zeroed heap memory of the same alignment behaves alike.
#[cfg(miri)]
impl Region {
    fn layout(n_bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(n_bytes, PAGE_BYTES).expect("a region under Miri is small")
    }

    fn reserve(n_bytes: usize) -> std::io::Result<Self> {
        // SAFETY: the size is at least one page.
        let base = unsafe { std::alloc::alloc_zeroed(Self::layout(n_bytes)) };
        let base = NonNull::new(base).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, n_bytes })
    }
}

#[cfg(miri)]
impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `reserve` with the same layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), Self::layout(self.n_bytes)) };
    }
}

#[cfg(test)]
mod tests;
