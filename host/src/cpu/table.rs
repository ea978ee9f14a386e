//! Keys to slots: a hash table that is searched without a lock, and changed under the tier's lock.
//!
//! A bucket is one word: a slot and half of the key's hash. The key itself is in the slot's record, which decides
//! whether it is the right one. Collisions go to the next bucket, and a removal closes the gap that it makes, so a
//! search always ends at the first empty bucket. The table is divided into segments that grow separately: no insertion
//! moves more than a sixty-fourth of the entries.
//!
//! A search that finds the key needs no further proof, because the record has confirmed it. A search that does not find
//! it is repeated unless no entry of the segment was moved in the meantime.
//!
//! Buckets that a segment has outgrown stay until the table is dropped, because a search may be in them. They are fewer
//! than those in use. A table that knows how many entries to expect does not grow.

mod hash;

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use crate::chunk::Slot;
use crate::key::ChunkKey;
use hash::{KeyHash, N_SEGMENTS};

/// Doublings of a segment.
const N_LEVELS: usize = 28;
const FIRST_BUCKETS: usize = 8;
/// The most entries that a table is prepared for in advance; more are added by growing.
pub(super) const EXPECTED_MAX: usize = 1 << 20;
/// The keys of one look-ahead.
pub(super) const LOOKED_AHEAD: usize = 32;
/// Tries in a segment that is being changed, before the thread yields.
const N_SPINS: u32 = 64;

pub(super) struct Table {
    hash: KeyHash,
    segments: Box<[Segment; N_SEGMENTS]>,
    /// Buckets of a segment's first level.
    n_first: OnceLock<usize>,
}

#[derive(Default)]
struct Segment {
    levels: [OnceLock<Box<[AtomicU64]>>; N_LEVELS],
    /// The level in use.
    level: AtomicUsize,
    n_entries: AtomicUsize,
    /// Odd while entries are being moved.
    moves: AtomicU64,
}

/// A full bucket, which is never 0.
fn bucket(tag: u32, slot: Slot) -> u64 {
    (u64::from(tag) << 32) | u64::from(slot + 1)
}

fn tag_of(bucket: u64) -> u32 {
    (bucket >> 32) as u32
}

fn slot_of(bucket: u64) -> Slot {
    bucket as u32 - 1
}

impl Table {
    pub(super) fn new() -> Self {
        let segments = Box::new(std::array::from_fn(|_| Segment::default()));
        Self { hash: KeyHash::new(), segments, n_first: OnceLock::new() }
    }

