use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::{Bench, Random, has_news, key, keys};
use super::{Allocated, Cleared, CpuTier, EvictionPolicy, Evictions, Inserted};
use crate::chunk::{Chunk, ChunkWriter};
use crate::memory::{AllocateError, BufferMut, PAGE_BYTES, Pool};

#[test]
fn t30_clear_takes_the_evictable_and_leaves_pinned_and_referenced() {
    let bench = Bench::new(4, EvictionPolicy::Lru);
    bench.put(&[0, 1, 2, 3]);
    bench.tier.pin(&keys([1]));
    let reader = bench.get(2);
    assert_eq!(bench.tier.clear(), Cleared { chunks: 2, bytes: 2 * PAGE_BYTES as u64 });
    let mut present = Vec::new();
    bench.tier.contains_each(&keys([0, 1, 2, 3]), &mut present);
    assert_eq!(present, [false, true, true, false]);
    bench.check();
    drop(reader);
    bench.tier.unpin(&keys([1]));
    assert_eq!(bench.tier.clear().chunks, 2);
    assert_eq!(bench.pool.allocated_bytes(), 0);
    assert_eq!(bench.tier.stats().evictions, Evictions { cleared: 4, ..Evictions::default() });
}

#[test]
fn t32_pinned_survives_pressure_and_goes_after_the_unpin() {
    for policy in EvictionPolicy::ALL {
        let bench = Bench::new(3, policy);
        bench.put(&[0, 1, 2]);
        assert_eq!(bench.tier.pin(&keys([1])), 1);
        assert_eq!(bench.eviction_order().len(), 2, "{policy}");
        assert!(bench.has(1) && bench.tier.stats().pinned_entries == 1);
        bench.tier.unpin(&keys([1]));
        assert_eq!(bench.eviction_order(), [1], "{policy}");
    }
}

#[test]
fn t34_forced_removal_drains_pins_and_the_last_reader_frees() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[0]);
    bench.tier.pin(&keys([0, 0]));
    assert_eq!(bench.tier.n_pins(key(0)), Some(2));
    let reader = bench.get(0).unwrap();
    assert_eq!(bench.tier.remove(&keys([0, 1])), 1);
    assert_eq!(bench.tier.remove(&keys([0])), 0);
    assert_eq!((bench.tier.n_pins(key(0)), bench.tier.stats().pinned_entries), (None, 0));
    assert_eq!(bench.pool.allocated_bytes(), PAGE_BYTES);
    let again = reader.clone();
    drop(reader);
    assert_eq!((bench.pool.allocated_bytes(), again[0]), (PAGE_BYTES, 0));
    drop(again);
    assert_eq!(bench.pool.allocated_bytes(), 0);
    assert_eq!(bench.tier.unpin(&keys([0])), 0);
    bench.check();
}

/// Counts warnings of the current thread.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn t35_a_second_unpin_stays_at_zero_and_warns() {
    let bench = Bench::new(1, EvictionPolicy::Lru);
    bench.put(&[0]);
    bench.tier.pin(&keys([0]));
    let n_warnings = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Warnings(Arc::clone(&n_warnings)), || {
        bench.tier.unpin(&keys([0]));
        assert_eq!(n_warnings.load(Ordering::SeqCst), 0);
        bench.tier.unpin(&keys([0]));
    });
    assert_eq!(n_warnings.load(Ordering::SeqCst), 1);
    assert_eq!(bench.tier.n_pins(key(0)), Some(0));
    bench.tier.pin(&keys([0]));
    assert_eq!(bench.tier.n_pins(key(0)), Some(1));
    bench.check();
}

#[test]
fn t38_the_first_chunk_of_a_key_stays() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    let (first, second) = (bench.chunk(0), bench.chunk(0));
    assert_eq!(bench.tier.insert(&first), Inserted::New);
    assert_eq!(bench.n_references(0), Some(2));
    assert_eq!(bench.tier.insert(&second), Inserted::Present);
    assert_eq!(bench.n_references(0), Some(2));
    assert_eq!(bench.get(0).unwrap().as_ptr(), first.as_ptr());
    drop(second);
    assert_eq!(bench.pool.allocated_bytes(), PAGE_BYTES);
    bench.check();
}

#[test]
fn t39_get_shares_the_buffer_and_a_miss_is_none() {
    let bench = Bench::new(1, EvictionPolicy::Lru);
    let chunk = bench.chunk(7);
    bench.tier.insert(&chunk);
    let got = bench.get(7).unwrap();
    assert_eq!((got.as_ptr(), got.len(), got[0]), (chunk.as_ptr(), PAGE_BYTES, 7));
    assert_eq!(bench.n_references(7), Some(3));
    assert!(bench.get(8).is_none());
    drop((chunk, got));
    assert_eq!(bench.n_references(7), Some(1));
}

