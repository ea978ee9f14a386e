//! Seeded random numbers: a seed gives the same trace on every machine and in every release.
//!
//! The generator is SplitMix64 by name, whose sequence is published. The distributions are our own: those of `rand` may
//! change between its releases.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

/// A sequence of random numbers that depends on the seed only.
#[derive(Debug, Clone)]
pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::seed_from_u64(seed))
    }

    /// Draws from `0..n`. The bias of `n / 2^64` does not matter here.
    ///
    /// # Panics
    /// If `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "nothing to draw from");
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Draws a length between half and twice `typical`, as often below it as above. At least 1.
    pub(crate) fn around(&mut self, typical: u64) -> u64 {
        let low = if self.below(2) == 0 { typical / 2 } else { typical };
        (low + self.below(low.max(1))).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // The reference values of SplitMix64 for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let first: [u64; 3] = std::array::from_fn(|_| random.0.next_u64());
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn lengths_are_between_half_and_twice_the_typical_one() {
        let mut random = Random::new(0);
        let lengths: Vec<u64> = (0..10_000).map(|_| random.around(100)).collect();
        assert!(lengths.iter().all(|&length| (50..200).contains(&length)));
        let below = lengths.iter().filter(|&&length| length < 100).count();
        assert!((4_500..5_500).contains(&below), "{below} of 10,000 below the typical length");
        assert_eq!(random.around(0), 1);
    }
}
