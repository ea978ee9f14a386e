//! How full the pool gets under a long mix of sizes, compared with first fit.

use super::mix::{self, FirstFit, Lifetimes, Space};
use super::pages::RunId;
use super::recycler::Recycler;

/// How much of the pool is in use when a chunk of 2 MiB is first refused: the mean, the minimum, and the gain over
/// first fit.
const BOUNDS: [(Lifetimes, f64, f64, f64); 2] =
    [(Lifetimes::Equal, 0.99, 0.98, -0.005), (Lifetimes::Random, 0.96, 0.94, 0.002)];

impl Space for Recycler {
    type Piece = RunId;

    fn allocate(&mut self, n_pages: usize) -> Option<RunId> {
        self.allocate(n_pages as u32)
    }

    fn free(&mut self, id: RunId) {
        self.free(id);
    }
}

#[test]
fn a_long_mix_of_sizes_does_not_fragment_the_pool_away() {
    let n_pages = 1 << 18;
    for (lifetimes, mean, min, margin) in BOUNDS {
        let ours = mix::run(&mut Recycler::new(n_pages as u32), n_pages, 50_000, lifetimes);
        let naive = mix::run(&mut FirstFit::new(n_pages), n_pages, 50_000, lifetimes);
        assert!(ours.uniform_mean >= mean && ours.uniform_min >= min, "{lifetimes:?}: {ours:?}");
        let more = (ours.uniform_mean - naive.uniform_mean).min(ours.odd_mean - naive.odd_mean);
        assert!(more > margin, "{lifetimes:?}: {ours:?}, first fit {naive:?}");
    }
}
