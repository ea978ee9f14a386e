//! Which pages of a region are free: the books of the pool, kept outside the region.
//!
//! Best fit among all free runs, exact and in constant time: one list of free runs per length, and a
//! tree of bits over the lengths that finds the smallest sufficient one in at most five steps. Exact,
//! because with size classes a run that fits could be overlooked, and then a caller would wait for
//! memory that is there. The table by length is as large as the region has pages, but only the parts
//! in use are ever touched.
//!
//! Invariant: runs tile the region, and no two free runs are adjacent.

use super::Inconsistency;

/// The largest number of pages that can be kept account of: 16 TiB.
pub(super) const PAGES_MAX: usize = u32::MAX as usize - 1;

/// Names a run. 0 names none, so that tables start as zeroed memory, which costs nothing.
pub(super) type RunId = u32;
const NONE: RunId = 0;

/// Consecutive pages that are free or allocated together.
#[derive(Clone, Copy, Default, Debug)]
struct Run {
    start: u32,
    n_pages: u32,
    is_free: bool,
    /// Neighbours in the list of free runs of the same length; `next` also links unused records.
    previous: RunId,
    next: RunId,
}

pub(super) struct Pages {
    /// The run that starts or ends at a page; meaningless for pages inside a run.
    boundary: Vec<RunId>,
    /// By length: the first free run of exactly that length.
    heads: Vec<RunId>,
    lengths: BitTree,
    runs: Vec<Run>,
    unused: RunId,
    n_free: u32,
}

impl Pages {
    /// Starts with `n_pages` free pages; at most [`PAGES_MAX`].
    pub(super) fn new(n_pages: u32) -> Self {
        let mut pages = Self {
            boundary: vec![NONE; n_pages as usize],
            heads: vec![NONE; n_pages as usize + 1],
            lengths: BitTree::new(n_pages as usize + 1),
            runs: vec![Run::default()],
            unused: NONE,
            n_free: n_pages,
        };
        if n_pages > 0 {
            let all = pages.new_run(0, n_pages);
            pages.link(all);
        }
        pages
    }

    pub(super) fn n_total(&self) -> u32 {
        self.boundary.len() as u32
    }

    pub(super) fn n_free(&self) -> u32 {
        self.n_free
    }

    pub(super) fn start(&self, id: RunId) -> u32 {
        self.runs[id as usize].start
    }

    pub(super) fn n_pages(&self, id: RunId) -> u32 {
        self.runs[id as usize].n_pages
    }

    /// Returns whether the page before a run is free, so that the run would begin earlier if it were free too.
    pub(super) fn is_free_before(&self, id: RunId) -> bool {
        self.free_run_at(self.start(id).checked_sub(1)).is_some()
    }

    /// Returns the length of an allocated run; `None` if `id` names none.
    pub(super) fn n_allocated(&self, id: RunId) -> Option<u32> {
        let run = self.runs.get(id as usize)?;
        (!run.is_free && run.n_pages > 0).then_some(run.n_pages)
    }

    /// Takes `n_pages` (at least 1) from the smallest free run that has as many.
    pub(super) fn allocate(&mut self, n_pages: u32) -> Option<RunId> {
        let n_found = self.lengths.first_at_least(n_pages as usize)? as u32;
        let id = self.heads[n_found as usize];
        self.unlink(id);
        if n_found > n_pages {
            let start = self.runs[id as usize].start;
            self.set_extent(id, start, n_pages);
            let rest = self.new_run(start + n_pages, n_found - n_pages);
            self.link(rest);
        }
        self.n_free -= n_pages;
        Some(id)
    }

    /// Gives an allocated run back and merges it with its free neighbours.
    pub(super) fn free(&mut self, id: RunId) {
        let Run { start, n_pages, is_free, .. } = self.runs[id as usize];
        debug_assert!(!is_free && n_pages > 0, "run {id} was freed twice");
        self.n_free += n_pages;
        let (mut first, mut end) = (start, start + n_pages);
        if let Some(left) = self.free_run_at(first.checked_sub(1)) {
            first = self.runs[left as usize].start;
            self.absorb(left);
        }
        if let Some(right) = self.free_run_at(Some(end)) {
            end += self.runs[right as usize].n_pages;
            self.absorb(right);
        }
        self.set_extent(id, first, end - first);
        self.link(id);
    }

