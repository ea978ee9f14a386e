//! The pool's free pages, with a fast path for chunks of one size.
//!
//! A returned run is usually taken again immediately by a chunk of the same size: a full cache evicts one chunk for
//! each that it stores. To merge the run with its neighbours and split it again would be wasted work, so the runs
//! returned last are kept aside, and an allocation of their length takes one of them. They are merged before a search
//! for any other length, so that an allocation that fits is never refused. A run after free pages is merged
//! immediately: best fit would begin the next allocation at these, and leaving them would scatter small holes.
//!
//! Invariant: the runs kept aside have one length, are at most [`ASIDE_MAX`], count as free, and are allocated in
//! [`Pages`].

use super::Inconsistency;
use super::pages::{Pages, RunId};

/// The most runs that are kept aside: the chunks of one batch. Merging all of them takes some 2 µs, which is the
/// longest that an allocation of another length waits.
const ASIDE_MAX: usize = 32;

pub(super) struct Recycler {
    pages: Pages,
    aside: Vec<RunId>,
    /// The length of the runs kept aside. Meaningless while there are none.
    aside_n_pages: u32,
}

impl Recycler {
    /// Starts with `n_pages` free pages; at most [`PAGES_MAX`](super::pages::PAGES_MAX).
    pub(super) fn new(n_pages: u32) -> Self {
        Self { pages: Pages::new(n_pages), aside: Vec::with_capacity(ASIDE_MAX), aside_n_pages: 0 }
    }

    pub(super) fn n_total(&self) -> u32 {
        self.pages.n_total()
    }

    pub(super) fn n_free(&self) -> u32 {
        self.pages.n_free() + self.aside.len() as u32 * self.aside_n_pages
    }

    pub(super) fn start(&self, id: RunId) -> u32 {
        self.pages.start(id)
    }

    /// Takes `n_pages` (at least 1): a run kept aside if they have that length, else from the smallest free run that is
    /// long enough. Returns `None` if there is none.
    pub(super) fn allocate(&mut self, n_pages: u32) -> Option<RunId> {
        if n_pages != self.aside_n_pages {
            if n_pages > self.n_free() {
                return None;
            }
            self.merge_aside();
        } else if let Some(id) = self.aside.pop() {
            return Some(id);
        }
        self.pages.allocate(n_pages)
    }

    /// Returns an allocated run.
    pub(super) fn free(&mut self, id: RunId) {
        debug_assert!(!self.aside.contains(&id), "run {id} was freed twice");
        let n_pages = self.pages.n_pages(id);
        if n_pages != self.aside_n_pages {
            self.merge_aside();
            self.aside_n_pages = n_pages;
        }
        if self.aside.len() == ASIDE_MAX || self.pages.is_free_before(id) {
            self.pages.free(id);
        } else {
            self.aside.push(id);
        }
    }

    fn merge_aside(&mut self) {
        for id in self.aside.drain(..) {
            self.pages.free(id);
        }
    }

