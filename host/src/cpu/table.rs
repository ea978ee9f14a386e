//! Keys to slots: a hash table that is searched without a lock, and changed under the tier's.
//!
//! A bucket is one word, a slot and half of the key's hash; the key itself stands in the slot's record,
//! which says whether it is the right one. Collisions go to the next bucket, and a removal closes the
//! gap that it makes, so that a search ends at the first empty bucket however long the table has been
//! in use. The table is divided into segments, each of which grows by itself: no insertion moves more
//! than a sixty-fourth of the entries.
//!
//! A search that finds the key needs no further proof: the record has said so. One that does not must
//! have seen a segment in which nothing was moved meanwhile, else it looks again.
//!
//! Buckets that a segment has outgrown stay until the table goes, because a search may be in them. They
//! are fewer than those in use. A table that is told how many entries to expect does not grow at all.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use crate::chunk::Slot;
use crate::key::ChunkKey;

const N_SEGMENTS: usize = 64;
/// Doublings of a segment.
const N_LEVELS: usize = 28;
const FIRST_BUCKETS: usize = 8;
/// Entries that a table is made for at once; more come by growing.
pub(super) const EXPECTED_MAX: usize = 1 << 20;
/// Keys that are looked ahead for at once.
pub(super) const LOOKED_AHEAD: usize = 32;
/// Looks at a segment that is being changed before others are let run.
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

