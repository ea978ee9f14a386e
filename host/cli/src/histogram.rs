//! Counts of latencies. Quantiles need bounded memory for a replay of any length.

use std::fmt;
use std::time::Duration;

/// Two significant digits: a value is kept within 1 % of itself.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The longest latency that is distinguished from longer ones: an hour.
const HIGHEST_NS: u64 = 3_600 * 1_000_000_000;

/// Counts latencies in nanoseconds, each within 1 % of its value.
#[derive(Clone)]
pub struct Histogram {
    counts: hdrhistogram::Histogram<u64>,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts = hdrhistogram::Histogram::new_with_bounds(1, HIGHEST_NS, SIGNIFICANT_DIGITS)
            .expect("the bounds are valid");
        Self { counts, max_ns: 0 }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("max_ns", &self.max_ns)
            .finish_non_exhaustive()
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        self.record_n(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    /// Counts `n` latencies of `ns` nanoseconds, for instance a bucket of another histogram.
    pub fn record_n(&mut self, ns: u64, n: u64) {
        if n > 0 {
            self.counts.saturating_record_n(ns, n);
            self.max_ns = self.max_ns.max(ns);
        }
    }

    /// Returns how many latencies were counted.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// Returns the latency in nanoseconds that a share of `quantile` of the values does not exceed. Returns 0 if
    /// nothing was counted.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.counts.value_at_quantile(quantile).min(self.max_ns)
    }

    /// Returns the quantile in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.quantile_ns(quantile) as f64 / 1e3
    }

    /// Returns the non-empty buckets in ascending order: lowest value in nanoseconds, and count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.counts.iter_recorded();
        filled.map(|bucket| {
            (self.counts.lowest_equivalent(bucket.value_iterated_to()), bucket.count_at_value())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_of_one_percent() {
        let powers = (0..41).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for ns in powers.chain([100, 12_345, 987_654_321, HIGHEST_NS]) {
            let mut histogram = Histogram::default();
            histogram.record_n(ns, 1);
            let (start, n) = histogram.buckets().next().expect("a bucket");
            assert!(n == 1 && start <= ns && ns - start <= ns / 100, "{ns}: {start}");
            assert_eq!(histogram.quantile_ns(0.5), ns);
        }
    }

    #[test]
    fn more_than_an_hour_counts_as_an_hour_and_is_the_greatest_value() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!((histogram.count(), histogram.buckets().count()), (1, 1));
        assert!(histogram.quantile_ns(1.0) >= HIGHEST_NS);
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        assert_eq!(histogram.count(), 1000);
        for (quantile, expected) in [(0.5, 500.0), (0.99, 990.0), (0.001, 1.0)] {
            let found = histogram.quantile_us(quantile);
            assert!((found - expected).abs() <= expected / 100.0, "{quantile}: {found}");
        }
        assert_eq!(histogram.quantile_ns(1.0), 1_000_000, "never above the greatest value");
    }

    #[test]
    fn small_and_missing_values_are_exact() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(0.5), 0);
        histogram.record_n(7, 3);
        histogram.record_n(9, 0);
        assert_eq!((histogram.count(), histogram.quantile_ns(0.99)), (3, 7));
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(7, 3)]);
    }
}
