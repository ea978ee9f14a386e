//! What a replay counts: latency histograms, and the hit ratio over the trace.
//!
//! Both take bounded memory however long the trace is.

use std::time::Duration;

/// Each power of two is split into this many buckets, so a bucket is at most 1/32 of its value wide.
const SUB_BUCKETS: u64 = 32;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();
const BUCKETS: usize = ((64 - SUB_BITS as u64 + 1) * SUB_BUCKETS) as usize;

/// The greatest number of points that a [`Series`] keeps.
const POINTS_MAX: usize = 256;

/// Counts latencies in log-linear buckets of nanoseconds: exact below 32 ns, within 1/32 above.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), count: 0, max_ns: 0 }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count)
            .field("max_ns", &self.max_ns)
            .finish_non_exhaustive()
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < SUB_BUCKETS {
        return ns as usize;
    }
    let shift = ns.ilog2() - SUB_BITS;
    (u64::from(shift) * SUB_BUCKETS + (ns >> shift)) as usize
}

/// The lowest value of a bucket. The next bucket's is where it ends.
fn bucket_start(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB_BUCKETS {
        return bucket;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    (SUB_BUCKETS + bucket % SUB_BUCKETS) << shift
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        self.record_n(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    /// Counts `n` latencies of `ns` nanoseconds, for instance a bucket of another histogram.
    pub fn record_n(&mut self, ns: u64, n: u64) {
        if n == 0 {
            return;
        }
        self.counts[bucket_of(ns)] += n;
        self.count += n;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Answers how many latencies were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Answers the latency in nanoseconds that a share of `quantile` of the values does not exceed, up to the
    /// bucket's width; the middle of the bucket. 0 when nothing was counted.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let rank = ((self.count as f64 * quantile).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                let start = bucket_start(bucket);
                let width = bucket_start(bucket + 1).saturating_sub(start).max(1);
                return (start + (width - 1) / 2).min(self.max_ns);
            }
        }
        0
    }

    /// Answers the quantile in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.quantile_ns(quantile) as f64 / 1e3
    }

    /// Answers the non-empty buckets in rising order: lowest value in nanoseconds, and count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (bucket_start(bucket), *count))
    }
}

/// Chunks and hits of a stretch of the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Requests of the stretch.
    pub requests: u64,
    /// Chunks that these requests have.
    pub chunks: u64,
    /// Chunks served, by tier in the chain's order.
    pub hits: Vec<u64>,
}

impl Point {
    fn new(n_tiers: usize) -> Self {
        Self { requests: 0, chunks: 0, hits: vec![0; n_tiers] }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.chunks += other.chunks;
        for (sum, hits) in self.hits.iter_mut().zip(&other.hits) {
            *sum += hits;
        }
    }
}

/// Hits over the trace, in stretches of equally many requests. When there are too many stretches, each two
/// become one; so the length of the trace need not be known.
#[derive(Debug, Clone)]
pub struct Series {
    points: Vec<Point>,
    requests_per_point: u64,
    n_tiers: usize,
}

impl Series {
    /// Starts a series over a chain of `n_tiers` tiers.
    pub fn new(n_tiers: usize) -> Self {
        Self { points: Vec::new(), requests_per_point: 1, n_tiers }
    }

    /// Adds the next request: its chunks, and how many of them each tier served.
    pub fn push(&mut self, chunks: u64, hits: &[u64]) {
        if self.points.last().is_none_or(|point| point.requests == self.requests_per_point) {
            if self.points.len() == POINTS_MAX {
                self.halve();
            }
            self.points.push(Point::new(self.n_tiers));
        }
        if let Some(point) = self.points.last_mut() {
            point.add(&Point { requests: 1, chunks, hits: hits.to_vec() });
        }
    }

    fn halve(&mut self) {
        self.points = self.merged(2);
        self.requests_per_point *= 2;
    }

    /// Each `width` neighbouring points as one.
    fn merged(&self, width: usize) -> Vec<Point> {
        let groups = self.points.chunks(width).map(|group| {
            let mut sum = Point::new(self.n_tiers);
            for point in group {
                sum.add(point);
            }
            sum
        });
        groups.collect()
    }

    /// Answers the stretches in the trace's order; the last one may have fewer requests.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Answers at most `n_max` longer stretches, for a drawing that is not to flicker.
    pub fn coarse(&self, n_max: usize) -> Vec<Point> {
        self.merged(self.points.len().div_ceil(n_max.max(1)).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let powers = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for ns in powers.chain([u64::MAX, 100, 12_345, 987_654_321]) {
            let bucket = bucket_of(ns);
            assert!(bucket < BUCKETS, "{ns}");
            assert!(bucket_start(bucket) <= ns, "{ns}");
            if bucket + 1 < BUCKETS {
                assert!(ns < bucket_start(bucket + 1), "{ns}");
                let width = bucket_start(bucket + 1) - bucket_start(bucket);
                assert!(width == 1 || width <= ns / 32 + 1, "{ns}: bucket is {width} wide");
            }
        }
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
            assert!((found - expected).abs() <= expected / 32.0, "{quantile}: {found}");
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

    #[test]
    fn a_series_keeps_its_sums_however_long_it_gets() {
        let mut series = Series::new(2);
        let n_requests = 10_000;
        for index in 0..n_requests {
            series.push(10, &[index % 3, 1]);
        }
        assert!(series.points().len() <= POINTS_MAX && series.points().len() > POINTS_MAX / 4);
        let (last, others) = series.points().split_last().expect("points");
        assert!(
            others.iter().all(|point| point.requests == others[0].requests)
                && last.requests <= others[0].requests
        );
        for points in [series.points().to_vec(), series.coarse(20)] {
            let mut sum = Point::new(2);
            for point in &points {
                sum.add(point);
            }
            let hits = vec![(0..n_requests).map(|index| index % 3).sum(), n_requests];
            assert_eq!(sum, Point { requests: n_requests, chunks: 10 * n_requests, hits });
        }
        assert!(series.coarse(20).len() <= 20);
    }
}