#[test]
fn t40_without_the_hot_cache_puts_are_ignored_and_allocation_works() {
    let pool = Arc::new(Pool::new(2 * PAGE_BYTES).unwrap());
    let bench = Bench { tier: CpuTier::new(Arc::clone(&pool) as _, EvictionPolicy::Lru, false), pool };
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
    for policy in EvictionPolicy::ALL {
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
    for policy in EvictionPolicy::ALL {
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
    /// A reader's handle, as one that was taken before the chunk was put.
    fn chunk_without_use(&self, n: u64) -> Chunk {
        self.tier.shared.acquire(key(n)).unwrap()
    }
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
fn t47_threads_that_put_get_pin_and_release_keep_the_books() {
    let n_rounds = if cfg!(miri) { 40 } else { 4_000 };
    for policy in EvictionPolicy::ALL {
        let bench = Bench::new(16, policy);
        std::thread::scope(|scope| {
            for seed in 1..=4 {
                let bench = &bench;
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    let mut held: Vec<Chunk> = Vec::new();
                    for _ in 0..n_rounds {
                        let n = random.below(32) as u64;
                        match random.below(8) {
                            0..3 => {
                                if let Some(mut buffer) = bench.allocate() {
                                    buffer.fill(n as u8);
                                    let chunk = ChunkWriter::new(key(n), buffer).freeze();
                                    bench.tier.insert(&chunk);
                                }
                            }
                            3..6 => held.extend(bench.get(n)),
                            6 if bench.tier.pin(&keys([n])) == 1 => {
                                std::thread::yield_now();
                                bench.tier.unpin(&keys([n]));
                            }
                            6 => {}
                            _ => drop(bench.tier.remove(&keys([n]))),
                        }
                        for chunk in &held {
                            let byte = chunk.key().lo as u8;
                            assert!(chunk[0] == byte && chunk[PAGE_BYTES - 1] == byte);
                        }
                        if held.len() > 3 {
                            held.swap_remove(random.below(held.len()));
                        }
                    }
                });
            }
        });
        bench.check();
        // Nothing is held any more, so everything can be evicted: no release was lost.
        let evictable = bench.tier.stats().entries;
        assert_eq!(bench.eviction_order().len(), evictable, "{policy}");
        assert_eq!(bench.tier.stats().entries, 0);
    }
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

#[test]
fn t49_switching_the_hot_cache_off_empties_it_and_on_again_it_works() {
    let bench = Bench::new(4, EvictionPolicy::Lru);
    bench.put(&[0, 1]);
    bench.tier.set_hot_cache(false);
    assert_eq!((bench.tier.stats().entries, bench.pool.allocated_bytes()), (0, 0));
    assert_eq!(bench.tier.insert(&bench.chunk(2)), Inserted::CacheOff);
    assert!(!bench.has(2) && !bench.tier.is_hot());
    bench.tier.set_hot_cache(true);
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
    bench.tier.set_hot_cache(false);
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
    bench.tier.set_hot_cache(false);
    bench.tier.set_hot_cache(true);
    drop(reader);
    bench.put(&[2]);
    assert_eq!(bench.eviction_order(), [0, 2]);
}

#[test]
fn clones_and_bytes_hold_their_chunk_as_long_as_they_live() {
    let bench = Bench::new(1, EvictionPolicy::Lru);
    bench.put(&[0]);
    let chunk = bench.get(0).unwrap();
    let (clone, bytes) = (chunk.clone(), chunk.to_bytes());
    drop(chunk);
    assert!(bench.allocate().is_none() && bench.has(0));
    drop(bytes);
    assert!(bench.allocate().is_none() && bench.has(0));
    drop(clone);
    assert!(bench.allocate().is_some() && !bench.has(0));
}

#[test]
fn what_leaves_takes_its_traces_along() {
    for policy in EvictionPolicy::ALL {
        let bench = Bench::new(2000, policy);
        for n_left in [0, 100] {
            bench.put(&(0..2000).collect::<Vec<u64>>());
            bench.tier.touch(&(0..2000).map(key).collect::<Vec<_>>());
            let gone: Vec<_> = (n_left..2000).map(key).collect();
            assert_eq!(bench.tier.remove(&gone), gone.len());
            bench.check();
            bench.tier.clear();
            bench.check();
        }
    }
}

#[test]
fn a_chunk_is_in_one_index_at_a_time() {
    let (first, second) = (Bench::new(1, EvictionPolicy::Lru), Bench::new(1, EvictionPolicy::Lru));
    let chunk = first.chunk(0);
    assert_eq!(first.tier.insert(&chunk), Inserted::New);
    assert_eq!(second.tier.insert(&chunk), Inserted::InAnotherTier);
    first.tier.remove(&keys([0]));
    assert_eq!(second.tier.insert(&chunk), Inserted::New);
    assert!(first.allocate().is_none(), "the memory is the first pool's and in use");
    drop(chunk);
    second.tier.clear();
    assert!(first.allocate().is_some());
}

#[test]
fn close_empties_the_tier_wakes_waiters_and_refuses_from_then_on() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[0, 1]);
    bench.tier.pin(&keys([0, 1]));
    let (reader, other_reader) = (bench.get(0).unwrap(), bench.get(1).unwrap());
    let mut waiter = bench.tier.waiter();
    assert!(bench.allocate().is_none());
    bench.tier.close();
    assert!(has_news(&mut waiter), "though no memory went back");
    assert_eq!(bench.tier.allocate(1).unwrap_err(), AllocateError::Closed { size_bytes: 1 });
    assert!(bench.tier.allocate_batch(&[1]).is_err());
    assert_eq!(bench.tier.insert(&reader), Inserted::CacheOff);
    assert_eq!((bench.tier.stats().entries, reader[0]), (0, 0));
    drop((reader, other_reader));
    assert_eq!(bench.pool.allocated_bytes(), 0);
    bench.check();
}

#[test]
fn chunks_and_buffers_outlive_the_tier() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[5]);
    let reader = bench.get(5).unwrap();
    assert!(bench.allocate().is_some());
    let buffer: BufferMut = bench.allocate().unwrap();
    assert!(bench.allocate().is_none(), "the reader's chunk is watched now");
    let Bench { pool, tier } = bench;
    drop(tier);
    assert_eq!(reader[PAGE_BYTES - 1], 5);
    drop((reader, buffer));
    assert_eq!(pool.allocated_bytes(), 0);
}
