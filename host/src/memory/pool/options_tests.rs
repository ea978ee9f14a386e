//! How the system keeps a pool's memory. Touched pages are counted by the page faults of the test's own thread, which
//! neither the clock nor other tests change.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

use crate::memory::{
    BufferMut, HUGE_PAGE_BYTES, HugePages, PAGE_BYTES, Pool, PoolError, PoolOptions, Provider,
};

const GIB: usize = 1 << 30;
/// More than any machine has.
const TOO_LARGE_BYTES: usize = 15 << 40;

/// Returns how often this thread has touched memory that had to be committed first.
fn n_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// Writes one byte into each of `n` huge pages, and returns how many faults that takes.
fn touch(pool: Arc<Pool>, n: usize) -> u64 {
    let provider: Arc<dyn Provider> = pool;
    let mut buffer = BufferMut::allocate(&provider, n * HUGE_PAGE_BYTES).unwrap().unwrap();
    let before = n_faults();
    buffer.iter_mut().step_by(HUGE_PAGE_BYTES).for_each(|byte| *byte = 1);
    n_faults() - before
}

#[test]
fn a_pool_of_64_gib_touches_no_memory_until_it_is_used() {
    for huge_pages in [HugePages::Off, HugePages::Transparent] {
        let before = n_faults();
        let pool = Pool::with_options(64 * GIB, PoolOptions { huge_pages, ..Default::default() }).unwrap();
        // Without the memory that the allocator had used before: 2 MiB at most.
        let n_at_start = n_faults() - before;
        assert!(n_at_start <= 1024, "{n_at_start} pages were touched");
        // The counter sees touched pages.
        assert!(touch(Arc::new(pool), 100) >= 100);
    }
}

#[test]
fn memory_that_was_touched_beforehand_is_there() {
    for huge_pages in [HugePages::Off, HugePages::Transparent] {
        let options = PoolOptions { huge_pages, prefault: true, ..Default::default() };
        // More than one piece for the threads, and a remainder.
        let pool = Pool::with_options(160 << 20, options).unwrap();
        let n_missing = touch(Arc::new(pool), 80);
        assert!(n_missing <= 8, "{n_missing} pages of 80 were not touched");
    }
}

#[test]
fn a_region_with_huge_pages_starts_at_one() {
    let options = PoolOptions { huge_pages: HugePages::Transparent, ..Default::default() };
    // Regions that neighbours push off the boundary.
    let pools = [1, 513, 1024, 3].map(|n_pages| Pool::with_options(n_pages * PAGE_BYTES, options).unwrap());
    for pool in pools {
        assert_eq!(pool.base_ptr().as_ptr().addr() % HUGE_PAGE_BYTES, 0);
        assert_eq!(pool.options(), options);
        let n_bytes = pool.region_bytes();
        let pool: Arc<dyn Provider> = Arc::new(pool);
        let mut all = BufferMut::allocate(&pool, n_bytes).unwrap().unwrap();
        all.fill(1);
    }
}

#[test]
fn huge_pages_that_nobody_reserved_refuse_start_and_say_how_to_reserve_them() {
    let options = PoolOptions { huge_pages: HugePages::Explicit, ..Default::default() };
    let error = Pool::with_options(TOO_LARGE_BYTES, options).unwrap_err();
    assert!(matches!(error, PoolError::NoHugePages { n_pages: 7_864_320, .. }), "{error}");
    assert!(error.to_string().contains("sysctl vm.nr_hugepages=7864320"), "{error}");
    let error = Pool::with_options(HUGE_PAGE_BYTES - 1, options).unwrap_err();
    assert!(error.to_string().contains("at least 2097152 bytes"), "{error}");
}

#[test]
fn memory_is_locked_or_start_is_refused_with_the_limit() {
    let options = PoolOptions { mlock: true, ..Default::default() };
    let locked_kib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap()
    };
    let pool = Pool::with_options(4 * PAGE_BYTES, options).unwrap();
    assert_eq!(locked_kib(), 16);
    drop(pool);
    assert_eq!(locked_kib(), 0);

    let limit = Rlimit { current: Some(65_536), ..rustix::process::getrlimit(Resource::Memlock) };
    rustix::process::setrlimit(Resource::Memlock, limit).unwrap();
    // A process with this capability has no limit. Threads have their own.
    let refused = std::thread::spawn(move || {
        let mut capabilities = rustix::thread::capabilities(None).unwrap();
        capabilities.effective.remove(CapabilitySet::IPC_LOCK);
        rustix::thread::set_capabilities(None, capabilities).unwrap();
        Pool::with_options(GIB, options).unwrap_err().to_string()
    });
    let error = refused.join().unwrap();
    assert!(error.contains("RLIMIT_MEMLOCK allows 65536 bytes; raise it (ulimit -l"), "{error}");
}
