//! LRU, MRU and FIFO: the order of the last placement.
//!
//! A queue of placements, newest last. Placing an entry again appends to the queue; the old placement is then outdated,
//! because the entry's record has a newer time. So a use costs one append to memory in the cache, where a linked list
//! would write to an entry and its four neighbours. Outdated placements are dropped when eviction reaches them. If
//! evictions are rare, a sweep drops them, a few steps with every placement. So the queue is at most [`LENGTH_MAX`]
//! times as long as there are entries, and no placement pays for more than [`SWEPT_AT_ONCE`] steps.
//!
//! A released entry goes into a map ordered by time, and the next candidate is the better one of the queue's end and
//! the map's. So the order is exactly the same as without parking.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

use super::position::{Position, position, set_position, unless};
use crate::chunk::{IndexId, NO_SLOT, Slot, record};
use crate::cpu::policy::EvictionPolicy;

/// Placements per entry, including outdated ones, from which on the queue is swept.
const SWEEP_FROM: usize = 2;
/// Placements swept for each new one, on average.
const SWEEP_STEPS: usize = 4;
/// Placements swept at a time: their records are far apart in memory, and the processor then waits for several
/// simultaneously.
const SWEPT_AT_ONCE: usize = 32;
/// Most placements per entry: a sweep ends before half as many were added.
const LENGTH_MAX: usize = 3;
/// Short queues are not swept.
const LENGTH_MIN: usize = 256;

/// One placement of an entry. Half of its time is enough to distinguish it from later ones, since none stays in the
/// queue until the other half changes.
#[derive(Clone, Copy)]
struct Placement {
    slot: Slot,
    time: u32,
}

pub(super) struct Recency {
    policy: EvictionPolicy,
    index_id: IndexId,
    n_entries: usize,
    /// Counts placements.
    clock: u64,
    queue: VecDeque<Placement>,
    sweep: Option<Sweep>,
    /// Released entries, by the time of their placement.
    returned: BTreeMap<u64, Slot>,
}

/// The progress of a sweep: the part before `kept` is done, and the part between `kept` and `next` is empty.
#[derive(Clone, Copy)]
struct Sweep {
    kept: usize,
    next: usize,
    /// Steps that are due.
    n_due: usize,
}

const NOTHING: Placement = Placement { slot: NO_SLOT, time: 0 };

fn time(slot: Slot) -> u64 {
    record(slot).residency.time.load(Ordering::Relaxed)
}

/// Returns the time under which an entry is in the map.
fn returned_time(slot: Slot) -> u64 {
    let residency = &record(slot).residency;
    let [high, low] = [&residency.previous, &residency.next].map(|half| half.load(Ordering::Relaxed));
    u64::from(high) << 32 | u64::from(low)
}

impl Recency {
    pub(super) fn new(policy: EvictionPolicy, index_id: IndexId) -> Self {
        let (queue, returned) = (VecDeque::new(), BTreeMap::new());
        Self { policy, index_id, n_entries: 0, clock: 0, queue, sweep: None, returned }
    }

    /// Reserves memory for this many entries.
    pub(super) fn expect(&mut self, n_entries: usize) {
        self.queue.reserve((LENGTH_MAX * n_entries + LENGTH_MIN).saturating_sub(self.queue.len()));
    }

    pub(super) fn insert(&mut self, slot: Slot) {
        self.n_entries += 1;
        set_position(slot, Position::Linked);
        self.place(slot);
    }

    /// Places an entry again, if uses matter.
    pub(super) fn touch(&mut self, slot: Slot) {
        if self.policy != EvictionPolicy::Fifo {
            self.place(slot);
        }
    }

    fn place(&mut self, slot: Slot) {
        self.clock += 1;
        record(slot).residency.time.store(self.clock, Ordering::Relaxed);
        match position(slot) {
            Position::Linked => {}
            // It keeps the time for its return.
            Position::Parked | Position::Absent => return,
            Position::Returned => {
                self.returned.remove(&returned_time(slot));
                set_position(slot, Position::Linked);
            }
        }
        self.queue.push_back(Placement { slot, time: self.clock as u32 });
        self.sweep_some();
    }

