//! S3-FIFO: a small queue for new entries, a main queue for entries that were used in the small one, and the keys of
//! entries evicted from the small one. A tenth of all entries is enough to separate the many chunks that come once from
//! the few that come again.
//!
//! - A new entry goes into the small queue, or into the main one if its key is remembered.
//! - When the small queue has a tenth of all entries, its oldest leaves it: it goes into the main queue if it was
//!   used more than once; else it is evicted, and its key is remembered. Otherwise the oldest of the main queue leaves:
//!   if it has uses, it goes to the end of the main queue with one use less; else it is evicted.
//! - Uses are counted up to 3, and from 0 when an entry enters the main queue. As many keys are remembered as the
//!   main queue has entries.
//!
//! # Source
//! Yang and others, "FIFO Queues are All You Need for Cache Eviction", SOSP 2023, algorithm 1. There the queues have
//! fixed sizes. Here they are shares of the entries in memory, since chunks differ in size.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::list::List;
use super::position::{Position, position, set_position, unless};
use crate::chunk::{Slot, record};
use crate::key::ChunkKey;

/// The small queue's share of all entries is one in this many.
const SMALL_SHARE: usize = 10;

const SMALL: u32 = 0;
const MAIN: u32 = 1;

pub(super) struct S3Fifo {
    /// By group.
    queues: [List; 2],
    ghosts: Ghosts,
}

impl S3Fifo {
    pub(super) fn new() -> Self {
        Self { queues: [List::new(); 2], ghosts: Ghosts::default() }
    }

    pub(super) fn insert(&mut self, slot: Slot) {
        let group = if self.ghosts.forget(record(slot).key()) { MAIN } else { SMALL };
        self.push(slot, group);
    }

    fn push(&mut self, slot: Slot, group: u32) {
        record(slot).residency.set_group(group);
        self.queues[group as usize].push_last(slot);
        set_position(slot, Position::Linked);
    }

    pub(super) fn candidate(&mut self) -> Option<Slot> {
        let [small, main] = &self.queues;
        let n_entries = small.n_entries + main.n_entries;
        // Every entry of the main queue goes to its end at most three times, unless it is used in between.
        for _ in 0..4 * n_entries {
            let slot = self.oldest(n_entries)?;
            let residency = &record(slot).residency;
            match (residency.group(), residency.marks()) {
                (SMALL, 2..) => {
                    self.detach(slot);
                    residency.set_marks(0);
                    self.push(slot, MAIN);
                }
                (MAIN, n_marks @ 1..) => {
                    self.detach(slot);
                    residency.set_marks(n_marks - 1);
                    self.push(slot, MAIN);
                }
                _ => return Some(slot),
            }
        }
        self.oldest(n_entries)
    }

    fn oldest(&self, n_entries: usize) -> Option<Slot> {
        let [small, main] = &self.queues;
        let from_small = main.is_empty() || (!small.is_empty() && small.n_entries >= n_entries / SMALL_SHARE);
        let queue = if from_small { small } else { main };
        (!queue.is_empty()).then_some(queue.first)
    }

    /// Remembers the key of an entry that is being evicted.
    pub(super) fn remember(&mut self, slot: Slot) {
        if record(slot).residency.group() == SMALL {
            self.ghosts.remember(record(slot).key(), self.queues[MAIN as usize].n_entries);
        }
    }

    pub(super) fn detach(&mut self, slot: Slot) {
        if position(slot) == Position::Linked {
            self.queues[record(slot).residency.group() as usize].unlink(slot);
        }
    }

    pub(super) fn park(&mut self, slot: Slot) {
        self.detach(slot);
        set_position(slot, Position::Parked);
    }

    pub(super) fn unpark(&mut self, slot: Slot) {
        record(slot).residency.set_marks(0);
        self.push(slot, MAIN);
    }

    pub(super) fn check(&self) -> Result<usize, String> {
        let mut n_seen = 0;
        for (group, queue) in (0..).zip(&self.queues) {
            let slots = queue.check()?;
            let belongs =
                |&slot: &Slot| position(slot) == Position::Linked && record(slot).residency.group() == group;
            unless(slots.iter().all(belongs), "an entry is in the wrong queue")?;
            n_seen += slots.len();
        }
        self.ghosts.check()?;
        Ok(n_seen)
    }
}

/// Keys of chunks that were evicted from the small queue, oldest first.
#[derive(Default)]
struct Ghosts {
    /// With the number of the call that remembered it. A key whose number is outdated was forgotten.
    queue: VecDeque<(ChunkKey, u64)>,
    remembered: HashMap<ChunkKey, u64>,
    n_times: u64,
}

impl Ghosts {
    fn remember(&mut self, key: ChunkKey, n_max: usize) {
        self.n_times += 1;
        self.remembered.insert(key, self.n_times);
        self.queue.push_back((key, self.n_times));
        while self.remembered.len() > n_max || self.queue.len() > 2 * n_max + 1 {
            let Some((key, n_time)) = self.queue.pop_front() else { break };
            if self.remembered.get(&key) == Some(&n_time) {
                self.remembered.remove(&key);
            }
        }
    }

    /// Forgets a key, and reports whether it was remembered.
    fn forget(&mut self, key: ChunkKey) -> bool {
        self.remembered.remove(&key).is_some()
    }

    fn check(&self) -> Result<(), String> {
        let is_current = |(key, n_time): &&(ChunkKey, u64)| self.remembered.get(key) == Some(n_time);
        let n_current = self.queue.iter().filter(is_current).count();
        unless(n_current == self.remembered.len(), "a name is remembered for ever")
    }
}
