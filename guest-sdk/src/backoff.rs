//! Pauses between tries.

use std::time::Duration;

/// Pauses between tries of what fails: each is twice as long as the one before, up to a maximum. A random part of up to
/// a half is taken off, so that those that failed together do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Makes pauses from `first` to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the pause after so many failures in a row.
    pub fn pause(&self, n_failed: u32) -> Duration {
        self.pause_with(n_failed, random())
    }

    fn pause_with(&self, n_failed: u32, random: u64) -> Duration {
        let longest = self.first.saturating_mul(1 << (n_failed.clamp(1, 16) - 1)).min(self.max);
        let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
        longest / 2 + longest.mul_f64(fraction) / 2
    }
}

#[cfg(target_arch = "wasm32")]
fn random() -> u64 {
    wasip3::random::insecure::get_insecure_random_u64()
}

#[cfg(not(target_arch = "wasm32"))]
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn pauses_grow_up_to_a_limit_and_differ() {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        for (n_failed, longest_ms) in [(0, 50), (1, 50), (2, 100), (6, 1_600), (7, 2_000), (u32::MAX, 2_000)]
        {
            let longest = Duration::from_millis(longest_ms);
            assert_eq!(backoff.pause_with(n_failed, 0), longest / 2);
            assert_eq!(backoff.pause_with(n_failed, 1 << 63), longest * 3 / 4);
            let pauses: Vec<Duration> = (0..10).map(|_| backoff.pause(n_failed)).collect();
            assert!(pauses.iter().all(|pause| longest / 2 <= *pause && *pause <= longest), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
        }
    }
}
