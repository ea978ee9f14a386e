//! Pauses between tries, which grow while tries fail.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Draws pauses. The range doubles with every pause, up to a maximum. Each pause is drawn from the upper half of the
/// range, so that processes that lost the same store at the same time do not return to it at the same time.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        // A seed that differs between processes.
        Self::with_seed(min, max, RandomState::new().build_hasher().finish())
    }

    pub(crate) fn with_seed(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max: max.max(min), next: min, random: seed }
    }

    /// Returns the pause before the next try: between half of the range and all of it.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        whole.mul_f64(0.5 + self.draw() / 2.0)
    }

    /// Starts with the smallest range again.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    /// Draws from `0.0..1.0`.
    ///
    /// # Source
    /// `SplitMix64`: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(6);

    #[test]
    fn pauses_double_up_to_the_maximum_and_lie_in_the_upper_half_of_their_range() {
        for seed in 0..500 {
            let mut backoff = Backoff::with_seed(MIN, MAX, seed);
            for whole_ms in [500, 1000, 2000, 4000, 6000, 6000] {
                let whole = Duration::from_millis(whole_ms);
                let pause = backoff.pause();
                assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
            }
            backoff.reset();
            assert!(backoff.pause() <= MIN);
        }
    }

    #[test]
    fn pauses_spread_over_their_whole_range_and_differ_between_processes() {
        let pauses: Vec<Duration> = (0..200).map(|_| Backoff::new(MIN, MAX).pause()).collect();
        let below = pauses.iter().filter(|pause| **pause < MIN.mul_f64(0.75)).count();
        // Each half would have to come up fewer than 40 times in 200.
        assert!((40..=160).contains(&below), "{below} of 200 in the lower half");
    }

    #[test]
    fn a_seed_repeats_its_pauses() {
        let pauses = |seed| {
            let mut backoff = Backoff::with_seed(MIN, MAX, seed);
            [backoff.pause(), backoff.pause(), backoff.pause()]
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }
}
