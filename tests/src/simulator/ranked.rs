//! Policies by rank: the chunk of the lowest rank is evicted first.

use std::collections::{BTreeSet, HashMap};

use super::{Cache, Policy};

/// Number of touches (LFU only), then time (negative for MRU).
type Rank = (u64, i64);

#[derive(Debug)]
pub(super) struct Ranked {
    policy: Policy,
    /// The rank of each chunk that is present.
    rank_of: HashMap<u64, Rank>,
    /// The chunks by rank; the first is evicted first.
    order: BTreeSet<(Rank, u64)>,
    now: i64,
}

impl Ranked {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, rank_of: HashMap::new(), order: BTreeSet::new(), now: 0 }
    }

    fn place(&mut self, chunk: u64, n_touches: u64) {
        self.now += 1;
        let rank = match self.policy {
            Policy::Lfu => (n_touches, self.now),
            Policy::Mru => (0, -self.now),
            _ => (0, self.now),
        };
        if let Some(old) = self.rank_of.insert(chunk, rank) {
            self.order.remove(&(old, chunk));
        }
        self.order.insert((rank, chunk));
    }
}

impl Cache for Ranked {
    fn has(&self, chunk: u64) -> bool {
        self.rank_of.contains_key(&chunk)
    }

    fn touch(&mut self, chunk: u64) {
        if self.policy != Policy::Fifo {
            self.place(chunk, self.rank_of[&chunk].0 + 1);
        }
    }

    fn evict(&mut self) {
        if let Some((_, victim)) = self.order.pop_first() {
            self.rank_of.remove(&victim);
        }
    }

    fn insert(&mut self, chunk: u64) {
        self.place(chunk, 1);
    }
}
