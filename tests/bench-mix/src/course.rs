//! Drives a cache through the operations, with one thread or several, and times them.

use std::fmt;
use std::str::FromStr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::chats::{Block, Chats};
use crate::contender::Contender;

/// Chunks of a request.
pub const REQUEST_CHUNKS: usize = 32;

/// Chunks that a cache may hold.
pub const CAPACITY_CHUNKS: usize = 10_000;

/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = 4096;

/// Requests of one sample, over all threads.
const SAMPLE_REQUESTS: usize = 512;

/// Requests that a cache serves before the mix is measured.
const WARM_REQUESTS: usize = 4_000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The leading run of prompts that are present.
    Lookup,
    /// Handles to the chunks of prompts that are present, taken and released.
    Get,
    /// New prompts, into a full cache.
    Insert,
    /// All three, on prompts of chats.
    Mix,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 4] = [Self::Lookup, Self::Get, Self::Insert, Self::Mix];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lookup => "lookup",
            Self::Get => "get",
            Self::Insert => "insert",
            Self::Mix => "mix",
        })
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|operation| operation.to_string() == name);
        found.ok_or_else(|| format!("no operation `{name}`"))
    }
}

/// One timing.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Wall time, divided by the keys of all threads.
    pub ns_per_key: f64,
    /// The share of keys that were in the leading runs.
    pub hit_ratio: f64,
}

/// A cache on its way through the operations, whatever its type.
pub trait Run {
    /// Takes one timing.
    fn sample(&mut self, operation: Operation) -> Sample;
}

/// A kind of cache on its way through the operations. Caches of the same number of threads see the same requests.
pub struct Course<C: Contender> {
    n_threads: usize,
    chats: Chats,
    /// Half full, so that no policy has evicted anything, with the prompts that are in it.
    settled: (C, Vec<Vec<C::Key>>),
    /// Full of prompts that no request repeats.
    full: C,
    /// In use by chats.
    used: C,
}

impl<C: Contender> Course<C> {
    /// Makes the caches, each for a number of chunks, and fills them.
    pub fn new(n_threads: usize, make: impl Fn(usize) -> C) -> Self {
        let mut chats = Chats::new(7);
        let mut hold = C::Hold::default();
        let keys = |prompt: Vec<Block>| prompt.into_iter().map(C::key).collect::<Vec<_>>();
        let (settled, full, used) = (make(CAPACITY_CHUNKS), make(CAPACITY_CHUNKS), make(CAPACITY_CHUNKS));
        let n_prompts = CAPACITY_CHUNKS / REQUEST_CHUNKS;
        let prompts: Vec<_> = (0..n_prompts / 2).map(|_| keys(chats.fresh())).collect();
        for prompt in &prompts {
            settled.insert(prompt, &mut hold);
        }
        for _ in 0..=n_prompts {
            full.insert(&keys(chats.fresh()), &mut hold);
        }
        for _ in 0..WARM_REQUESTS {
            used.serve(&keys(chats.prompt()), &mut hold);
        }
        Self { n_threads, chats, settled: (settled, prompts), full, used }
    }

    /// The requests of the next sample, one list for each thread.
    fn requests(&mut self, operation: Operation) -> Vec<Vec<Vec<C::Key>>> {
        let n_requests = SAMPLE_REQUESTS / self.n_threads;
        let mut request = || {
            let blocks = match operation {
                Operation::Lookup | Operation::Get => {
                    let known = &self.settled.1;
                    return known[self.chats.below(known.len() as u64) as usize].clone();
                }
                Operation::Insert => self.chats.fresh(),
                Operation::Mix => self.chats.prompt(),
            };
            blocks.into_iter().map(C::key).collect()
        };
        (0..self.n_threads).map(|_| (0..n_requests).map(|_| request()).collect()).collect()
    }

    /// Serves one thread's requests and returns the sum of their leading runs.
    fn serve(&self, operation: Operation, requests: &[Vec<C::Key>]) -> usize {
        let mut hold = C::Hold::default();
        let serve = |keys: &Vec<C::Key>| match operation {
            Operation::Lookup => self.settled.0.lookup(keys, &mut hold),
            Operation::Get => self.settled.0.get(keys, &mut hold),
            Operation::Mix => self.used.serve(keys, &mut hold),
            Operation::Insert => {
                self.full.insert(keys, &mut hold);
                0
            }
        };
        requests.iter().map(serve).sum()
    }
}