    /// Sets the number of entries to expect. Only the first call counts.
    pub(super) fn expect(&self, n_entries: usize) {
        self.n_first.get_or_init(|| {
            // The shares of the segments vary by their square root, and rarely by three times that.
            let n_share = n_entries.min(EXPECTED_MAX) / N_SEGMENTS;
            buckets_for(n_share + 3 * n_share.isqrt()).max(FIRST_BUCKETS)
        });
    }

    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.n_entries.load(Ordering::Relaxed)).sum()
    }

    /// Returns the result of `accept` for the first slot under `key` that it accepts. Needs no lock; without one,
    /// `accept` sees slots that are entering or leaving the table.
    #[inline]
    pub(super) fn find<T>(&self, key: ChunkKey, accept: impl Fn(Slot) -> Option<T>) -> Option<T> {
        let hash = self.hash.of(key);
        let segment = &self.segments[hash.segment()];
        let mut n_tries = 0;
        loop {
            let moves = segment.moves.load(Ordering::Acquire);
            if let Some(found) = segment.search(hash.tag(), &accept) {
                return Some(found);
            }
            fence(Ordering::Acquire);
            if moves.is_multiple_of(2) && segment.moves.load(Ordering::Relaxed) == moves {
                return None;
            }
            n_tries += 1;
            if n_tries < N_SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    /// Loads the buckets where searches for at most [`LOOKED_AHEAD`] keys begin.
    pub(super) fn look_ahead(&self, keys: &[ChunkKey]) {
        let first = |&key: &ChunkKey| {
            let hash = self.hash.of(key);
            self.segments[hash.segment()].first(hash.tag())
        };
        black_box(keys.iter().map(first).fold(0, |all, bucket| all ^ bucket));
    }

    /// As [`find`](Self::find) for each of at most [`LOOKED_AHEAD`] keys. A search ends in a branch that the processor
    /// cannot predict, and waits there for memory. So the beginnings of all searches are loaded first, together, with
    /// `load` for the records.
    #[inline]
    pub(super) fn find_some<T: Copy>(
        &self,
        keys: &[ChunkKey],
        load: impl Fn(Slot) -> u64,
        accept: impl Fn(ChunkKey, Slot) -> Option<T>,
    ) -> [Option<T>; LOOKED_AHEAD] {
        let mut first = [(0, 0); LOOKED_AHEAD];
        for (first, &key) in first.iter_mut().zip(keys) {
            let hash = self.hash.of(key);
            *first = (hash.tag(), self.segments[hash.segment()].first(hash.tag()));
        }
        let full = first[..keys.len()].iter().filter(|(_, bucket)| *bucket != 0);
        black_box(full.fold(0, |all, &(_, bucket)| all ^ load(slot_of(bucket))));
        let mut found = [None; LOOKED_AHEAD];
        for ((found, &key), (tag, bucket)) in found.iter_mut().zip(keys).zip(first) {
            let at_once = bucket != 0 && tag_of(bucket) == tag;
            let accepted = if at_once { accept(key, slot_of(bucket)) } else { None };
            *found = accepted.or_else(|| self.find(key, |slot| accept(key, slot)));
        }
        found
    }

    /// Adds a slot under a key that the table does not have. Under the lock.
    pub(super) fn insert(&self, key: ChunkKey, slot: Slot) {
        let hash = self.hash.of(key);
        let segment = &self.segments[hash.segment()];
        let n_first = *self.n_first.get_or_init(|| FIRST_BUCKETS);
        let n_entries = segment.n_entries.load(Ordering::Relaxed) + 1;
        let mut level = segment.level.load(Ordering::Relaxed);
        let mut buckets = &**segment.levels[level].get_or_init(|| empty(n_first));
        if buckets.len() < buckets_for(n_entries) {
            level += 1;
            buckets = segment.levels[level].get_or_init(|| grown(buckets));
            segment.level.store(level, Ordering::Release);
        }
        place(buckets, bucket(hash.tag(), slot));
        segment.n_entries.store(n_entries, Ordering::Relaxed);
    }

    /// Removes a slot. Under the lock.
    pub(super) fn remove(&self, key: ChunkKey, slot: Slot) {
        let hash = self.hash.of(key);
        let segment = &self.segments[hash.segment()];
        let Some(buckets) = segment.buckets() else { return };
        let (mask, entry) = (buckets.len() - 1, bucket(hash.tag(), slot));
        let mut gap = hash.tag() as usize & mask;
        loop {
            match buckets[gap].load(Ordering::Relaxed) {
                0 => return,
                found if found == entry => break,
                _ => gap = (gap + 1) & mask,
            }
        }
        let n_entries = segment.n_entries.load(Ordering::Relaxed);
        segment.n_entries.store(n_entries - 1, Ordering::Relaxed);
        if buckets[(gap + 1) & mask].load(Ordering::Relaxed) == 0 {
            buckets[gap].store(0, Ordering::Relaxed);
            return;
        }
        let moves = segment.moves.load(Ordering::Relaxed);
        segment.moves.store(moves + 1, Ordering::Relaxed);
        // A thread that sees any of the following stores also sees the odd number afterwards.
        fence(Ordering::Release);
        let mut from = gap;
        loop {
            from = (from + 1) & mask;
            let follower = buckets[from].load(Ordering::Relaxed);
            if follower == 0 {
                break;
            }
            // It may move to the gap unless the gap lies before the bucket where its search begins.
            let n_passed = from.wrapping_sub(tag_of(follower) as usize) & mask;
            if n_passed >= from.wrapping_sub(gap) & mask {
                buckets[gap].store(follower, Ordering::Release);
                gap = from;
            }
        }
        buckets[gap].store(0, Ordering::Relaxed);
        segment.moves.store(moves + 2, Ordering::Release);
    }

    /// Returns all slots. Under the lock.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let buckets = self.segments.iter().filter_map(Segment::buckets).flatten();
        let full = buckets.map(|bucket| bucket.load(Ordering::Relaxed)).filter(|&bucket| bucket != 0);
        full.map(slot_of).collect()
    }

    /// Returns the memory of the buckets in bytes, including outgrown ones.
    #[cfg(test)]
    pub(super) fn n_bytes(&self) -> usize {
        let levels = self.segments.iter().flat_map(|segment| &segment.levels);
        levels.filter_map(|level| Some(level.get()?.len() * size_of::<AtomicU64>())).sum()
    }
}

impl Segment {
    fn buckets(&self) -> Option<&[AtomicU64]> {
        self.levels[self.level.load(Ordering::Acquire)].get().map(|buckets| &**buckets)
    }

    /// Returns the bucket where searches for `tag` begin; 0 if there is none yet.
    #[inline]
    fn first(&self, tag: u32) -> u64 {
        let bucket =
            |buckets: &[AtomicU64]| buckets[tag as usize & (buckets.len() - 1)].load(Ordering::Acquire);
        self.buckets().map_or(0, bucket)
    }

    #[inline]
    fn search<T>(&self, tag: u32, accept: &impl Fn(Slot) -> Option<T>) -> Option<T> {
        let buckets = self.buckets()?;
        let mask = buckets.len() - 1;
        let mut at = tag as usize & mask;
        // Entries that move during the search may hide the empty bucket, so the search is bounded by the number of
        // buckets.
        for _ in 0..=mask {
            let found = buckets[at].load(Ordering::Acquire);
            if found == 0 {
                return None;
            }
            if tag_of(found) == tag
                && let Some(accepted) = accept(slot_of(found))
            {
                return Some(accepted);
            }
            at = (at + 1) & mask;
        }
        None
    }
}

/// Returns the number of buckets for `n_entries`: at least half stay empty, so that most searches end where they begin.
fn buckets_for(n_entries: usize) -> usize {
    (n_entries * 2).next_power_of_two()
}

fn empty(n_buckets: usize) -> Box<[AtomicU64]> {
    (0..n_buckets).map(|_| AtomicU64::new(0)).collect()
}

fn grown(old: &[AtomicU64]) -> Box<[AtomicU64]> {
    let new = empty(old.len() * 2);
    for entry in old {
        let entry = entry.load(Ordering::Relaxed);
        if entry != 0 {
            place(&new, entry);
        }
    }
    new
}

fn place(buckets: &[AtomicU64], entry: u64) {
    let mask = buckets.len() - 1;
    let mut at = tag_of(entry) as usize & mask;
    while buckets[at].load(Ordering::Relaxed) != 0 {
        at = (at + 1) & mask;
    }
    buckets[at].store(entry, Ordering::Release);
}

#[cfg(test)]
mod tests;