    /// Verifies all books against each other.
    pub(super) fn check(&self) -> Result<(), Inconsistency> {
        let unless =
            |holds, detail: &dyn Fn() -> String| Inconsistency::unless(holds, "page allocator", detail);
        let (mut page, mut n_free, mut n_free_runs, mut previous_is_free) = (0, 0, 0, false);
        while page < self.n_total() {
            let id = self.boundary[page as usize];
            let run = self.runs[id as usize];
            let end = page + run.n_pages;
            unless(id != NONE && run.start == page && run.n_pages > 0, &|| {
                format!("page {page} should start a run, and its record says {run:?}")
            })?;
            unless(self.boundary[end as usize - 1] == id, &|| format!("{run:?} has no end"))?;
            unless(!(run.is_free && previous_is_free), &|| {
                format!("two adjacent free runs meet at page {page}")
            })?;
            previous_is_free = run.is_free;
            n_free += if run.is_free { run.n_pages } else { 0 };
            n_free_runs += usize::from(run.is_free);
            page = end;
        }
        unless(page == self.n_total() && n_free == self.n_free, &|| {
            format!("{n_free} pages are free by their runs, {} by the counter", self.n_free)
        })?;
        let mut n_listed = 0;
        for (n_pages, &head) in self.heads.iter().enumerate() {
            unless(self.lengths.contains(n_pages) == (head != NONE), &|| {
                format!("the bit of length {n_pages} is wrong")
            })?;
            let mut id = head;
            while id != NONE {
                let run = self.runs[id as usize];
                unless(run.is_free && run.n_pages as usize == n_pages, &|| {
                    format!("{run:?} is in the list of free runs of {n_pages} pages")
                })?;
                n_listed += 1;
                id = run.next;
            }
        }
        unless(n_listed == n_free_runs, &|| format!("{n_listed} of {n_free_runs} runs are listed"))
    }

    fn free_run_at(&self, page: Option<u32>) -> Option<RunId> {
        let id = *self.boundary.get(page? as usize)?;
        self.runs[id as usize].is_free.then_some(id)
    }

    /// Makes the record of a free run unused; its pages now belong to a neighbour.
    fn absorb(&mut self, id: RunId) {
        self.unlink(id);
        self.runs[id as usize] = Run { next: self.unused, ..Run::default() };
        self.unused = id;
    }

    fn new_run(&mut self, start: u32, n_pages: u32) -> RunId {
        let id = if self.unused == NONE {
            self.runs.push(Run::default());
            self.runs.len() as u32 - 1
        } else {
            let id = self.unused;
            self.unused = self.runs[id as usize].next;
            id
        };
        self.set_extent(id, start, n_pages);
        id
    }

    fn set_extent(&mut self, id: RunId, start: u32, n_pages: u32) {
        let run = &mut self.runs[id as usize];
        (run.start, run.n_pages) = (start, n_pages);
        self.boundary[start as usize] = id;
        self.boundary[(start + n_pages - 1) as usize] = id;
    }

    fn link(&mut self, id: RunId) {
        let n_pages = self.runs[id as usize].n_pages as usize;
        let next = self.heads[n_pages];
        let run = &mut self.runs[id as usize];
        (run.is_free, run.previous, run.next) = (true, NONE, next);
        if next == NONE {
            self.lengths.insert(n_pages);
        } else {
            self.runs[next as usize].previous = id;
        }
        self.heads[n_pages] = id;
    }

    fn unlink(&mut self, id: RunId) {
        let Run { n_pages, previous, next, .. } = self.runs[id as usize];
        self.runs[id as usize].is_free = false;
        if next != NONE {
            self.runs[next as usize].previous = previous;
        }
        if previous != NONE {
            self.runs[previous as usize].next = next;
            return;
        }
        self.heads[n_pages as usize] = next;
        if next == NONE {
            self.lengths.remove(n_pages as usize);
        }
    }
}

/// A set of small numbers that finds the smallest member from a given number on in constant time:
/// level 0 has a bit per number, every further level a bit per non-zero word of the one below.
struct BitTree {
    levels: Vec<Vec<u64>>,
}

impl BitTree {
    fn new(n_numbers: usize) -> Self {
        let mut levels = Vec::new();
        let mut n_bits = n_numbers;
        loop {
            let n_words = n_bits.div_ceil(64);
            levels.push(vec![0; n_words]);
            if n_words <= 1 {
                return Self { levels };
            }
            n_bits = n_words;
        }
    }

    fn contains(&self, number: usize) -> bool {
        self.levels[0][number / 64] & (1 << (number % 64)) != 0
    }

    fn insert(&mut self, number: usize) {
        let mut bit = number;
        for level in &mut self.levels {
            let word = &mut level[bit / 64];
            let was_empty = *word == 0;
            *word |= 1 << (bit % 64);
            if !was_empty {
                return;
            }
            bit /= 64;
        }
    }

    fn remove(&mut self, number: usize) {
        let mut bit = number;
        for level in &mut self.levels {
            let word = &mut level[bit / 64];
            *word &= !(1 << (bit % 64));
            if *word != 0 {
                return;
            }
            bit /= 64;
        }
    }

