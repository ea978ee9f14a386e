//! The order of eviction under each policy.

use super::EvictionPolicy;
use super::testing::{Bench, key, keys};
use crate::chunk::Chunk;

#[test]
fn t42_lru_evicts_the_tail_of_a_pinned_lookup_before_its_head() {
    let bench = Bench::new(3, EvictionPolicy::Lru);
    bench.put(&[0, 1, 2]);
    assert_eq!(bench.tier.pin_run(&keys([0, 1, 9, 2])), 2);
    bench.tier.unpin(&keys([0, 1]));
    assert_eq!(bench.eviction_order(), [2, 1, 0]);
}

type UseRequest = fn(&Bench, &[super::ChunkKey]);

#[test]
fn uses_of_a_request_count_so_that_its_tail_goes_first() {
    let request = keys([0, 1, 2]);
    let uses: [UseRequest; 4] = [
        |bench, keys| bench.tier.touch(keys),
        |bench, keys| bench.tier.refresh(keys),
        |bench, keys| assert_eq!(bench.tier.pin(keys), bench.tier.unpin(keys)),
        |bench, keys| bench.tier.get(keys, &mut Vec::new()),
    ];
    for policy in [EvictionPolicy::Lru, EvictionPolicy::Mru, EvictionPolicy::Lfu] {
        for use_request in uses {
            let bench = Bench::new(3, policy);
            bench.put(&[1, 0, 2]);
            use_request(&bench, &request);
            assert_eq!(bench.eviction_order(), [2, 1, 0], "{policy}");
        }
    }
    for &policy in EvictionPolicy::ALL {
        let bench = Bench::new(3, policy);
        let chunks: Vec<Chunk> = [0, 1, 2].map(|n| bench.chunk(n)).into();
        bench.tier.insert_all(&chunks, &mut Vec::new());
        drop(chunks);
        assert_eq!(bench.eviction_order(), [2, 1, 0], "{policy}");
    }
}

#[test]
fn t43_fifo_ignores_uses() {
    let bench = Bench::new(3, EvictionPolicy::Fifo);
    bench.put(&[0, 1, 2]);
    bench.tier.touch(&keys([0, 0, 1]));
    bench.tier.refresh(&keys([0]));
    bench.tier.pin(&keys([0]));
    bench.tier.unpin(&keys([0]));
    assert_eq!(bench.eviction_order(), [0, 1, 2]);
}

#[test]
fn t43_mru_evicts_what_was_used_last() {
    let bench = Bench::new(3, EvictionPolicy::Mru);
    bench.put(&[0, 1, 2]);
    bench.tier.touch(&keys([1]));
    assert_eq!(bench.eviction_order(), [1, 2, 0]);
}

#[test]
fn t43_lfu_evicts_by_count_and_then_by_age() {
    let bench = Bench::new(5, EvictionPolicy::Lfu);
    bench.put(&[0, 1, 2, 3, 4]);
    bench.tier.touch(&keys([0, 0, 0]));
    bench.tier.touch(&keys([3]));
    bench.tier.touch(&keys([1]));
    // Renewed among those used once, not counted as a use.
    bench.tier.refresh(&keys([2]));
    assert_eq!(bench.eviction_order(), [4, 2, 3, 1, 0]);
}

#[test]
fn t43_choosing_a_candidate_passes_over_held_ones_and_changes_nothing() {
    for &policy in EvictionPolicy::ALL {
        let unheld = Bench::new(4, policy);
        unheld.put(&[0, 1, 2, 3]);
        let expected = unheld.eviction_order();
        let bench = Bench::new(4, policy);
        bench.put(&[0, 1, 2, 3]);
        let readers: Vec<_> = [0, 1, 2, 3].map(|n| bench.chunk_without_use(n)).into();
        for _ in 0..3 {
            assert!(bench.allocate().is_none());
            bench.check();
        }
        drop(readers);
        assert_eq!(bench.eviction_order(), expected, "{policy}");
    }
}

impl Bench {
    /// Returns a reader's handle without counting a use.
    fn chunk_without_use(&self, n: u64) -> Chunk {
        self.tier.shared.acquire(key(n)).unwrap()
    }
}
