//! The order in which entries were used: a list through the entries, the oldest first.
//!
//! Each use has a number, its stamp; an entry keeps the last 32 bits of it. So stamps are compared by how far they lie
//! behind the clock, and those that fall far behind are moved up before they could be mistaken for new ones.

use super::entry::{Entries, NONE};
use super::found::Found;

/// Uses between two looks after stamps that fall behind.
const UPKEEP: u64 = 1 << 30;
/// The most that a stamp may fall behind; older stamps are moved up to this.
const AGE_MAX: u32 = 1 << 31;

pub(super) struct Order {
    pub(super) oldest: u32,
    youngest: u32,
    /// The entry that was put into its place last: the next one often comes beside it.
    last_placed: u32,
    clock: u64,
    upkept: u64,
    pub(super) found: Option<Found>,
}

impl Order {
    pub(super) fn new() -> Self {
        Self { oldest: NONE, youngest: NONE, last_placed: NONE, clock: 0, upkept: 0, found: None }
    }

    /// Forgets the entries; the clock goes on.
    pub(super) fn clear(&mut self) {
        (self.oldest, self.youngest, self.last_placed) = (NONE, NONE, NONE);
        self.found = None;
    }

    /// Takes `n` stamps, and returns the first.
    pub(super) fn advance<V>(&mut self, entries: &mut Entries<V>, n: u64) -> u64 {
        let first = self.clock;
        self.clock += n;
        // While chunks are being found, their stamps say where they belong.
        if self.clock - self.upkept >= UPKEEP && self.found.is_none() {
            self.upkept = self.clock;
            let now = self.clock as u32;
            for entry in entries.iter_mut() {
                if now.wrapping_sub(entry.stamp) > AGE_MAX {
                    entry.stamp = now.wrapping_sub(AGE_MAX);
                }
            }
        }
        first
    }

    /// Returns how many uses ago that was.
    pub(super) fn age(&self, stamp: u32) -> u32 {
        (self.clock as u32).wrapping_sub(stamp)
    }

    /// As [`Self::age`], of a stamp that is not cut yet.
    pub(super) fn age_of(&self, use_number: u64) -> u32 {
        u32::try_from(self.clock.saturating_sub(use_number)).unwrap_or(u32::MAX)
    }

    /// Puts the entry `at` where its stamp belongs. Looks from the young end and from where the last one was put, so it
    /// takes as many steps as there were uses since its call began, at most.
    #[inline]
    pub(super) fn place<V>(&mut self, entries: &mut Entries<V>, at: u32) {
        let age = self.age(entries[at].stamp);
        let is_older = |other: u32| self.age(entries[other].stamp) >= age;
        let mut older = self.youngest;
        if older != NONE && !is_older(older) {
            if self.last_placed != NONE {
                older = self.last_placed;
            }
            while older != NONE && !is_older(older) {
                older = entries[older].older;
            }
            while older != NONE && entries[older].younger != NONE && is_older(entries[older].younger) {
                older = entries[older].younger;
            }
        }
        self.insert_after(entries, older, at);
        self.last_placed = at;
    }

    /// Puts a chunk that was found, and used so long ago, behind all that were used since.
    pub(super) fn place_found<V>(&mut self, entries: &mut Entries<V>, at: u32) {
        if let Some(found) = &mut self.found {
            let older = found.place(entries, at);
            self.insert_after(entries, older, at);
        }
    }

    /// Takes an entry out of the order; one that is pinned is in none.
    #[inline]
    pub(super) fn remove<V>(&mut self, entries: &mut Entries<V>, at: u32) {
        if entries[at].is_pinned() {
            return;
        }
        if let Some(found) = &mut self.found {
            found.remove(entries, at);
        }
        let (older, younger) = (entries[at].older, entries[at].younger);
        if self.last_placed == at {
            self.last_placed = older;
        }
        *self.after(entries, older) = younger;
        *self.before(entries, younger) = older;
    }

    /// Notes that the entry `from` is now `to`.
    pub(super) fn moved<V>(&mut self, entries: &mut Entries<V>, from: u32, to: u32) {
        if entries[to].is_pinned() {
            return;
        }
        if let Some(found) = &mut self.found {
            found.moved(entries, from, to);
        }
        if self.last_placed == from {
            self.last_placed = to;
        }
        let (older, younger) = (entries[to].older, entries[to].younger);
        *self.after(entries, older) = to;
        *self.before(entries, younger) = to;
    }

    fn insert_after<V>(&mut self, entries: &mut Entries<V>, older: u32, at: u32) {
        let younger = std::mem::replace(self.after(entries, older), at);
        *self.before(entries, younger) = at;
        (entries[at].older, entries[at].younger) = (older, younger);
    }

    /// Returns the link from an entry to the next younger one.
    fn after<'a, V>(&'a mut self, entries: &'a mut Entries<V>, older: u32) -> &'a mut u32 {
        if older == NONE { &mut self.oldest } else { &mut entries[older].younger }
    }

    /// Returns the link from an entry to the next older one.
    fn before<'a, V>(&'a mut self, entries: &'a mut Entries<V>, younger: u32) -> &'a mut u32 {
        if younger == NONE { &mut self.youngest } else { &mut entries[younger].older }
    }

    #[cfg(test)]
    pub(super) fn set_clock(&mut self, clock: u64) {
        self.clock = clock;
    }
}
