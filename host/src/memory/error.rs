//! Errors of making a pool, with their remedies.

use std::io;

use super::HUGE_PAGE_BYTES;

/// The reason why a pool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The capacity is less than one page, or more than a pool can manage.
    #[error(
        "cannot make a pool of {capacity_bytes} bytes: max_local_cpu_size must be at least {page_bytes} \
         bytes and less than 16 TiB"
    )]
    Size {
        /// The requested capacity in bytes.
        capacity_bytes: usize,
        /// The size of the pool's pages, in bytes.
        page_bytes: usize,
    },
    /// The system refused to reserve the region.
    #[error(
        "cannot reserve a pool of {region_bytes} bytes of address space; lower \
         max_local_cpu_size, or raise the process's limit (ulimit -v, container)"
    )]
    Reserve {
        /// The capacity in whole pages, in bytes.
        region_bytes: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// The system has no transparent huge pages.
    #[error(
        "cannot make a pool of transparent huge pages: the kernel has none; set kvtier.pool.huge_pages to off"
    )]
    NoTransparentHugePages {
        /// The system's answer.
        source: io::Error,
    },
    /// Too few huge pages are reserved.
    #[error(
        "cannot make a pool of {n_pages} huge pages of 2 MiB: {n_free} are reserved and free; reserve them \
         (sysctl vm.nr_hugepages={n_pages}), lower max_local_cpu_size, or set kvtier.pool.huge_pages to \
         transparent or off"
    )]
    NoHugePages {
        /// The huge pages that the pool needs.
        n_pages: usize,
        /// The huge pages that the system reports.
        n_free: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// The system does not allow the process to lock this much memory.
    #[error(
        "cannot lock a pool of {region_bytes} bytes in memory: RLIMIT_MEMLOCK allows {}; raise it (ulimit -l, \
         LimitMEMLOCK=, memlock of a container), lower max_local_cpu_size, or set kvtier.pool.mlock to false",
        limit(*.limit_bytes)
    )]
    Lock {
        /// The capacity in whole pages, in bytes.
        region_bytes: usize,
        /// The most bytes that the process may lock; `None` without a limit.
        limit_bytes: Option<u64>,
        /// The system's answer.
        source: io::Error,
    },
    /// The memory could not be touched in advance.
    #[error(
        "cannot touch a pool of {region_bytes} bytes beforehand: the kernel is older than 5.14, or a limit of \
         the container is lower; set kvtier.pool.prefault to false"
    )]
    Prefault {
        /// The capacity in whole pages, in bytes.
        region_bytes: usize,
        /// The system's answer.
        source: io::Error,
    },
}

#[cfg(not(miri))]
impl PoolError {
    pub(super) fn no_huge_pages(region_bytes: usize, source: io::Error) -> Self {
        const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        let free = std::fs::read_to_string(FREE).ok();
        let n_free = free.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self::NoHugePages { n_pages: region_bytes / HUGE_PAGE_BYTES, n_free, source }
    }

    pub(super) fn no_lock(region_bytes: usize, source: io::Error) -> Self {
        let limit_bytes = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        Self::Lock { region_bytes, limit_bytes, source }
    }
}

fn limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "any amount".to_owned(), |bytes| format!("{bytes} bytes"))
}
