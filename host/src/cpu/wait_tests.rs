//! Waiting for memory: waiters are notified of everything that makes room possible.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};
use std::time::{Duration, Instant};

use super::testing::{Bench, has_news, key, keys};
use super::{Allocated, EvictionPolicy};
use crate::chunk::ChunkWriter;
use crate::memory::PAGE_BYTES;

#[test]
fn t41_whatever_makes_room_possible_wakes_those_who_wait() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[0, 1]);
    bench.tier.pin(&keys([0]));
    let reader = bench.get(1);
    let mut waiter = bench.tier.waiter();
    assert!(bench.allocate().is_none());
    assert!(!has_news(&mut waiter));
    drop(reader);
    assert!(has_news(&mut waiter), "a chunk lost its last reader");
    let buffer = bench.allocate().unwrap();
    // An eviction releases memory, which is also notified.
    waiter = bench.tier.waiter();
    assert!(bench.allocate().is_none());
    assert!(!has_news(&mut waiter));
    bench.tier.unpin(&keys([0]));
    assert!(has_news(&mut waiter), "a chunk lost its last pin");
    let last = bench.allocate().unwrap();
    waiter = bench.tier.waiter();
    assert!(bench.allocate().is_none());
    assert!(!has_news(&mut waiter));
    // A buffer that becomes a chunk of the cache is never released, but can be evicted.
    let chunk = ChunkWriter::new(key(3), buffer).freeze();
    bench.tier.insert(&chunk);
    assert!(has_news(&mut waiter), "a chunk came that will be evictable");
    assert!(bench.allocate().is_none());
    drop(chunk);
    assert!(has_news(&mut waiter), "the chunk lost the handle of who put it");
    drop(last);
    assert!(has_news(&mut waiter), "a buffer went back");
}

/// Allocates at the moment when it is woken, as a waiter on another thread may.
struct AllocateOnWake(Bench, AtomicUsize);

impl Wake for AllocateOnWake {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(usize::from(self.0.allocate().is_some()), Ordering::SeqCst);
    }
}

#[test]
fn t41_the_memory_is_there_at_the_moment_of_the_wake() {
    let bench = Bench::new(1, EvictionPolicy::Lru);
    bench.put(&[0]);
    let reader = bench.get(0);
    let woken = Arc::new(AllocateOnWake(bench, AtomicUsize::new(0)));
    let waker = Arc::clone(&woken).into();
    let mut waiter = woken.0.tier.waiter();
    assert!(woken.0.allocate().is_none());
    let mut released = pin!(waiter.released());
    assert!(released.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(reader);
    assert_eq!(woken.1.load(Ordering::SeqCst), 1);
}

#[test]
fn t41_a_waiter_that_needs_more_than_is_unpinned_hears_of_the_unpin() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[0, 1]);
    bench.tier.pin(&keys([0]));
    let mut waiter = bench.tier.waiter();
    let all = 2 * PAGE_BYTES;
    assert!(matches!(bench.tier.allocate(all), Ok(Allocated::Exhausted(_))));
    assert_eq!(bench.tier.stats().entries, 2, "what cannot help is not evicted");
    bench.tier.unpin(&keys([0]));
    assert!(has_news(&mut waiter));
    assert!(matches!(bench.tier.allocate(all), Ok(Allocated::Ready(_))));
}

#[test]
fn waiting_allocations_of_several_threads_all_get_their_turn() {
    let n_rounds = if cfg!(miri) { 20 } else { 3_000 };
    let bench = Bench::new(2, EvictionPolicy::Lru);
    let deadline = Instant::now() + Duration::from_mins(2);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..n_rounds {
                    let mut waiter = bench.tier.waiter();
                    let buffer = loop {
                        if let Some(buffer) = bench.allocate() {
                            break buffer;
                        }
                        assert!(waiter.wait_until(deadline), "a release was missed");
                    };
                    drop(waiter);
                    let chunk = ChunkWriter::new(key(round % 5 + 8 * thread), buffer).freeze();
                    bench.tier.insert(&chunk);
                    std::thread::yield_now();
                }
            });
        }
    });
    bench.check();
}
