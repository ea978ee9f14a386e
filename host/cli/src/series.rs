//! The hit ratio over a trace of any length, in bounded memory.

/// The largest number of points in a [`Series`].
const POINTS_MAX: usize = 256;

/// A stretch of the trace: requests, chunks and hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Number of requests.
    pub requests: u64,
    /// Number of their chunks.
    pub chunks: u64,
    /// Chunks that each tier served, in the order of the chain.
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

/// Hits over the trace, in stretches of equally many requests. When there are too many stretches, pairs of neighbours
/// are merged, so the length of the trace need not be known.
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

    /// Adds the next request: the number of its chunks, and how many of them each tier served.
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

    /// Merges groups of `width` neighbouring points.
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

    /// Returns the stretches in the order of the trace. The last one may have fewer requests.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Returns at most `n_max` longer stretches, for a drawing that should not flicker.
    pub fn coarse(&self, n_max: usize) -> Vec<Point> {
        self.merged(self.points.len().div_ceil(n_max.max(1)).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
