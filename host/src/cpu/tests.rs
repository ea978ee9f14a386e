//! Chunks in the tier: shared, removed, cleared, and used by many threads.

use super::testing::{Bench, Random, has_news, key, keys};
use super::{Cleared, EvictionPolicy, Evictions, Inserted};
use crate::chunk::{Chunk, ChunkWriter};
use crate::memory::{AllocateError, BufferMut, PAGE_BYTES};

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
fn t47_threads_that_put_get_pin_and_release_keep_the_books() {
    let n_rounds = if cfg!(miri) { 40 } else { 4_000 };
    for &policy in EvictionPolicy::ALL {
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
        // Nothing is held any more, so everything can be evicted: no release was missed.
        let evictable = bench.tier.stats().entries;
        assert_eq!(bench.eviction_order().len(), evictable, "{policy}");
        assert_eq!(bench.tier.stats().entries, 0);
    }
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
    for &policy in EvictionPolicy::ALL {
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
