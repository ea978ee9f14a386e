//! Turning the hot cache off and on.

use std::sync::Arc;

use super::testing::{Bench, keys};
use super::{CpuTier, EvictionPolicy, Evictions, HotCache, Inserted};
use crate::memory::{PAGE_BYTES, Pool};

#[test]
fn t40_without_the_hot_cache_puts_are_ignored_and_allocation_works() {
    let pool = Arc::new(Pool::new(2 * PAGE_BYTES).unwrap());
    let bench =
        Bench { tier: CpuTier::new(Arc::clone(&pool) as _, EvictionPolicy::Lru, HotCache::Off), pool };
    assert!(!bench.tier.is_hot());
    let chunks = [bench.chunk(0), bench.chunk(1)];
    let mut inserted = Vec::new();
    bench.tier.insert_all(&chunks, &mut inserted);
    assert_eq!(inserted, [Inserted::CacheOff; 2]);
    assert_eq!(bench.tier.stats().entries, 0);
    assert!(bench.allocate().is_none());
    drop(chunks);
    assert!(bench.allocate().is_some());
}

#[test]
fn t49_switching_the_hot_cache_off_empties_it_and_on_again_it_works() {
    let bench = Bench::new(4, EvictionPolicy::Lru);
    bench.put(&[0, 1]);
    bench.tier.set_hot_cache(HotCache::Off);
    assert_eq!((bench.tier.stats().entries, bench.pool.allocated_bytes()), (0, 0));
    assert_eq!(bench.tier.insert(&bench.chunk(2)), Inserted::CacheOff);
    assert!(!bench.has(2) && !bench.tier.is_hot());
    bench.tier.set_hot_cache(HotCache::On);
    bench.put(&[3]);
    assert!(bench.has(3));
    let evictions = Evictions { cache_off: 2, ..Evictions::default() };
    assert_eq!(bench.tier.stats().evictions, evictions);
}

#[test]
fn t49_what_is_held_at_the_switch_leaves_with_its_release() {
    let bench = Bench::new(4, EvictionPolicy::Lru);
    bench.put(&[0, 1, 2]);
    bench.tier.pin(&keys([0, 2]));
    let readers = (bench.get(1), bench.get(2));
    bench.tier.set_hot_cache(HotCache::Off);
    bench.check();
    assert_eq!(bench.tier.stats().entries, 3);
    bench.tier.unpin(&keys([0]));
    assert!(!bench.has(0));
    drop(readers.0);
    assert!(!bench.has(1));
    drop(readers.1);
    assert!(bench.has(2), "still pinned");
    bench.tier.unpin(&keys([2]));
    assert_eq!((bench.tier.stats().entries, bench.pool.allocated_bytes()), (0, 0));
    bench.check();
}

#[test]
fn t49_what_was_held_while_it_was_off_can_be_evicted_when_it_is_on_again() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[0, 1]);
    let reader = bench.get(0);
    bench.tier.set_hot_cache(HotCache::Off);
    bench.tier.set_hot_cache(HotCache::On);
    drop(reader);
    bench.put(&[2]);
    assert_eq!(bench.eviction_order(), [0, 2]);
}
