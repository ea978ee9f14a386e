//! The pool's memory: one anonymous mapping, reserved as a whole and committed when it is touched.
//!
//! Either the options that an operator asked for are in force, or the pool is not made. There is no silent fallback.
//! The exception is transparent huge pages, which the system treats as advice.
#![expect(unsafe_code, reason = "maps memory")]

use std::ptr::NonNull;

#[cfg(miri)]
use super::PAGE_BYTES;
use super::PoolError;

/// The options for a pool's memory. The default sets none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PoolOptions {
    /// The size of the pages that the memory is made of.
    pub huge_pages: HugePages,
    /// Whether touched memory stays in RAM and is never swapped out (`mlock`).
    pub mlock: bool,
    /// Whether all processors touch all memory before the pool is used, instead of when it is used.
    pub prefault: bool,
}

/// The size of the pages of a pool's memory. It does not change how the pool manages its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HugePages {
    /// The system's default for every program.
    #[default]
    Off,
    /// Pages of 2 MiB where the system has some at the moment (`madvise`).
    Transparent,
    /// Pages of 2 MiB that the operator reserved (`MAP_HUGETLB`), as many as the pool needs.
    Explicit,
}

impl HugePages {
    /// Returns the word for the choice in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Transparent => "transparent",
            Self::Explicit => "explicit",
        }
    }
}

/// Memory at a fixed address, readable and writable, zero where nothing was written.
pub(super) struct Region {
    pub(super) base: NonNull<u8>,
    pub(super) n_bytes: usize,
}

// SAFETY: the region is plain memory, and this type only knows its place.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

#[cfg(not(miri))]
mod mapped {
    use std::ffi::c_void;
    use std::io;
    use std::ptr::{NonNull, null_mut};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use rustix::mm::{Advice, MapFlags, MlockFlags, ProtFlags};

    use super::super::HUGE_PAGE_BYTES;
    use super::{HugePages, PoolError, PoolOptions, Region};

    /// The bytes that a thread touches at a time.
    const PREFAULT_BYTES: usize = 64 << 20;

    impl Region {
        /// Maps `n_bytes`, a multiple of the size of its pages.
        pub(in super::super) fn reserve(n_bytes: usize, options: PoolOptions) -> Result<Self, PoolError> {
            let region = match options.huge_pages {
                HugePages::Off => Self::map(n_bytes, MapFlags::NORESERVE)
                    .map_err(|source| PoolError::Reserve { region_bytes: n_bytes, source })?,
                HugePages::Transparent => Self::map_transparent(n_bytes)?,
                // Without NORESERVE, so that missing pages show here, and not when one is touched, which would end the
                // process.
                HugePages::Explicit => Self::map(n_bytes, MapFlags::HUGETLB | MapFlags::HUGE_2MB)
                    .map_err(|source| PoolError::no_huge_pages(n_bytes, source))?,
            };
            if options.mlock {
                region.lock().map_err(|source| PoolError::no_lock(n_bytes, source))?;
            }
            if options.prefault {
                region.prefault().map_err(|source| PoolError::Prefault { region_bytes: n_bytes, source })?;
            }
            Ok(region)
        }

        fn map(n_bytes: usize, flags: MapFlags) -> io::Result<Self> {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | flags;
            // SAFETY: a new anonymous mapping at an address of the system's choice aliases nothing.
            let base = unsafe { rustix::mm::mmap_anonymous(null_mut(), n_bytes, protection, flags) }?;
            let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { base, n_bytes })
        }

        /// Maps one huge page more than needed, unmaps the bytes before the first boundary and after the last byte, and
        /// asks for huge pages in the rest.
        fn map_transparent(n_bytes: usize) -> Result<Self, PoolError> {
            let reserve = |source| PoolError::Reserve { region_bytes: n_bytes, source };
            let mut region = Self::map(n_bytes + HUGE_PAGE_BYTES, MapFlags::NORESERVE).map_err(reserve)?;
            let head_bytes = region.base.as_ptr().align_offset(HUGE_PAGE_BYTES);
            let tail = region.split_off(head_bytes);
            drop(std::mem::replace(&mut region, tail));
            drop(region.split_off(n_bytes));
            warn_if_never();
            // SAFETY: advice on the whole of our own mapping; it changes no content.
            unsafe { rustix::mm::madvise(region.address(), n_bytes, Advice::LinuxHugepage) }
                .map_err(|source| PoolError::NoTransparentHugePages { source: source.into() })?;
            Ok(region)
        }

        /// Splits the region in two. At most one part may be empty.
        fn split_off(&mut self, at_bytes: usize) -> Self {
            // SAFETY: `at_bytes` is within the region or its end.
            let base = unsafe { self.base.add(at_bytes) };
            let tail = Self { base, n_bytes: self.n_bytes - at_bytes };
            self.n_bytes = at_bytes;
            tail
        }

        /// Keeps in memory the pages that are touched from here on, without touching them.
        fn lock(&self) -> io::Result<()> {
            // SAFETY: our own mapping; locking changes no content. It ends with the mapping.
            Ok(unsafe { rustix::mm::mlock_with(self.address(), self.n_bytes, MlockFlags::ONFAULT) }?)
        }

        fn prefault(&self) -> io::Result<()> {
            let n_pieces = self.n_bytes.div_ceil(PREFAULT_BYTES);
            let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(n_pieces);
            let next = AtomicUsize::new(0);
            let touch = || -> io::Result<()> {
                loop {
                    let start = next.fetch_add(1, Ordering::Relaxed) * PREFAULT_BYTES;
                    let Some(left_bytes) = self.n_bytes.checked_sub(start).filter(|&left| left > 0) else {
                        return Ok(());
                    };
                    let n_bytes = left_bytes.min(PREFAULT_BYTES);
                    // SAFETY: inside our own mapping; touching changes no content.
                    unsafe {
                        rustix::mm::madvise(self.address().add(start), n_bytes, Advice::LinuxPopulateWrite)
                    }?;
                }
            };
            let start = Instant::now();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (1..n_threads).map(|_| scope.spawn(touch)).collect();
                let own = touch();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                    .fold(own, Result::and)
            })?;
            tracing::info!(bytes = self.n_bytes, threads = n_threads, took = ?start.elapsed(), "buffer pool touched");
            Ok(())
        }

        fn address(&self) -> *mut c_void {
            self.base.as_ptr().cast()
        }
    }

    /// The system accepts the advice even if it is configured to ignore it.
    fn warn_if_never() {
        const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
        if std::fs::read_to_string(SETTING).is_ok_and(|setting| setting.contains("[never]")) {
            tracing::warn!(
                "kvtier.pool.huge_pages is transparent, but this system has no such pages: {SETTING} is `never`"
            );
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            if self.n_bytes == 0 {
                return;
            }
            // SAFETY: this code mapped the range, which belongs to this region alone; every buffer holds the pool, so
            // none is left.
            if let Err(error) = unsafe { rustix::mm::munmap(self.address(), self.n_bytes) } {
                tracing::warn!(%error, bytes = self.n_bytes, "cannot unmap the buffer pool");
            }
        }
    }
}

/// Miri has no mappings. Zeroed heap memory of the same alignment behaves alike.
#[cfg(miri)]
impl Region {
    fn layout(n_bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(n_bytes, PAGE_BYTES).expect("a region under Miri is small")
    }

    pub(super) fn reserve(n_bytes: usize, _: PoolOptions) -> Result<Self, PoolError> {
        // SAFETY: the size is at least one page.
        let base = unsafe { std::alloc::alloc_zeroed(Self::layout(n_bytes)) };
        let base = NonNull::new(base).expect("a region under Miri is small");
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