/// A key's hash: the upper bits choose the segment, the lower half the bucket.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    fn segment(self) -> usize {
        (self.0 >> 58) as usize % N_SEGMENTS
    }

    fn tag(self) -> u32 {
        self.0 as u32
    }
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

    /// Says how many entries to expect. The first word counts.
    pub(super) fn expect(&self, n_entries: usize) {
        self.n_first.get_or_init(|| {
            // Shares vary by their square root, and few by three times that.
            let n_share = n_entries.min(EXPECTED_MAX) / N_SEGMENTS;
            buckets_for(n_share + 3 * n_share.isqrt()).max(FIRST_BUCKETS)
        });
    }

    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.n_entries.load(Ordering::Relaxed)).sum()
    }

    /// Returns what `accept` says of the first slot under `key` that it accepts. Needs no lock; without
    /// one, `accept` sees slots that are entering or leaving the table.
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

    /// As [`find`](Self::find) for each of at most [`LOOKED_AHEAD`] keys. A search ends in a branch that the
    /// processor cannot foresee, and waits there for memory; so what all of them begin with is loaded first, for
    /// all at once, with `load` for the records.
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

    /// Takes a slot out. Under the lock.
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
        // Whoever sees any of what follows sees the odd number afterwards.
        fence(Ordering::Release);
        let mut from = gap;
        loop {
            from = (from + 1) & mask;
            let follower = buckets[from].load(Ordering::Relaxed);
            if follower == 0 {
                break;
            }
            // It may go to the gap unless the gap lies before the bucket where its search begins.
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

    /// Returns the memory that the buckets take, outgrown ones included, in bytes.
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
        // Entries that move while this looks may hide the empty bucket; all buckets are enough then.
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

/// How many buckets `n_entries` need: half at least stay empty, so that most searches end where they begin.
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

/// Hashes keys by two folded multiplications. Keys are hashes already, but an embedder may bring keys
/// of its own, and `n`, `n + 1`, … must not cluster: with one multiplication they did under one seed
/// in a thousand. The seed keeps chosen keys from colliding.
struct KeyHash {
    hi: u64,
    lo: u64,
}

impl KeyHash {
    fn new() -> Self {
        let random = RandomState::new();
        Self { hi: random.hash_one(0), lo: random.hash_one(1) }
    }

    #[inline]
    fn of(&self, key: ChunkKey) -> Hash {
        const CONSTANT: u64 = 0x9e37_79b9_7f4a_7c15;
        Hash(fold(fold(key.hi ^ self.hi, key.lo ^ self.lo), CONSTANT))
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{KeyHash, N_SEGMENTS, Table};
    use crate::chunk::Slot;
    use crate::cpu::testing::Random;
    use crate::key::ChunkKey;

    fn key(n: u64) -> ChunkKey {
        ChunkKey { hi: 0, lo: n }
    }

    fn has(table: &Table, n: u64) -> bool {
        table.find(key(n), |slot| (u64::from(slot) == n).then_some(())).is_some()
    }

    #[test]
    fn random_changes_agree_with_a_map() {
        let (n_keys, n_steps) = if cfg!(miri) { (100, 1000) } else { (3000, 200_000) };
        for n_expected in [0, 1000] {
            let table = Table::new();
            table.expect(n_expected);
            let mut map: HashMap<u64, Slot> = HashMap::new();
            let mut random = Random::new(5);
            for step in 0..n_steps {
                let n = random.below(n_keys) as u64;
                if map.remove(&n).is_some() {
                    table.remove(key(n), n as Slot);
                } else if step % 3 > 0 {
                    table.insert(key(n), n as Slot);
                    map.insert(n, n as Slot);
                }
                assert_eq!(has(&table, n), map.contains_key(&n));
                let other = random.below(n_keys) as u64;
                assert_eq!(has(&table, other), map.contains_key(&other));
                assert_eq!(table.len(), map.len());
            }
            let found: HashSet<Slot> = table.slots().into_iter().collect();
            assert_eq!(found, map.values().copied().collect());
        }
    }

    #[test]
    fn what_stays_is_found_at_any_moment_while_others_come_and_go() {
        let n_rounds = if cfg!(miri) { 20 } else { 2000 };
        let table = Table::new();
        let stays: Vec<u64> = (0..40).collect();
        for &n in &stays {
            table.insert(key(n), n as Slot);
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(9);
                for _ in 0..n_rounds {
                    // Of a number that makes segments grow and entries move.
                    let others: Vec<u64> = (0..200).map(|i| 1000 + i * 7 + random.below(7) as u64).collect();
                    for &n in &others {
                        table.insert(key(n), n as Slot);
                    }
                    for &n in &others {
                        table.remove(key(n), n as Slot);
                    }
                }
                is_over.store(true, Ordering::Release);
            });
            while !is_over.load(Ordering::Acquire) {
                for &n in &stays {
                    assert!(has(&table, n), "{n} was missed");
                }
            }
        });
        assert_eq!(table.len(), stays.len());
    }

    #[test]
    fn a_table_that_knows_how_many_entries_come_does_not_grow() {
        let n_entries = if cfg!(miri) { 1000 } else { 100_000 };
        let table = Table::new();
        table.expect(n_entries);
        (0..n_entries as u64).for_each(|n| table.insert(key(n), n as Slot));
        let n_grown = table.segments.iter().filter(|segment| segment.levels[1].get().is_some()).count();
        assert!(n_grown == 0 || cfg!(miri), "{n_grown} of {N_SEGMENTS} segments have grown");
        assert!(table.n_bytes() <= 40 * n_entries, "{} bytes", table.n_bytes());
    }

    #[test]
    fn consecutive_keys_do_not_cluster() {
        let patterns: [fn(u64) -> ChunkKey; 4] = [
            |n| ChunkKey { hi: 0, lo: n },
            |n| ChunkKey { hi: n, lo: 0 },
            |n| ChunkKey { hi: n, lo: n },
            |n| ChunkKey { hi: n << 48, lo: 0 },
        ];
        for _ in 0..if cfg!(miri) { 1 } else { 100 } {
            let hash = KeyHash::new();
            for key in patterns {
                let hashes = (0..4096).map(|n| hash.of(key(n)));
                let buckets: HashSet<_> = hashes.clone().map(|hash| hash.tag() & 0xffff).collect();
                let segments: HashSet<_> = hashes.map(super::Hash::segment).collect();
                assert!(buckets.len() > 3500, "{} of 4096", buckets.len());
                assert_eq!(segments.len(), N_SEGMENTS);
            }
        }
    }
}
