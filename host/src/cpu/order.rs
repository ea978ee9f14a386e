//! The order in which chunks are evicted, under all four policies.
//!
//! Every entry has a rank: how often it was used (counted under LFU only), then when it was last
//! placed. LRU, LFU and FIFO evict the lowest rank, MRU the highest; the policies differ besides only
//! in what a use does to the rank. Entries of one use count form a list in the order of their
//! placing, and the lists are in the order of the counts, so every change is a few links.
//!
//! An entry that eviction finds held (pinned or being read) is *parked*: it leaves the lists, so that
//! no later eviction comes past it again. When it is no longer held it is *returned*, not to the lists,
//! where its place would have to be searched, but to a small ordered map by rank; the next candidate
//! is the better of the lists' end and the map's end. So the order is exactly the one without parking,
//! and each step past a held entry is paid for by the use that held it.

use std::collections::BTreeMap;

use super::policy::Policy;

/// A position in the index's table of entries.
pub(super) type Slot = u32;
const NONE: u32 = u32::MAX;

/// Use count, then the time of the last placing; unique.
type Rank = (u64, u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Absent,
    /// In the list of `bucket`.
    Linked,
    Parked,
    Returned,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    rank: Rank,
    place: Place,
    bucket: u32,
    previous: Slot,
    next: Slot,
}

/// The entries of one use count, oldest placing first. Never empty while in use.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    n_uses: u64,
    first: Slot,
    last: Slot,
    /// Buckets with the next lower and higher use count; `next` also links unused records.
    previous: u32,
    next: u32,
}

pub(super) struct Order {
    policy: Policy,
    nodes: Vec<Node>,
    buckets: Vec<Bucket>,
    first_bucket: u32,
    last_bucket: u32,
    unused_bucket: u32,
    returned: BTreeMap<Rank, Slot>,
    clock: u64,
}

impl Order {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            nodes: Vec::new(),
            buckets: Vec::new(),
            first_bucket: NONE,
            last_bucket: NONE,
            unused_bucket: NONE,
            returned: BTreeMap::new(),
            clock: 0,
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// Places a new entry, used once.
    pub(super) fn insert(&mut self, slot: Slot) {
        if slot as usize >= self.nodes.len() {
            let absent =
                Node { rank: (0, 0), place: Place::Absent, bucket: NONE, previous: NONE, next: NONE };
            self.nodes.resize(slot as usize + 1, absent);
        }
        debug_assert_eq!(self.nodes[slot as usize].place, Place::Absent);
        self.nodes[slot as usize].rank = (1, self.tick());
        // One use is the lowest count, so the bucket is the first or before the first.
        self.link(slot, NONE);
    }

    /// Counts a use.
    pub(super) fn touch(&mut self, slot: Slot) {
        let n_uses = self.nodes[slot as usize].rank.0;
        match self.policy {
            Policy::Fifo => {}
            Policy::Lru | Policy::Mru => self.place(slot, n_uses),
            Policy::Lfu => self.place(slot, n_uses + 1),
        }
    }

