//! The readers of a chunk and the index that keeps it, after `host/src/chunk.rs`: who evicts a chunk that
//! eviction had found held, and when its memory may be used again.
//!
//! The host's accesses are `SeqCst`, which the checker takes for acquire and release. What they add is a
//! fence between the write and the read of each side, so the model has that.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// What is done between a write and the read after it.
type Between = fn();

fn sequentially_consistent() {
    fence(Ordering::SeqCst);
}

fn nothing() {}

struct Payload {
    n_readers: AtomicUsize,
    is_watched: AtomicBool,
    n_told: AtomicUsize,
}

impl Payload {
    /// With one reader.
    fn new() -> Self {
        let (n_readers, n_told) = (AtomicUsize::new(1), AtomicUsize::new(0));
        Self { n_readers, is_watched: AtomicBool::new(false), n_told }
    }

    /// `Chunk::drop`.
    fn drop_reader(&self, between: Between) {
        let was_last = self.n_readers.fetch_sub(1, Ordering::AcqRel) == 1;
        between();
        if was_last && self.is_watched.load(Ordering::Acquire) {
            self.n_told.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `IndexedChunk::watch`, and the look at the readers that has to follow.
    fn watch(&self, between: Between) -> bool {
        self.is_watched.store(true, Ordering::Release);
        between();
        self.n_readers.load(Ordering::Acquire) > 0
    }
}

/// Either the index learns at once that nobody reads, or it is told once.
fn last_reader_is_reported(between: Between) {
    loom::model(move || {
        let payload = Arc::new(Payload::new());
        payload.n_readers.fetch_add(1, Ordering::Relaxed);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let payload = Arc::clone(&payload);
                thread::spawn(move || payload.drop_reader(between))
            })
            .collect();
        let has_readers = payload.watch(between);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        let n_told = payload.n_told.load(Ordering::Relaxed);
        assert!(n_told <= 1, "told {n_told} times");
        assert!(n_told == 1 || !has_readers, "nobody evicts the chunk");
    });
}

#[test]
fn the_last_reader_of_a_watched_chunk_is_reported() {
    last_reader_is_reported(sequentially_consistent);
}

#[test]
#[should_panic(expected = "nobody evicts the chunk")]
fn broken_without_one_order_of_all_accesses_the_last_reader_can_go_unnoticed() {
    last_reader_is_reported(nothing);
}

/// An index with one chunk, whose memory is used again once it has been evicted.
struct Index {
    is_here: Mutex<bool>,
    n_readers: AtomicUsize,
    memory: UnsafeCell<u32>,
}

impl Index {
    fn read_once(&self, release: Ordering) {
        let is_here = self.is_here.lock().unwrap();
        if !*is_here {
            return;
        }
        // `IndexedChunk::reader`, under the lock.
        self.n_readers.fetch_add(1, Ordering::Relaxed);
        drop(is_here);
        self.memory.with(|_| {});
        self.n_readers.fetch_sub(1, release);
    }

    fn evict_and_use_again(&self) {
        let mut is_here = self.is_here.lock().unwrap();
        if self.n_readers.load(Ordering::Acquire) > 0 {
            return;
        }
        *is_here = false;
        drop(is_here);
        self.memory.with_mut(|_| {});
    }
}

fn evicted_memory_is_not_read(release: Ordering) {
    loom::model(move || {
        let memory = UnsafeCell::new(0);
        let index = Arc::new(Index { is_here: Mutex::new(true), n_readers: AtomicUsize::new(0), memory });
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let index = Arc::clone(&index);
                thread::spawn(move || index.read_once(release))
            })
            .collect();
        index.evict_and_use_again();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn memory_is_used_again_only_after_the_last_read() {
    evicted_memory_is_not_read(Ordering::Release);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn broken_a_count_that_orders_nothing_lets_memory_be_written_while_it_is_read() {
    evicted_memory_is_not_read(Ordering::Relaxed);
}
