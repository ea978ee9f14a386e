//! A long mix of chunks of one size and odd sizes, for the test of how full a pool gets and for the bench that prints
//! it. It names nothing of the crate, so that the bench can include it.

use std::collections::BTreeMap;

/// Pages of the size that most chunks have: 2 MiB.
pub(crate) const UNIFORM_PAGES: usize = 512;
/// Pages of the largest odd size: 64 MiB.
const ODD_PAGES_MAX: usize = 16_384;

/// A space that hands out pages.
pub(crate) trait Space {
    /// A handle to allocated pages.
    type Piece;
    /// Takes adjacent pages, or returns `None` if there are none.
    fn allocate(&mut self, n_pages: usize) -> Option<Self::Piece>;
    /// Returns pages to the space.
    fn free(&mut self, piece: Self::Piece);
}

/// The order in which chunks leave a full space.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lifetimes {
    /// The oldest first.
    Equal,
    /// Each lives for a random number of allocations.
    Random,
}

/// How full the space was when it first refused a chunk, before any eviction for it, as shares of 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fullness {
    /// The mean over chunks of 2 MiB.
    pub(crate) uniform_mean: f64,
    /// The minimum over chunks of 2 MiB.
    pub(crate) uniform_min: f64,
    /// The mean over odd sizes.
    pub(crate) odd_mean: f64,
}

/// Allocates `n_steps` times from a space of `n_pages`, one in ten an odd size from 4 KiB to 64 MiB (each power of two
/// equally often), and evicts one chunk after the other until there is room. The first quarter does not count.
pub(crate) fn run(space: &mut impl Space, n_pages: usize, n_steps: usize, lifetimes: Lifetimes) -> Fullness {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: usize| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    };
    let mut live = BTreeMap::new();
    let mut n_used = 0;
    let (mut uniform, mut odd) = (Vec::new(), Vec::new());
    for step in 0..n_steps {
        let is_odd = below(10) == 0;
        let power = below(ODD_PAGES_MAX.ilog2() as usize);
        let size = if is_odd { 1 + below(2 << power) } else { UNIFORM_PAGES };
        let mut is_first = true;
        let piece = loop {
            if let Some(piece) = space.allocate(size) {
                break piece;
            }
            if is_first && step > n_steps / 4 {
                if is_odd { &mut odd } else { &mut uniform }.push(n_used as f64 / n_pages as f64);
            }
            is_first = false;
            let (_, (piece, size)) = live.pop_first().expect("an empty space has room");
            space.free(piece);
            n_used -= size;
        };
        n_used += size;
        let lifetime = match lifetimes {
            Lifetimes::Equal => 0,
            Lifetimes::Random => below(4 * n_pages / UNIFORM_PAGES),
        };
        live.insert((step + lifetime, step), (piece, size));
    }
    let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
    Fullness {
        uniform_mean: mean(&uniform),
        uniform_min: uniform.iter().copied().fold(1.0, f64::min),
        odd_mean: mean(&odd),
    }
}

/// The naive reference: the first free run that is long enough, by address.
pub(crate) struct FirstFit {
    /// Length by start.
    free: BTreeMap<usize, usize>,
}

impl FirstFit {
    /// Starts with `n_pages` free pages.
    pub(crate) fn new(n_pages: usize) -> Self {
        Self { free: BTreeMap::from([(0, n_pages)]) }
    }
}

impl Space for FirstFit {
    type Piece = (usize, usize);

    fn allocate(&mut self, n_pages: usize) -> Option<(usize, usize)> {
        let (start, n_found) =
            self.free.iter().map(|(&start, &n)| (start, n)).find(|(_, n)| *n >= n_pages)?;
        self.free.remove(&start);
        if n_found > n_pages {
            self.free.insert(start + n_pages, n_found - n_pages);
        }
        Some((start, n_pages))
    }

    fn free(&mut self, (mut start, mut n_pages): (usize, usize)) {
        if let Some((&left, &n_left)) = self.free.range(..start).next_back()
            && left + n_left == start
        {
            (start, n_pages) = (left, n_left + n_pages);
        }
        if let Some(n_right) = self.free.remove(&(start + n_pages)) {
            n_pages += n_right;
        }
        self.free.insert(start, n_pages);
    }
}
