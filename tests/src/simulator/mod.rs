//! An independent simulator of prefix caching, to check a replay's hit ratio against. It shares no code with kvtier and
//! expresses each policy in the shortest way: a set in eviction order (`ranked`), or the queues of a published
//! algorithm (`queues`). For each request, it counts the leading run of chunks that are present. Then it goes through
//! the request's chunks from the last to the first, touches each one that is present, and inserts each one that is
//! absent, evicting one at a time at capacity.

mod queues;
mod ranked;

use std::fmt::Debug;

use queues::{S3Fifo, Sieve};
use ranked::Ranked;

/// The rule for which chunk is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The chunk inserted first; touches do not matter.
    Fifo,
    /// The chunk whose last touch is longest ago.
    Lru,
    /// The chunk touched least often; among equals, the one whose last touch is longest ago.
    Lfu,
    /// The chunk whose last touch is most recent.
    Mru,
    /// The chunk that leaves the queues of S3-FIFO.
    S3Fifo,
    /// The chunk at which SIEVE's hand stops.
    Sieve,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 6] = [Self::Fifo, Self::Lru, Self::Lfu, Self::Mru, Self::S3Fifo, Self::Sieve];
}

/// How the leading run is touched between counting and storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retrieval {
    /// Not at all: a chunk is touched once per request, when it is stored.
    Untouched,
    /// Its chunks are touched from the last to the first (MRU: from the first to the last), and again when stored.
    Touches,
}

/// The counts of a simulation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks of all requests.
    pub chunks: u64,
    /// Chunks of the leading runs.
    pub hits: u64,
    /// Chunks that were evicted.
    pub evictions: u64,
}

impl Counts {
    /// Returns hits divided by chunks; 0 without chunks.
    pub fn hit_ratio(&self) -> f64 {
        if self.chunks == 0 { 0.0 } else { self.hits as f64 / self.chunks as f64 }
    }
}

/// The chunks that are present, in eviction order.
trait Cache: Debug {
    fn has(&self, chunk: u64) -> bool;

    /// Touches a chunk that is present.
    fn touch(&mut self, chunk: u64);

    /// Removes the chunk that is next to be evicted.
    fn evict(&mut self);

    /// Inserts a chunk that is absent; there is room for it.
    fn insert(&mut self, chunk: u64);
}

/// A cache of named chunks.
#[derive(Debug)]
pub struct Simulator {
    policy: Policy,
    retrieval: Retrieval,
    capacity: usize,
    n_chunks: usize,
    cache: Box<dyn Cache>,
    counts: Counts,
}

