//! LFU: the fewest uses first, among equals the entry whose last use is longest ago.
//!
//! Entries of one use count form a list in the order of their placement, and the lists are in the order of the counts,
//! so a use changes a few links. A released entry would have to be searched for its place in the lists, so it goes into
//! a small map ordered by rank instead. The next candidate is the better one of the lists' end and the map's. So the
//! order is exactly the same as without parking.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::list::List;
use super::position::{Position, position, set_position, unless};
use crate::chunk::{Residency, Slot, record};

/// Use count, then the time of the last placement; unique.
type Rank = (u32, u64);

/// No bucket.
const NONE: u32 = Residency::GROUPS_MAX - 1;
/// The largest use count.
const USES_MAX: u32 = Residency::GROUPS_MAX - 1;

/// The entries of one use count, oldest placement first. Never empty while in use.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    n_uses: u32,
    entries: List,
    /// Buckets with the next lower and higher use count; `next` also links unused records.
    previous: u32,
    next: u32,
}

/// An entry's group is its bucket while it is linked, and its use count while it is not.
pub(super) struct Lfu {
    buckets: Vec<Bucket>,
    first_bucket: u32,
    unused_bucket: u32,
    returned: BTreeMap<Rank, Slot>,
    clock: u64,
}

impl Lfu {
    pub(super) fn new() -> Self {
        Self {
            buckets: Vec::new(),
            first_bucket: NONE,
            unused_bucket: NONE,
            returned: BTreeMap::new(),
            clock: 0,
        }
    }

    fn rank(&self, slot: Slot) -> Rank {
        let residency = &record(slot).residency;
        let group = residency.group();
        let n_uses = match position(slot) {
            Position::Linked => self.buckets[group as usize].n_uses,
            Position::Absent | Position::Parked | Position::Returned => group,
        };
        (n_uses, residency.time.load(Ordering::Relaxed))
    }

    /// Sets the rank of an entry that is in no list.
    fn set_rank(slot: Slot, (n_uses, time): Rank) {
        let residency = &record(slot).residency;
        residency.set_group(n_uses);
        residency.time.store(time, Ordering::Relaxed);
    }

    /// Places a new entry, used once.
    pub(super) fn insert(&mut self, slot: Slot) {
        let rank = (1, self.tick());
        Self::set_rank(slot, rank);
        // One use is the lowest count, so the bucket is the first or before the first.
        self.link(slot, rank.0, NONE);
    }

    pub(super) fn touch(&mut self, slot: Slot) {
        self.place_anew(slot, (self.rank(slot).0 + 1).min(USES_MAX));
    }

    pub(super) fn refresh(&mut self, slot: Slot) {
        self.place_anew(slot, self.rank(slot).0);
    }

    pub(super) fn candidate(&self) -> Option<Slot> {
        let lowest = self.buckets.get(self.first_bucket as usize);
        let linked = lowest.map(|bucket| bucket.entries.first);
        match (linked, self.returned.first_key_value()) {
            (Some(linked), Some((&rank, &returned))) => {
                Some(if self.rank(linked) < rank { linked } else { returned })
            }
            (linked, returned) => linked.or(returned.map(|(_, &slot)| slot)),
        }
    }

    pub(super) fn park(&mut self, slot: Slot) {
        let rank = self.rank(slot);
        self.detach(slot);
        Self::set_rank(slot, rank);
        set_position(slot, Position::Parked);
    }

