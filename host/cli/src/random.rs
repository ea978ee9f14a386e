//! A small seeded generator (SplitMix64), so that a seed gives the same trace on every machine and in every
//! release. The `rand` crate's generators and distributions promise neither.

/// The increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
pub(crate) const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes the bits of `x`, so that neighbouring inputs give unrelated outputs. A bijection.
#[inline]
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A sequence of random numbers that depends on the seed only.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// Draws from `0..n`. The bias, n / 2^64, does not matter here.
    ///
    /// # Panics
    /// When `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "nothing to draw from");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Draws a length between half and twice `typical`, as often below it as above. At least 1.
    pub(crate) fn around(&mut self, typical: u64) -> u64 {
        let low = if self.below(2) == 0 { typical / 2 } else { typical };
        (low + self.below((low).max(1))).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // The reference values of SplitMix64 for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let first: [u64; 3] = std::array::from_fn(|_| random.next_u64());
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn lengths_stay_between_half_and_twice_the_typical_one() {
        let mut random = Random::new(0);
        let lengths: Vec<u64> = (0..10_000).map(|_| random.around(100)).collect();
        assert!(lengths.iter().all(|&length| (50..200).contains(&length)));
        let below = lengths.iter().filter(|&&length| length < 100).count();
        assert!((4_500..5_500).contains(&below), "{below} of 10,000 below the typical length");
        assert_eq!(random.around(0), 1);
    }
}