impl<C: Contender> Run for Course<C> {
    /// # Panics
    /// If the cache lacks what was put into it.
    fn sample(&mut self, operation: Operation) -> Sample {
        let requests = self.requests(operation);
        let (n_run, took) = in_step(&requests, |requests| self.serve(operation, requests));
        let n_keys = requests.iter().flatten().map(Vec::len).sum::<usize>();
        if matches!(operation, Operation::Lookup | Operation::Get) {
            assert_eq!(n_run, n_keys, "a cache that is half full has evicted chunks");
        }
        let ns_per_key = took.as_secs_f64() * 1e9 / n_keys as f64;
        Sample { ns_per_key, hit_ratio: n_run as f64 / n_keys as f64 }
    }
}

/// Runs `work` on one thread for each item, all starting at the same moment. Returns the sum and the time until the
/// last one ended.
fn in_step<T: Sync>(items: &[T], work: impl Fn(&T) -> usize + Sync) -> (usize, Duration) {
    let timed = |item: &T| {
        let start = Instant::now();
        (work(item), start, Instant::now())
    };
    if let [item] = items {
        let (n, start, end) = timed(item);
        return (n, end - start);
    }
    let barrier = Barrier::new(items.len());
    let done: Vec<_> = std::thread::scope(|scope| {
        let start = |item| {
            let (barrier, timed) = (&barrier, &timed);
            scope.spawn(move || {
                barrier.wait();
                timed(item)
            })
        };
        let threads: Vec<_> = items.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread of the bench")).collect()
    });
    let start = done.iter().map(|(_, start, _)| *start).min();
    let end = done.iter().map(|(_, _, end)| *end).max();
    let took = end.zip(start).map_or(Duration::ZERO, |(end, start)| end - start);
    (done.iter().map(|(n, ..)| n).sum(), took)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;

    /// Never evicts anything.
    #[derive(Default)]
    struct Everything(Mutex<HashMap<u64, usize>>);

    impl Contender for Everything {
        type Key = u64;
        type Hold = ();

        fn key(block: Block) -> u64 {
            block.id
        }

        fn lookup(&self, keys: &[u64], (): &mut ()) -> usize {
            let map = self.0.lock().unwrap();
            keys.iter().take_while(|key| map.contains_key(key)).count()
        }

        fn get(&self, keys: &[u64], hold: &mut ()) -> usize {
            self.lookup(keys, hold)
        }

        fn insert(&self, keys: &[u64], (): &mut ()) {
            let mut map = self.0.lock().unwrap();
            for key in keys {
                *map.entry(*key).or_default() += 1;
            }
        }
    }

    #[test]
    fn every_operation_is_timed_and_the_mix_has_hits_and_misses() {
        for n_threads in [1, 2] {
            let mut course = Course::new(n_threads, |_| Everything::default());
            for operation in Operation::ALL {
                let sample = course.sample(operation);
                assert!(sample.ns_per_key > 0.0, "{operation}");
                let expected = match operation {
                    Operation::Lookup | Operation::Get => 1.0..=1.0,
                    Operation::Insert => 0.0..=0.0,
                    Operation::Mix => 0.6..=0.95,
                };
                assert!(expected.contains(&sample.hit_ratio), "{operation}: {sample:?}");
            }
            let counts = course.full.0.lock().unwrap();
            assert!(counts.values().all(|count| *count == 1), "what is inserted is new");
        }
    }

    /// Claims to have what it lacks.
    struct Nothing;

    impl Contender for Nothing {
        type Key = u64;
        type Hold = ();

        fn key(block: Block) -> u64 {
            block.id
        }

        fn lookup(&self, _: &[u64], (): &mut ()) -> usize {
            0
        }

        fn get(&self, _: &[u64], (): &mut ()) -> usize {
            0
        }

        fn insert(&self, _: &[u64], (): &mut ()) {}
    }

    #[test]
    #[should_panic(expected = "has evicted chunks")]
    fn a_cache_that_keeps_nothing_is_not_timed() {
        Course::new(1, |_| Nothing).sample(Operation::Lookup);
    }
}
