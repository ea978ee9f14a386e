//! The order in which chunks are evicted, for all policies.
//!
//! An entry that eviction finds held (pinned or being read) is *parked*: it leaves the order, so that later evictions
//! do not meet it again, and returns when it is no longer held. Each step over a held entry is thus paid for by the use
//! that held it, and the cost of an eviction does not depend on the number of held entries.
//!
//! Everything here runs under the tier's lock, except setting the marks of SIEVE and S3-FIFO.

mod lfu;
mod list;
mod position;
mod recency;
mod s3_fifo;
mod sieve;

use super::policy::EvictionPolicy;
use super::touches::Touch;
use crate::chunk::{IndexId, Slot, record};
use lfu::Lfu;
use position::{Position, position, set_position, unless};
use recency::Recency;
use s3_fifo::S3Fifo;
use sieve::Sieve;

/// The effect of a use of an entry on the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Nothing,
    /// Marks the entry, in any position: [`mark`](crate::chunk::Residency::mark).
    Marks,
    /// Moves the entry to another place: the use is noted, and counted under the lock.
    Places,
}

/// Returns the order in which operations on a request's keys count as uses, so that the tail of a prefix is evicted
/// before its head.
pub(super) fn use_order(policy: EvictionPolicy, n_keys: usize) -> impl Iterator<Item = usize> {
    let is_head_first = match policy {
        EvictionPolicy::Mru => true,
        EvictionPolicy::Lru
        | EvictionPolicy::Lfu
        | EvictionPolicy::Fifo
        | EvictionPolicy::S3Fifo
        | EvictionPolicy::Sieve => false,
    };
    (0..n_keys).map(move |i| if is_head_first { i } else { n_keys - 1 - i })
}

impl Use {
    /// Returns the effect of a use under `policy`.
    pub(super) const fn of(policy: EvictionPolicy) -> Self {
        match policy {
            EvictionPolicy::Lru | EvictionPolicy::Lfu | EvictionPolicy::Mru => Self::Places,
            EvictionPolicy::S3Fifo | EvictionPolicy::Sieve => Self::Marks,
            EvictionPolicy::Fifo => Self::Nothing,
        }
    }
}

pub(super) struct Order {
    policy: EvictionPolicy,
    index_id: IndexId,
    by: By,
}

enum By {
    Recency(Recency),
    Lfu(Lfu),
    Sieve(Sieve),
    S3Fifo(S3Fifo),
}

/// Calls the same method of each policy.
macro_rules! each {
    ($order:expr, $by:ident => $do:expr) => {
        match $order {
            By::Recency($by) => $do,
            By::Lfu($by) => $do,
            By::Sieve($by) => $do,
            By::S3Fifo($by) => $do,
        }
    };
}

impl Order {
    pub(super) fn new(policy: EvictionPolicy, index_id: IndexId) -> Self {
        let by = match policy {
            EvictionPolicy::Lru | EvictionPolicy::Fifo | EvictionPolicy::Mru => {
                By::Recency(Recency::new(policy, index_id))
            }
            EvictionPolicy::Lfu => By::Lfu(Lfu::new()),
            EvictionPolicy::Sieve => By::Sieve(Sieve::new()),
            EvictionPolicy::S3Fifo => By::S3Fifo(S3Fifo::new()),
        };
        Self { policy, index_id, by }
    }

    pub(super) fn policy(&self) -> EvictionPolicy {
        self.policy
    }

    /// Reserves memory for this many entries.
    pub(super) fn expect(&mut self, n_entries: usize) {
        match &mut self.by {
            By::Recency(recency) => recency.expect(n_entries),
            By::Lfu(_) | By::Sieve(_) | By::S3Fifo(_) => {}
        }
    }

    /// Places a new entry.
    pub(super) fn insert(&mut self, slot: Slot) {
        debug_assert_eq!(position(slot), Position::Absent);
        record(slot).residency.set_marks(0);
        each!(&mut self.by, by => by.insert(slot));
    }

    /// Counts a use.
    pub(super) fn touch(&mut self, slot: Slot) {
        match &mut self.by {
            By::Recency(recency) => recency.touch(slot),
            By::Lfu(lfu) => lfu.touch(slot),
            By::Sieve(_) | By::S3Fifo(_) => record(slot).residency.mark(),
        }
    }

    /// Counts a noted use, if the chunk that was used is still present.
    pub(super) fn apply(&mut self, touch: Touch) {
        if touch.is_current(self.index_id) {
            self.touch(touch.slot);
        }
    }

    /// Renews the entry's place among those used equally often, without counting a use.
    pub(super) fn refresh(&mut self, slot: Slot) {
        match &mut self.by {
            By::Recency(_) => self.touch(slot),
            By::Lfu(lfu) => lfu.refresh(slot),
            By::Sieve(_) | By::S3Fifo(_) => {}
        }
    }

    /// Returns the entry to be evicted next, if it is not held. Without an eviction or a use in between, the next call
    /// returns the same.
    pub(super) fn candidate(&mut self) -> Option<Slot> {
        each!(&mut self.by, by => by.candidate())
    }

    /// Calls `look` with up to `n` entries that may soon be candidates, under policies where they are easy to find.
    pub(super) fn upcoming(&self, n: usize, look: impl FnMut(Slot)) {
        match &self.by {
            By::Recency(recency) => recency.upcoming(n, look),
            By::Lfu(_) | By::Sieve(_) | By::S3Fifo(_) => {}
        }
    }

    /// Removes the candidate.
    pub(super) fn evict(&mut self, slot: Slot) {
        match &mut self.by {
            By::S3Fifo(s3_fifo) => s3_fifo.remember(slot),
            By::Recency(_) | By::Lfu(_) | By::Sieve(_) => {}
        }
        self.remove(slot);
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, slot: Slot) {
        each!(&mut self.by, by => by.detach(slot));
        set_position(slot, Position::Absent);
    }

    /// Sets a held entry aside, so that it is not a candidate until [`unpark`](Self::unpark).
    pub(super) fn park(&mut self, slot: Slot) {
        if !Self::is_parked(slot) {
            each!(&mut self.by, by => by.park(slot));
        }
    }

    /// Makes a parked entry a candidate again: at the place of its rank or, under policies without ranks, as the newest
    /// of the entries that were used again.
    pub(super) fn unpark(&mut self, slot: Slot) {
        debug_assert_eq!(position(slot), Position::Parked);
        each!(&mut self.by, by => by.unpark(slot));
    }

    pub(super) fn is_parked(slot: Slot) -> bool {
        position(slot) == Position::Parked
    }

    /// Verifies the lists, and that there are `n_entries` entries, `n_parked` of them parked.
    pub(super) fn check(&self, n_entries: usize, n_parked: usize) -> Result<(), String> {
        let n_seen = each!(&self.by, by => by.check())? + n_parked;
        unless(n_seen == n_entries, "an entry is missing from the order")
    }
}
