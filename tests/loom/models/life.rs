//! The readers of a chunk and the index that keeps it (`host/src/chunk/life.rs`): which of them frees a chunk that an
//! eviction found held, and when its memory may be reused.

use kvtier_loom::chunk::Chunk;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// Acts as a reader: finds the chunk in the index, reads it and releases it. Returns what follows from the release.
fn read(chunk: &Chunk, n_told: &AtomicUsize) {
    if chunk.acquire() {
        chunk.read();
        if chunk.release() {
            n_told.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Evicts as the index does: takes the chunk out if it has no reader; otherwise watches it and tries again once
/// notified.
fn evict(chunk: &Chunk) -> bool {
    chunk.leave_if_unread() || (!chunk.watch() && evict(chunk))
}

fn with_readers(evict: fn(&Chunk) -> bool, must_be_over: bool) {
    let mut model = loom::model::Builder::new();
    // All orders with at most three preemptions per thread: more take hours and found nothing new.
    model.preemption_bound = Some(3);
    model.check(move || {
        let (chunk, n_told) = (Arc::new(Chunk::indexed()), Arc::new(AtomicUsize::new(0)));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (chunk, n_told) = (Arc::clone(&chunk), Arc::clone(&n_told));
                thread::spawn(move || read(&chunk, &n_told))
            })
            .collect();
        let is_over = evict(&chunk);
        if is_over {
            chunk.overwrite();
        }
        for reader in readers {
            reader.join().unwrap();
        }
        let n_told = n_told.load(Ordering::Relaxed);
        assert!(is_over || n_told > 0 || !must_be_over, "no thread evicts the chunk");
        if !is_over && chunk.leave_if_unread() {
            chunk.overwrite();
        }
    });
}

#[test]
fn a_chunk_is_evicted_at_once_or_its_last_reader_is_reported() {
    with_readers(evict, true);
}

#[test]
#[should_panic(expected = "no thread evicts the chunk")]
fn broken_an_index_that_does_not_look_again_when_there_is_nobody_to_watch() {
    with_readers(|chunk| chunk.leave_if_unread() || (_ = chunk.watch(), false).1, true);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn broken_an_eviction_in_two_steps_writes_what_is_being_read() {
    let in_two_steps = |chunk: &Chunk| {
        let is_unread = chunk.n_readers() == 0;
        if is_unread {
            // Its result, which should have been used.
            chunk.leave();
        }
        is_unread
    };
    with_readers(in_two_steps, false);
}

/// A chunk is removed from its index while a reader holds it: one of the two frees it.
#[test]
fn a_removed_chunk_is_freed_once_by_the_last_who_has_it() {
    loom::model(|| {
        let (chunk, n_freed) = (Arc::new(Chunk::indexed()), Arc::new(AtomicUsize::new(0)));
        assert!(chunk.acquire());
        let reader = {
            let (chunk, n_freed) = (Arc::clone(&chunk), Arc::clone(&n_freed));
            thread::spawn(move || {
                chunk.read();
                if chunk.release_is_over() {
                    chunk.overwrite();
                    n_freed.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        if chunk.leave() {
            chunk.overwrite();
            n_freed.fetch_add(1, Ordering::Relaxed);
        }
        reader.join().unwrap();
        assert_eq!(n_freed.load(Ordering::Relaxed), 1);
    });
}

/// A search reads a record's key while the record is given to another chunk.
fn search(is_checked: bool) {
    loom::model(move || {
        let chunk = Arc::new(Chunk::indexed());
        let searcher = {
            let chunk = Arc::clone(&chunk);
            thread::spawn(move || chunk.key_if_indexed(is_checked))
        };
        assert!(chunk.leave_if_unread());
        chunk.begin_again();
        // Both halves of the key are 1 for the first chunk, and 2 for the second.
        let found = searcher.join().unwrap();
        assert!(found.is_none_or(|[hi, lo]| hi == lo), "halves of two keys were taken for one key");
    });
}

#[test]
fn a_search_never_takes_half_of_two_keys_for_one() {
    search(true);
}

#[test]
#[should_panic(expected = "halves of two keys")]
fn broken_a_search_that_does_not_look_at_the_generation_again() {
    search(false);
}
