//! All chunk records of the process. Their memory is reused for other records and never freed.
#![expect(unsafe_code, reason = "records are found by number")]

use std::cell::{RefCell, UnsafeCell};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::record::{ChunkRecord, ContentCell};
use super::slot::{NO_SLOT, Slot};
use crate::sync::lock;

/// Records per segment.
const SEGMENT: usize = if cfg!(miri) { 64 } else { 4096 };
const SEGMENTS_MAX: usize = 1 << 15;

/// Segments are made when they are needed, and stay.
static SEGMENTS: [AtomicPtr<ChunkRecord>; SEGMENTS_MAX] =
    [const { AtomicPtr::new(null_mut()) }; SEGMENTS_MAX];
static RECORDS: Mutex<FreeRecords> = Mutex::new(FreeRecords { first: NO_SLOT, n_made: 0 });

/// Returns the record of a slot.
#[inline]
pub(crate) fn record(slot: Slot) -> &'static ChunkRecord {
    let segment = SEGMENTS[slot as usize / SEGMENT].load(Ordering::Acquire);
    assert!(!segment.is_null(), "slot {slot} was never made");
    // SAFETY: a segment has SEGMENT records, is published once it is complete, and is never freed.
    unsafe { &*segment.add(slot as usize % SEGMENT) }
}

/// Free records that each thread keeps, so that it does not lock for each one.
const THREAD_CACHE_RECORDS: usize = 32;

struct ThreadCache(Vec<&'static ChunkRecord>);

impl Drop for ThreadCache {
    fn drop(&mut self) {
        lock(&RECORDS).push_all(&mut self.0, 0);
    }
}

thread_local! {
    static THREAD_CACHE: RefCell<ThreadCache> = const { RefCell::new(ThreadCache(Vec::new())) };
}

pub(super) fn take_free() -> &'static ChunkRecord {
    let from_kept = |kept: &RefCell<ThreadCache>| {
        let kept = &mut kept.borrow_mut().0;
        if kept.is_empty() {
            let mut free = lock(&RECORDS);
            kept.extend((0..THREAD_CACHE_RECORDS).map(|_| free.pop()));
        }
        kept.pop()
    };
    // A thread that is ending keeps none.
    THREAD_CACHE.try_with(from_kept).ok().flatten().unwrap_or_else(|| lock(&RECORDS).pop())
}

pub(super) fn put_free(record: &'static ChunkRecord) {
    let to_kept = |kept: &RefCell<ThreadCache>| {
        let kept = &mut kept.borrow_mut().0;
        kept.push(record);
        if kept.len() > 2 * THREAD_CACHE_RECORDS {
            lock(&RECORDS).push_all(kept, THREAD_CACHE_RECORDS);
        }
    };
    if THREAD_CACHE.try_with(to_kept).is_err() {
        lock(&RECORDS).push(record);
    }
}

/// The free records, linked by `residency.next`.
struct FreeRecords {
    first: Slot,
    n_made: usize,
}

impl FreeRecords {
    fn pop(&mut self) -> &'static ChunkRecord {
        if self.first == NO_SLOT {
            self.make_segment();
        }
        let record = record(self.first);
        self.first = record.residency.next.load(Ordering::Relaxed);
        record
    }

    fn push(&mut self, record: &'static ChunkRecord) {
        record.residency.next.store(self.first, Ordering::Relaxed);
        self.first = record.slot;
    }

    /// Takes back all but the first `n_left` records.
    fn push_all(&mut self, records: &mut Vec<&'static ChunkRecord>, n_left: usize) {
        records.drain(n_left..).for_each(|record| self.push(record));
    }

    fn make_segment(&mut self) {
        let n_before = self.n_made;
        assert!(n_before / SEGMENT < SEGMENTS_MAX, "{n_before} chunks are in memory");
        let contents: Box<[ContentCell]> = (0..SEGMENT).map(|_| ContentCell(UnsafeCell::new(None))).collect();
        let numbered = (n_before..).zip(&*Box::leak(contents));
        let records: Box<[ChunkRecord]> =
            numbered.map(|(n, content)| ChunkRecord::new(n as Slot, content)).collect();
        let records = Box::leak(records);
        SEGMENTS[n_before / SEGMENT].store(records.as_mut_ptr(), Ordering::Release);
        self.n_made += SEGMENT;
        (n_before..self.n_made).rev().for_each(|slot| self.push(record(slot as Slot)));
    }
}