    fn first_at_least(&self, number: usize) -> Option<usize> {
        let mut bit = number;
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get(bit / 64)? & (u64::MAX << (bit % 64));
            if word != 0 {
                let mut found = bit / 64 * 64 + word.trailing_zeros() as usize;
                for level in self.levels[..height].iter().rev() {
                    found = found * 64 + level[found].trailing_zeros() as usize;
                }
                return Some(found);
            }
            bit = bit / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{BitTree, Pages, RunId};
    use crate::cpu::testing::Random;

    #[test]
    fn random_allocations_and_frees_keep_the_books_and_are_best_fit() {
        let (n_total, n_steps) = if cfg!(miri) { (128, 100) } else { (1000, 20_000) };
        let mut random = Random::new(7);
        let mut pages = Pages::new(n_total);
        let mut owner: Vec<Option<RunId>> = vec![None; n_total as usize];
        let mut live: Vec<(RunId, u32, u32)> = Vec::new();
        let (mut n_refused, mut n_fitted) = (0, 0);
        for _ in 0..n_steps {
            if live.is_empty() || random.below(100) < 52 {
                let n_pages_max = if random.below(8) == 0 { 400 } else { 40 };
                let n_pages = 1 + random.below(n_pages_max) as u32;
                let best = free_runs(&owner).into_iter().filter(|&n| n >= n_pages as usize).min();
                let found = pages.allocate(n_pages);
                assert_eq!(found.is_some(), best.is_some(), "a fitting run was overlooked");
                let Some(id) = found else {
                    n_refused += 1;
                    continue;
                };
                n_fitted += 1;
                let start = pages.start(id);
                let around = &owner[start as usize..];
                let run = around.iter().take_while(|owner| owner.is_none()).count();
                assert_eq!(Some(run), best, "not the best fit");
                owner[start as usize..(start + n_pages) as usize].fill(Some(id));
                live.push((id, start, n_pages));
            } else {
                let (id, start, n_pages) = live.swap_remove(random.below(live.len()));
                pages.free(id);
                owner[start as usize..(start + n_pages) as usize].fill(None);
            }
            pages.check().unwrap();
            assert_eq!(pages.n_free() as usize, free_runs(&owner).iter().sum::<usize>());
        }
        assert!(n_refused > 0 && n_fitted > 0);
        for (id, ..) in live {
            pages.free(id);
        }
        pages.check().unwrap();
        assert_eq!(pages.allocate(n_total).map(|id| pages.start(id)), Some(0));
    }

    fn free_runs(owner: &[Option<RunId>]) -> Vec<usize> {
        let runs = owner.split(Option::is_some).map(<[_]>::len);
        runs.filter(|&n| n > 0).collect()
    }

    #[test]
    fn a_run_of_exactly_the_size_is_found_at_any_size() {
        for n_pages in [1, 63, 64, 65, 4095, 4096, 4097, 8193, 262_145] {
            let mut pages = Pages::new(2 * n_pages);
            let first = pages.allocate(n_pages).unwrap();
            let second = pages.allocate(n_pages).unwrap();
            assert_eq!(pages.allocate(1), None);
            pages.free(first);
            assert_eq!(pages.allocate(n_pages + 1), None);
            let third = pages.allocate(n_pages).unwrap();
            pages.free(second);
            pages.free(third);
            assert!(pages.allocate(2 * n_pages).is_some());
        }
    }

    #[test]
    fn check_notices_broken_books() {
        let broken = |break_it: fn(&mut Pages)| {
            let mut pages = Pages::new(16);
            let first = pages.allocate(2).unwrap();
            pages.allocate(2).unwrap();
            pages.free(first);
            pages.check().unwrap();
            break_it(&mut pages);
            pages.check().unwrap_err().to_string()
        };
        assert!(broken(|pages| pages.n_free += 1).contains("by the counter"));
        assert!(broken(|pages| pages.heads[2] = 0).contains("length 2"));
        assert!(broken(|pages| pages.lengths.remove(12)).contains("length 12"));
        assert!(broken(|pages| pages.boundary[4] = 0).contains("page 4"));
        assert!(
            broken(|pages| {
                let id = pages.boundary[2] as usize;
                pages.runs[id].is_free = true;
            })
            .contains("adjacent")
        );
    }

    #[test]
    fn the_bit_tree_agrees_with_an_ordered_set() {
        let mut random = Random::new(3);
        for n_numbers in [1, 64, 65, 4096, 4097, 300_000] {
            let (mut tree, mut set) = (BitTree::new(n_numbers), BTreeSet::new());
            for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
                let number = random.below(n_numbers);
                if random.below(2) == 0 {
                    tree.insert(number);
                    set.insert(number);
                } else {
                    tree.remove(number);
                    set.remove(&number);
                }
                let from = random.below(n_numbers);
                assert_eq!(tree.first_at_least(from), set.range(from..).next().copied());
                assert_eq!(tree.contains(number), set.contains(&number));
            }
        }
    }
}