    /// Renews the entry's place among those used as often, without counting a use.
    pub(super) fn refresh(&mut self, slot: Slot) {
        if self.policy != Policy::Fifo {
            self.place(slot, self.nodes[slot as usize].rank.0);
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.detach(slot);
        self.nodes[slot as usize].place = Place::Absent;
    }

    /// Returns the entry to be evicted next, if it turns out not to be held. Changes nothing.
    pub(super) fn candidate(&self) -> Option<Slot> {
        let highest = self.policy == Policy::Mru;
        let (bucket, returned) = if highest {
            (self.last_bucket, self.returned.last_key_value())
        } else {
            (self.first_bucket, self.returned.first_key_value())
        };
        let bucket = self.buckets.get(bucket as usize);
        let linked = bucket.map(|bucket| if highest { bucket.last } else { bucket.first });
        match (linked, returned) {
            (Some(linked), Some((&rank, &returned))) => {
                let linked_is_higher = self.nodes[linked as usize].rank > rank;
                Some(if linked_is_higher == highest { linked } else { returned })
            }
            (linked, returned) => linked.or(returned.map(|(_, &slot)| slot)),
        }
    }

    /// Sets a held entry aside, so that it is no candidate until [`unpark`](Self::unpark).
    pub(super) fn park(&mut self, slot: Slot) {
        if !self.is_parked(slot) {
            self.detach(slot);
            self.nodes[slot as usize].place = Place::Parked;
        }
    }

    /// Makes a parked entry a candidate again, at the place that its rank gives it.
    pub(super) fn unpark(&mut self, slot: Slot) {
        let node = &mut self.nodes[slot as usize];
        debug_assert_eq!(node.place, Place::Parked);
        node.place = Place::Returned;
        self.returned.insert(node.rank, slot);
    }

    pub(super) fn is_parked(&self, slot: Slot) -> bool {
        self.nodes[slot as usize].place == Place::Parked
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Gives the entry a new rank and moves it there.
    fn place(&mut self, slot: Slot, n_uses: u64) {
        let rank = (n_uses, self.tick());
        let node = self.nodes[slot as usize];
        match node.place {
            Place::Linked => {
                // The old bucket stays until the entry is linked anew: it is where to start from.
                let old_bucket = node.bucket;
                self.unlink_from_list(slot);
                self.nodes[slot as usize].rank = rank;
                self.link(slot, old_bucket);
                self.drop_bucket_if_empty(old_bucket);
            }
            Place::Parked => self.nodes[slot as usize].rank = rank,
            Place::Returned => {
                self.returned.remove(&node.rank);
                self.nodes[slot as usize].rank = rank;
                if self.policy == Policy::Lfu {
                    // The bucket of its count would have to be searched.
                    self.returned.insert(rank, slot);
                } else {
                    self.link(slot, NONE);
                }
            }
            Place::Absent => debug_assert!(false, "slot {slot} is not in the order"),
        }
    }

    fn detach(&mut self, slot: Slot) {
        let Node { rank, place, bucket, .. } = self.nodes[slot as usize];
        match place {
            Place::Linked => {
                self.unlink_from_list(slot);
                self.drop_bucket_if_empty(bucket);
            }
            Place::Returned => {
                self.returned.remove(&rank);
            }
            Place::Parked | Place::Absent => {}
        }
    }

    /// Appends the entry to the bucket of its use count, which is `near` or the one after it; `NONE`
    /// stands before the first.
    fn link(&mut self, slot: Slot, near: u32) {
        let n_uses = self.nodes[slot as usize].rank.0;
        let has_count = |id: u32| self.buckets.get(id as usize).is_some_and(|bucket| bucket.n_uses == n_uses);
        let after = if near == NONE { self.first_bucket } else { self.buckets[near as usize].next };
        let bucket = match (has_count(near), has_count(after)) {
            (true, _) => near,
            (false, true) => after,
            (false, false) => self.new_bucket(n_uses, near, after),
        };
        let last = std::mem::replace(&mut self.buckets[bucket as usize].last, slot);
        if last == NONE {
            self.buckets[bucket as usize].first = slot;
        } else {
            self.nodes[last as usize].next = slot;
        }
        let node = &mut self.nodes[slot as usize];
        (node.place, node.bucket, node.previous, node.next) = (Place::Linked, bucket, last, NONE);
    }

    fn unlink_from_list(&mut self, slot: Slot) {
        let Node { bucket, previous, next, .. } = self.nodes[slot as usize];
        if previous == NONE {
            self.buckets[bucket as usize].first = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next == NONE {
            self.buckets[bucket as usize].last = previous;
        } else {
            self.nodes[next as usize].previous = previous;
        }
    }

    fn new_bucket(&mut self, n_uses: u64, previous: u32, next: u32) -> u32 {
        let bucket = Bucket { n_uses, first: NONE, last: NONE, previous, next };
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
        let Bucket { first, previous, next, .. } = self.buckets[id as usize];
        if first == NONE {
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
        match self.buckets.get_mut(next as usize) {
            Some(bucket) => bucket.previous = previous,
            None => self.last_bucket = previous,
        }
    }

    /// Verifies the lists against the ranks, and that `n_entries` entries are placed.
    pub(super) fn check(&self, n_entries: usize) -> Result<(), String> {
        let unless = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        let (mut n_seen, mut last_rank, mut before, mut id) = (0, (0, 0), NONE, self.first_bucket);
        while let Some(bucket) = self.buckets.get(id as usize) {
            unless(bucket.previous == before, "the buckets are not linked both ways")?;
            unless(bucket.first != NONE, "a bucket is empty")?;
            let (mut slot, mut previous) = (bucket.first, NONE);
            while slot != NONE {
                let node = self.nodes[slot as usize];
                unless(node.previous == previous, "a list is not linked both ways")?;
                unless(node.bucket == id && node.place == Place::Linked, "a node is misplaced")?;
                unless(node.rank.0 == bucket.n_uses, "a node is in the wrong bucket")?;
                unless(node.rank > last_rank, "the ranks do not rise")?;
                last_rank = node.rank;
                n_seen += 1;
                (previous, slot) = (slot, node.next);
            }
            unless(bucket.last == previous, "a list ends elsewhere")?;
            (before, id) = (id, bucket.next);
        }
        unless(self.last_bucket == before, "the buckets end elsewhere")?;
        for (&rank, &slot) in &self.returned {
            let node = self.nodes[slot as usize];
            unless(node.place == Place::Returned && node.rank == rank, "a return is misplaced")?;
        }
        n_seen += self.returned.len();
        n_seen += self.nodes.iter().filter(|node| node.place == Place::Parked).count();
        unless(n_seen == n_entries, "an entry is missing from the order")
    }
}