impl Simulator {
    /// Starts with an empty cache for `capacity` chunks.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn new(policy: Policy, capacity: usize, retrieval: Retrieval) -> Self {
        assert!(capacity > 0, "a cache needs room for one chunk");
        let cache: Box<dyn Cache> = match policy {
            Policy::S3Fifo => Box::new(S3Fifo::default()),
            Policy::Sieve => Box::new(Sieve::default()),
            _ => Box::new(Ranked::new(policy)),
        };
        Self { policy, retrieval, capacity, n_chunks: 0, cache, counts: Counts::default() }
    }

    /// Processes one request, given the ids of its chunks, and returns the length of its leading run.
    pub fn request(&mut self, chunks: &[u64]) -> usize {
        let run = chunks.iter().take_while(|chunk| self.cache.has(**chunk)).count();
        self.counts.chunks += chunks.len() as u64;
        self.counts.hits += run as u64;
        if self.retrieval == Retrieval::Touches {
            match self.policy {
                Policy::Mru => chunks[..run].iter().for_each(|chunk| self.cache.touch(*chunk)),
                _ => chunks[..run].iter().rev().for_each(|chunk| self.cache.touch(*chunk)),
            }
        }
        for chunk in chunks.iter().rev() {
            if self.cache.has(*chunk) {
                self.cache.touch(*chunk);
            } else {
                self.insert(*chunk);
            }
        }
        run
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn insert(&mut self, chunk: u64) {
        if self.n_chunks == self.capacity {
            self.cache.evict();
            self.counts.evictions += 1;
        } else {
            self.n_chunks += 1;
        }
        self.cache.insert(chunk);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Runs `requests` and returns the leading runs, and the remaining chunks in eviction order.
    fn check(policy: Policy, capacity: usize, requests: &[&[u64]]) -> (Vec<usize>, Vec<u64>) {
        check_with(Retrieval::Untouched, policy, capacity, requests)
    }

    fn check_with(
        retrieval: Retrieval,
        policy: Policy,
        capacity: usize,
        requests: &[&[u64]],
    ) -> (Vec<usize>, Vec<u64>) {
        let mut simulator = Simulator::new(policy, capacity, retrieval);
        let runs = requests.iter().map(|request| simulator.request(request)).collect();
        let mut chunks: BTreeSet<u64> = requests.concat().into_iter().collect();
        chunks.retain(|chunk| simulator.cache.has(*chunk));
        let mut left = Vec::new();
        while !chunks.is_empty() {
            simulator.cache.evict();
            left.extend(chunks.iter().filter(|chunk| !simulator.cache.has(**chunk)));
            chunks.retain(|chunk| simulator.cache.has(*chunk));
        }
        (runs, left)
    }

    #[test]
    fn lru_keeps_the_head_of_a_prefix_longest() {
        // 4 goes in first and is evicted by 1; so the second request finds 1, 2, 3.
        assert_eq!(check(Policy::Lru, 3, &[&[1, 2, 3, 4], &[1, 2, 3]]), (vec![0, 3], vec![3, 2, 1]));
        // 9 evicts 3; the third request then finds 1 and 2 only.
        assert_eq!(check(Policy::Lru, 3, &[&[1, 2, 3], &[9], &[1, 2, 3]]), (vec![0, 0, 2], vec![3, 2, 1]));
    }

    #[test]
    fn fifo_ignores_touches() {
        // 1 is touched, but was inserted first: 3 evicts it.
        assert_eq!(
            check(Policy::Fifo, 2, &[&[1], &[2], &[1], &[3], &[1]]),
            (vec![0, 0, 1, 0, 0], vec![3, 1])
        );
        assert_eq!(check(Policy::Lru, 2, &[&[1], &[2], &[1], &[3], &[1]]), (vec![0, 0, 1, 0, 1], vec![3, 1]));
    }

    #[test]
    fn lfu_evicts_the_least_touched_then_the_longest_untouched() {
        // 1 has three touches, 2 and 3 one each; 2 is the older one.
        assert_eq!(
            check(Policy::Lfu, 3, &[&[1], &[1], &[1], &[2], &[3], &[4]]),
            (vec![0, 1, 1, 0, 0, 0], vec![3, 4, 1])
        );
    }

    #[test]
    fn mru_evicts_the_latest() {
        assert_eq!(check(Policy::Mru, 2, &[&[1], &[2], &[3], &[1], &[4]]), (vec![0, 0, 0, 1, 0], vec![4, 3]));
    }

    #[test]
    fn sieve_spares_the_touched_once_and_goes_on_from_there() {
        // 1 was touched: the hand passes it and stops at 2, then at 3; the next round finds 1 untouched.
        assert_eq!(
            check(Policy::Sieve, 3, &[&[1], &[2], &[3], &[1], &[4], &[5]]),
            (vec![0, 0, 0, 1, 0, 0], vec![4, 5, 1])
        );
    }

    #[test]
    fn s3_fifo_promotes_what_was_touched_twice_and_remembers_what_was_not() {
        // 4 makes 1 and 5 move to the main queue and evicts 2, whose name is remembered. So 2 returns to the main
        // queue, and 4, which came once and later, is evicted before all of them.
        let requests: &[&[u64]] = &[&[1], &[1], &[1], &[5], &[5], &[5], &[2], &[3], &[4], &[2]];
        let (runs, left) = check(Policy::S3Fifo, 4, requests);
        assert_eq!((runs.iter().sum::<usize>(), left), (4, vec![4, 1, 5, 2]));
    }

    #[test]
    fn a_gap_ends_the_run() {
        // 7 evicts 2 (oldest touch), and 1 and 3 are present: only 1 counts.
        assert_eq!(check(Policy::Lru, 3, &[&[2], &[3], &[1], &[7], &[1, 2, 3]]).0, [0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_retrieval_that_touches_counts_twice_for_lfu() {
        let mut simulator = Simulator::new(Policy::Lfu, 2, Retrieval::Touches);
        for request in [[1], [1], [2], [2]] {
            simulator.request(&request);
        }
        assert_eq!(simulator.counts(), Counts { chunks: 4, hits: 2, evictions: 0 });
        assert!((simulator.counts().hit_ratio() - 0.5).abs() < 1e-12);

        // 1 was present for the second request, 2 behind a gap: three touches or two, against the later two of 2.
        let requests: &[&[u64]] = &[&[1], &[1], &[7, 2], &[8, 2]];
        let left = |retrieval| check_with(retrieval, Policy::Lfu, 3, requests).1;
        assert_eq!(left(Retrieval::Touches), [8, 2, 1]);
        assert_eq!(left(Retrieval::Untouched), [8, 1, 2]);
    }

    #[test]
    fn evictions_are_counted_one_at_a_time() {
        let mut simulator = Simulator::new(Policy::Lru, 2, Retrieval::Untouched);
        simulator.request(&[1, 2, 3, 4, 5]);
        assert_eq!(simulator.counts(), Counts { chunks: 5, hits: 0, evictions: 3 });
        assert_eq!(simulator.request(&[1, 2]), 2);
    }

    #[test]
    fn without_a_limit_all_policies_agree() {
        let requests: Vec<Vec<u64>> =
            (0..200).map(|n| (0..=n % 17).map(|i| (n % 5) * 100 + i).collect()).collect();
        let hits = Policy::ALL.map(|policy| {
            let mut simulator = Simulator::new(policy, 10_000, Retrieval::Touches);
            for request in &requests {
                simulator.request(request);
            }
            simulator.counts()
        });
        assert!(hits.iter().all(|counts| *counts == hits[0]) && hits[0].hits > 0);
    }
}
