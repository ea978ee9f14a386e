//! Latencies as a histogram of fixed buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A snapshot of a histogram of latencies.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Latency {
    /// The number of calls.
    pub n: u64,
    /// The sum of their latencies.
    pub total: Duration,
    /// The buckets that have calls, in ascending order.
    pub buckets: Vec<Bucket>,
}

/// The calls of one bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// The longest latency of the bucket, in nanoseconds.
    pub upper_ns: u64,
    /// The number of calls.
    pub n: u64,
}

impl Latency {
    /// Returns the latency that the given share of the calls, in `0.0..=1.0`, did not exceed. Exact to 7 %.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.n as f64 * share).ceil().max(1.0) as u64;
        let mut n_below = 0;
        for bucket in &self.buckets {
            n_below += bucket.n;
            if n_below >= rank {
                return Duration::from_nanos(bucket.upper_ns);
            }
        }
        Duration::ZERO
    }
}

/// A histogram that any number of threads write to, at the cost of two atomic additions.
///
/// Its buckets are fixed: sixteen for each power of two of nanoseconds, up to 18 minutes. A power of two is therefore
/// always a limit between buckets.
pub(super) struct Histogram {
    buckets: Box<[AtomicU64]>,
    total_ns: AtomicU64,
}

const SUB_BITS: u32 = 4;
const POWERS: usize = 41;

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..POWERS << SUB_BITS).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, total_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one call.
    pub(super) fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns).min(self.buckets.len() - 1)].fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Returns the counts so far.
    pub(super) fn snapshot(&self) -> Latency {
        let counted = self.buckets.iter().enumerate();
        let counted = counted.map(|(b, n)| Bucket { upper_ns: upper_ns(b), n: n.load(Ordering::Relaxed) });
        let buckets: Vec<Bucket> = counted.filter(|bucket| bucket.n > 0).collect();
        let n = buckets.iter().map(|bucket| bucket.n).sum();
        Latency { n, total: Duration::from_nanos(self.total_ns.load(Ordering::Relaxed)), buckets }
    }
}

/// Returns the index of the bucket that counts a latency.
fn bucket_of(ns: u64) -> usize {
    let shift = (ns | 1).ilog2().saturating_sub(SUB_BITS);
    ((shift as usize) << SUB_BITS) + (ns >> shift) as usize
}

/// Returns the longest latency that a bucket counts.
fn upper_ns(bucket: usize) -> u64 {
    let sub = 1_usize << SUB_BITS;
    let (power, rest) = if bucket < 2 * sub { (0, bucket) } else { (bucket / sub - 1, bucket % sub + sub) };
    ((rest as u64 + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_holds_what_its_bound_says() {
        let mut previous = 0;
        for ns in (0..5_000).chain((0..40).map(|power| (1_u64 << power) + 12_345)) {
            let bound = upper_ns(bucket_of(ns));
            assert!(bound >= ns && (bound - ns) as f64 <= 0.07 * ns as f64 + 1.0, "{ns} in {bound}");
            if ns < 5_000 {
                assert!(bucket_of(ns) >= previous);
                previous = bucket_of(ns);
            }
        }
    }

    #[test]
    fn quantiles_are_exact_to_a_bucket() {
        let histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        let latency = histogram.snapshot();
        assert_eq!(latency.n, 1000);
        for (share, us) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = latency.quantile(share).as_secs_f64() * 1e6;
            assert!((found / us - 1.0).abs() < 0.07, "{found} for {us}");
        }
    }
}
