//! The free pages of a region. The records lie outside the region.
//!
//! Best fit among all free runs, exact and in constant time: one list of free runs per length, and a tree of bits over
//! the lengths that finds the smallest sufficient one in at most five steps. With size classes, a run that fits could
//! be overlooked, and a caller would wait for memory that is there. The table by length is as large as the region has
//! pages, but only the parts in use are touched.
//!
//! Invariant: runs cover the region without overlap, and no two free runs are adjacent.

mod bit_tree;

use super::Inconsistency;
use bit_tree::BitTree;

/// The most pages that can be managed: 16 TiB.
pub(super) const PAGES_MAX: usize = u32::MAX as usize - 1;

/// Names a run. 0 names none, so that tables can start as zeroed memory, which costs nothing.
pub(super) type RunId = u32;
const NONE: RunId = 0;

/// Consecutive pages that are free or allocated together.
#[derive(Clone, Copy, Default, Debug)]
struct PageRun {
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
    runs: Vec<PageRun>,
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
            runs: vec![PageRun::default()],
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

    /// Reports whether the page before a run is free, so that the run would begin earlier if it were also free.
    pub(super) fn is_free_before(&self, id: RunId) -> bool {
        self.free_run_at(self.start(id).checked_sub(1)).is_some()
    }

    /// Returns the length of an allocated run; `None` if `id` names none.
    pub(super) fn n_allocated(&self, id: RunId) -> Option<u32> {
        let run = self.runs.get(id as usize)?;
        (!run.is_free && run.n_pages > 0).then_some(run.n_pages)
    }

    /// Takes `n_pages` (at least 1) from the smallest free run that is long enough.
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

    /// Returns an allocated run and merges it with its free neighbours.
    pub(super) fn free(&mut self, id: RunId) {
        let PageRun { start, n_pages, is_free, .. } = self.runs[id as usize];
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

    /// Verifies all records against each other.
    pub(super) fn check(&self) -> Result<(), Inconsistency> {
        let unless =
            |holds, detail: &dyn Fn() -> String| Inconsistency::unless(holds, "page allocator", detail);
        let (mut page, mut n_free, mut n_free_runs, mut previous_is_free) = (0, 0, 0, false);
        while page < self.n_total() {
            let id = self.boundary[page as usize];
            let run = self.runs[id as usize];
            let end = page + run.n_pages;
            unless(id != NONE && run.start == page && run.n_pages > 0, &|| {
                format!("page {page} should start a run, but its record is {run:?}")
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

    /// Releases the record of a free run. Its pages now belong to a neighbour.
    fn absorb(&mut self, id: RunId) {
        self.unlink(id);
        self.runs[id as usize] = PageRun { next: self.unused, ..PageRun::default() };
        self.unused = id;
    }

    fn new_run(&mut self, start: u32, n_pages: u32) -> RunId {
        let id = if self.unused == NONE {
            self.runs.push(PageRun::default());
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
        let PageRun { n_pages, previous, next, .. } = self.runs[id as usize];
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

#[cfg(test)]
mod tests;