    /// Verifies all records against each other.
    pub(super) fn check(&self) -> Result<(), Inconsistency> {
        self.pages.check()?;
        for (i, &id) in self.aside.iter().enumerate() {
            let n_pages = self.pages.n_allocated(id);
            let is_once = !self.aside[..i].contains(&id);
            Inconsistency::unless(n_pages == Some(self.aside_n_pages) && is_once, "page allocator", || {
                format!(
                    "run {id} is kept aside among runs of {} pages, and has {n_pages:?}",
                    self.aside_n_pages
                )
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ASIDE_MAX, Recycler};
    use crate::cpu::testing::Random;
    use crate::memory::pages::RunId;

    fn longest_free(owner: &[Option<RunId>]) -> usize {
        owner.split(Option::is_some).map(<[_]>::len).max().unwrap_or(0)
    }

    /// Allocates and frees at random, mostly one size, and compares with a map of the owner of each page.
    fn random_mix(pages: &mut Recycler, n_steps: usize) -> (usize, usize) {
        let mut random = Random::new(11);
        let mut owner: Vec<Option<RunId>> = vec![None; pages.n_total() as usize];
        let mut live: Vec<(RunId, usize, usize)> = Vec::new();
        let (mut n_refused, mut n_recycled) = (0, 0);
        let mut freed_last = None;
        for _ in 0..n_steps {
            if live.is_empty() || random.below(100) < 52 {
                let n_pages = if random.below(6) == 0 { 1 + random.below(300) } else { 16 };
                let Some(id) = pages.allocate(n_pages as u32) else {
                    assert!(longest_free(&owner) < n_pages, "a run that fits was overlooked");
                    n_refused += 1;
                    continue;
                };
                let start = pages.start(id) as usize;
                let taken = &mut owner[start..start + n_pages];
                assert!(taken.iter().all(Option::is_none), "pages were handed out twice");
                taken.fill(Some(id));
                n_recycled += usize::from(freed_last == Some((start, n_pages)));
                live.push((id, start, n_pages));
                freed_last = None;
            } else {
                let (id, start, n_pages) = live.swap_remove(random.below(live.len()));
                pages.free(id);
                owner[start..start + n_pages].fill(None);
                freed_last = Some((start, n_pages));
            }
            let n_free = owner.iter().filter(|owner| owner.is_none()).count();
            assert_eq!(pages.n_free() as usize, n_free);
            pages.check().unwrap();
        }
        for (id, ..) in live {
            pages.free(id);
        }
        (n_refused, n_recycled)
    }

    #[test]
    fn an_allocation_that_fits_is_never_refused_whatever_is_kept_aside() {
        let (n_pages, n_steps) = if cfg!(miri) { (128, 100) } else { (1000, 20_000) };
        let mut pages = Recycler::new(n_pages);
        let (n_refused, n_recycled) = random_mix(&mut pages, n_steps);
        assert!(n_refused > 0 && n_recycled > 0);
        assert_eq!(pages.n_free(), n_pages);
        assert_eq!(pages.allocate(n_pages).map(|id| pages.start(id)), Some(0), "all of it is one run again");
    }

    #[test]
    fn what_was_given_back_last_is_taken_first_by_the_same_size() {
        let mut pages = Recycler::new(64);
        let ids: Vec<RunId> = (0..8).map(|_| pages.allocate(4).unwrap()).collect();
        pages.free(ids[2]);
        pages.free(ids[5]);
        assert_eq!(pages.allocate(4), Some(ids[5]));
        assert_eq!(pages.allocate(4), Some(ids[2]));
        assert_ne!(pages.allocate(4), None);
    }

    #[test]
    fn more_than_a_batch_is_not_kept_aside() {
        let n_runs = 3 * ASIDE_MAX as u32;
        let mut pages = Recycler::new(2 * n_runs);
        let ids: Vec<RunId> = (0..n_runs).map(|_| pages.allocate(2).unwrap()).collect();
        for id in ids {
            pages.free(id);
        }
        assert_eq!((pages.aside.len(), pages.n_free()), (ASIDE_MAX, 2 * n_runs));
        pages.check().unwrap();
        assert!(pages.allocate(2 * n_runs).is_some());
        assert!(pages.aside.is_empty());
    }

    #[test]
    fn check_notices_runs_that_should_not_be_kept_aside() {
        let broken = |break_it: fn(&mut Recycler, [RunId; 3])| {
            let mut pages = Recycler::new(16);
            let ids = [2, 2, 3].map(|n_pages| pages.allocate(n_pages).unwrap());
            pages.free(ids[0]);
            pages.check().unwrap();
            break_it(&mut pages, ids);
            pages.check().unwrap_err().to_string()
        };
        assert!(broken(|pages, ids| pages.aside.push(ids[0])).contains("kept aside"), "twice");
        assert!(broken(|pages, ids| pages.aside.push(ids[2])).contains("has Some(3)"), "of another length");
        assert!(broken(|pages, ids| pages.pages.free(ids[0])).contains("has None"), "free already");
    }
}
