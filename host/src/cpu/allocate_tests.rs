//! Allocation: which chunks it evicts, and when it fails.

use super::testing::Bench;
use super::{Allocated, EvictionPolicy, Evictions};
use crate::memory::{AllocateError, PAGE_BYTES};

#[test]
fn t41_a_full_pool_evicts_exactly_one_and_a_held_one_answers_at_once() {
    let bench = Bench::new(3, EvictionPolicy::Lru);
    bench.put(&[0, 1, 2]);
    let buffer = bench.allocate().unwrap();
    let evicted = Evictions { pressure: 1, ..Evictions::default() };
    assert_eq!((bench.tier.stats().evictions, bench.tier.stats().entries), (evicted, 2));
    assert!(!bench.has(0));
    let readers = (bench.get(1), bench.get(2));
    let Allocated::Exhausted(exhausted) = bench.tier.allocate(1).unwrap() else {
        panic!("everything is held");
    };
    assert_eq!(exhausted.allocated_bytes, 3 * PAGE_BYTES);
    assert_eq!((bench.tier.stats().evict_failures, bench.tier.stats().entries), (1, 2));
    drop(readers.0);
    drop(bench.allocate().unwrap());
    assert!(!bench.has(1) && bench.has(2));
    drop((buffer, readers.1));
    bench.check();
}

#[test]
fn t46_a_batch_evicts_what_it_needs_or_takes_nothing() {
    let bench = Bench::new(4, EvictionPolicy::Lru);
    bench.put(&[0, 1, 2, 3]);
    let reader = bench.get(1);
    let Allocated::Ready(batch) = bench.tier.allocate_batch(&[1, PAGE_BYTES]).unwrap() else {
        panic!("0 and 2 can be evicted");
    };
    assert_eq!((batch.len(), bench.tier.stats().entries), (2, 2));
    assert!(bench.has(1) && bench.has(3));
    let allocated_bytes = bench.pool.allocated_bytes();
    let again = bench.tier.allocate_batch(&[1, 1]).unwrap();
    assert!(matches!(again, Allocated::Exhausted(_)));
    assert!(bench.pool.allocated_bytes() <= allocated_bytes);
    drop((batch, reader));
    bench.check();
}

#[test]
fn t48_impossible_sizes_are_errors_and_evict_nothing() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[0, 1]);
    let capacity_bytes = 2 * PAGE_BYTES;
    assert_eq!(bench.tier.allocate(0).unwrap_err(), AllocateError::ZeroSize);
    assert_eq!(bench.tier.allocate_batch(&[1, 0]).unwrap_err(), AllocateError::ZeroSize);
    let too_large = |size_bytes| AllocateError::TooLarge { size_bytes, capacity_bytes };
    assert_eq!(bench.tier.allocate(9000).unwrap_err(), too_large(9000));
    let batch = bench.tier.allocate_batch(&[5000, 5000]);
    assert_eq!(batch.unwrap_err(), too_large(10_000));
    assert_eq!((bench.tier.stats().entries, bench.tier.stats().evict_failures), (2, 0));
}