    /// Continues a sweep, or begins one if the queue is long.
    fn sweep_some(&mut self) {
        let is_long = self.queue.len() > SWEEP_FROM * self.n_entries + LENGTH_MIN;
        let begin = || is_long.then_some(Sweep { kept: 0, next: 0, n_due: 0 });
        let Some(mut sweep) = self.sweep.or_else(begin) else { return };
        sweep.n_due += SWEEP_STEPS;
        if sweep.n_due >= SWEPT_AT_ONCE {
            sweep.n_due = 0;
            let end = self.queue.len().min(sweep.next + SWEPT_AT_ONCE);
            for at in sweep.next..end {
                let placement = std::mem::replace(&mut self.queue[at], NOTHING);
                self.queue[sweep.kept] = placement;
                sweep.kept += usize::from(self.is_current(placement));
            }
            if sweep.kept < end {
                self.queue[sweep.kept] = NOTHING;
            }
            sweep.next = end;
        }
        self.sweep = Some(sweep);
        if sweep.next >= self.queue.len() {
            self.queue.truncate(sweep.kept);
            self.sweep = None;
        }
    }

    fn is_current(&self, placement: Placement) -> bool {
        let slot = placement.slot;
        slot != NO_SLOT
            && time(slot) as u32 == placement.time
            && position(slot) == Position::Linked
            && record(slot).is_in(self.index_id)
    }

    fn pop(&mut self, newest: bool) {
        if newest {
            self.queue.pop_back();
            // The sweep may have reached this place.
            let n = self.queue.len();
            let within = |sweep: Sweep| Sweep { kept: sweep.kept.min(n), next: sweep.next.min(n), ..sweep };
            self.sweep = self.sweep.map(within);
        } else {
            self.queue.pop_front();
            let one_less = |sweep: Sweep| Sweep {
                kept: sweep.kept.saturating_sub(1),
                next: sweep.next.saturating_sub(1),
                ..sweep
            };
            self.sweep = self.sweep.map(one_less);
        }
    }

    /// Calls `look` with up to `n` entries that may be the next candidates.
    pub(super) fn upcoming(&self, n: usize, look: impl FnMut(Slot)) {
        let slots = self.queue.iter().map(|placement| placement.slot).filter(|&slot| slot != NO_SLOT);
        if self.policy == EvictionPolicy::Mru {
            slots.rev().take(n).for_each(look);
        } else {
            slots.take(n).for_each(look);
        }
    }

    pub(super) fn candidate(&mut self) -> Option<Slot> {
        let newest = self.policy == EvictionPolicy::Mru;
        let linked = loop {
            let end = if newest { self.queue.back() } else { self.queue.front() };
            match end.copied() {
                Some(placement) if self.is_current(placement) => break Some(placement.slot),
                Some(_) => self.pop(newest),
                None => break None,
            }
        };
        let returned = if newest { self.returned.last_key_value() } else { self.returned.first_key_value() };
        match (linked, returned) {
            (Some(linked), Some((&returned_at, &returned))) => {
                let linked_is_newer = time(linked) > returned_at;
                Some(if linked_is_newer == newest { linked } else { returned })
            }
            (linked, returned) => linked.or(returned.map(|(_, &slot)| slot)),
        }
    }

    pub(super) fn detach(&mut self, slot: Slot) {
        if position(slot) == Position::Returned {
            self.returned.remove(&returned_time(slot));
        }
        self.n_entries -= usize::from(position(slot) != Position::Absent);
        set_position(slot, Position::Absent);
        if self.n_entries == 0 {
            self.queue.clear();
            self.sweep = None;
        } else {
            self.sweep_some();
        }
    }

    pub(super) fn park(&mut self, slot: Slot) {
        if position(slot) == Position::Returned {
            self.returned.remove(&returned_time(slot));
        }
        set_position(slot, Position::Parked);
    }

    pub(super) fn unpark(&mut self, slot: Slot) {
        let (time, residency) = (time(slot), &record(slot).residency);
        residency.previous.store((time >> 32) as u32, Ordering::Relaxed);
        residency.next.store(time as u32, Ordering::Relaxed);
        self.returned.insert(time, slot);
        set_position(slot, Position::Returned);
    }

    pub(super) fn check(&self) -> Result<usize, String> {
        let bound = LENGTH_MAX * self.n_entries + 2 * LENGTH_MIN;
        unless(self.queue.len() <= bound, "the queue is longer than its bound")?;
        let n_seen = self.queue.iter().filter(|placement| self.is_current(**placement)).count();
        for (&time, &slot) in &self.returned {
            let is_here = position(slot) == Position::Returned && returned_time(slot) == time;
            unless(is_here, "a return is misplaced")?;
        }
        Ok(n_seen + self.returned.len())
    }
}