    pub(super) fn unpark(&mut self, slot: Slot) {
        set_position(slot, Position::Returned);
        self.returned.insert(self.rank(slot), slot);
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Sets a new rank of the entry and moves it to the new place.
    fn place_anew(&mut self, slot: Slot, n_uses: u32) {
        let rank = (n_uses, self.tick());
        match position(slot) {
            Position::Linked => {
                // The old bucket stays until the entry is linked again, because the search starts there.
                let old_bucket = record(slot).residency.group();
                self.buckets[old_bucket as usize].entries.unlink(slot);
                record(slot).residency.time.store(rank.1, Ordering::Relaxed);
                self.link(slot, n_uses, old_bucket);
                self.drop_bucket_if_empty(old_bucket);
            }
            Position::Parked => Self::set_rank(slot, rank),
            Position::Returned => {
                self.returned.remove(&self.rank(slot));
                Self::set_rank(slot, rank);
                // The map, because the bucket of its count would have to be searched for.
                self.returned.insert(rank, slot);
            }
            Position::Absent => debug_assert!(false, "slot {slot} is not in the order"),
        }
    }

    pub(super) fn detach(&mut self, slot: Slot) {
        match position(slot) {
            Position::Linked => {
                let bucket = record(slot).residency.group();
                self.buckets[bucket as usize].entries.unlink(slot);
                self.drop_bucket_if_empty(bucket);
            }
            Position::Returned => {
                self.returned.remove(&self.rank(slot));
            }
            Position::Parked | Position::Absent => {}
        }
    }

    /// Appends the entry to the bucket of its use count, which is `near` or the one after it; `NONE` is the place
    /// before the first.
    fn link(&mut self, slot: Slot, n_uses: u32, near: u32) {
        let has_count = |id: u32| self.buckets.get(id as usize).is_some_and(|bucket| bucket.n_uses == n_uses);
        let after = if near == NONE { self.first_bucket } else { self.buckets[near as usize].next };
        let bucket = match (has_count(near), has_count(after)) {
            (true, _) => near,
            (false, true) => after,
            (false, false) => self.new_bucket(n_uses, near, after),
        };
        self.buckets[bucket as usize].entries.push_last(slot);
        record(slot).residency.set_group(bucket);
        set_position(slot, Position::Linked);
    }

    fn new_bucket(&mut self, n_uses: u32, previous: u32, next: u32) -> u32 {
        let bucket = Bucket { n_uses, entries: List::new(), previous, next };
        let id = if self.unused_bucket == NONE {
            self.buckets.push(bucket);
            self.buckets.len() as u32 - 1
        } else {
            let id = self.unused_bucket;
            self.unused_bucket = self.buckets[id as usize].next;
            self.buckets[id as usize] = bucket;
            id
        };
        self.join(previous, id);
        self.join(id, next);
        id
    }

    fn drop_bucket_if_empty(&mut self, id: u32) {
        let Bucket { entries, previous, next, .. } = self.buckets[id as usize];
        if entries.is_empty() {
            self.join(previous, next);
            self.buckets[id as usize].next = self.unused_bucket;
            self.unused_bucket = id;
        }
    }

    /// Makes two buckets neighbours; `NONE` is the end on either side.
    fn join(&mut self, previous: u32, next: u32) {
        match self.buckets.get_mut(previous as usize) {
            Some(bucket) => bucket.next = next,
            None => self.first_bucket = next,
        }
        if let Some(bucket) = self.buckets.get_mut(next as usize) {
            bucket.previous = previous;
        }
    }

    /// Verifies the lists against the ranks, and returns how many entries are in the order.
    pub(super) fn check(&self) -> Result<usize, String> {
        let (mut n_seen, mut last_rank, mut before, mut id) = (0, (0, 0), NONE, self.first_bucket);
        while let Some(bucket) = self.buckets.get(id as usize) {
            unless(bucket.previous == before, "the buckets are not linked both ways")?;
            unless(!bucket.entries.is_empty(), "a bucket is empty")?;
            for slot in bucket.entries.check()? {
                let is_here = record(slot).residency.group() == id && position(slot) == Position::Linked;
                unless(is_here, "an entry is misplaced")?;
                let rank = self.rank(slot);
                unless(rank > last_rank, "the ranks do not rise")?;
                (last_rank, n_seen) = (rank, n_seen + 1);
            }
            (before, id) = (id, bucket.next);
        }
        for (&rank, &slot) in &self.returned {
            unless(position(slot) == Position::Returned && self.rank(slot) == rank, "a return is misplaced")?;
        }
        Ok(n_seen + self.returned.len())
    }
}
