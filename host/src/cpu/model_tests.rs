//! The tier against a model that keeps everything in one list and searches it, for the policies by rank.

use super::testing::{Bench, Random, key};
use super::{Allocated, CpuTier, EvictionPolicy, HotCache, Inserted};
use crate::chunk::{Chunk, ChunkWriter};
use crate::key::ChunkKey;
use crate::memory::PAGE_BYTES;

const N_KEYS: u64 = 48;
const N_PAGES: usize = 24;

struct ModelEntry {
    n: u64,
    put_at: u64,
    placed_at: u64,
    n_uses: u64,
    n_pins: u32,
    n_readers: usize,
}

struct Model {
    policy: EvictionPolicy,
    clock: u64,
    is_hot: bool,
    entries: Vec<ModelEntry>,
}

impl Model {
    fn find(&mut self, n: u64) -> Option<&mut ModelEntry> {
        self.entries.iter_mut().find(|entry| entry.n == n)
    }

    /// Applies `change` to the keys in the order that counts as uses, and renews those found.
    fn each(&mut self, numbers: &[u64], mut change: impl FnMut(&mut ModelEntry)) {
        let mut numbers = numbers.to_vec();
        if self.policy != EvictionPolicy::Mru {
            numbers.reverse();
        }
        for n in numbers {
            self.clock += 1;
            let clock = self.clock;
            if let Some(entry) = self.find(n) {
                entry.placed_at = clock;
                change(entry);
            }
        }
    }

    fn put(&mut self, n: u64) -> Inserted {
        if !self.is_hot {
            return Inserted::CacheOff;
        }
        if self.find(n).is_some() {
            self.each(&[n], |entry| entry.n_uses += 1);
            return Inserted::Present;
        }
        self.clock += 1;
        let clock = self.clock;
        let entry = ModelEntry { n, put_at: clock, placed_at: clock, n_uses: 1, n_pins: 0, n_readers: 0 };
        self.entries.push(entry);
        Inserted::New
    }

    fn victim(&self) -> Option<u64> {
        let free = self.entries.iter().filter(|entry| !entry.is_held());
        let victim = match self.policy {
            EvictionPolicy::Lru => free.min_by_key(|entry| entry.placed_at),
            EvictionPolicy::Mru => free.max_by_key(|entry| entry.placed_at),
            EvictionPolicy::Fifo => free.min_by_key(|entry| entry.put_at),
            EvictionPolicy::Lfu => free.min_by_key(|entry| (entry.n_uses, entry.placed_at)),
            EvictionPolicy::S3Fifo | EvictionPolicy::Sieve => unreachable!("they have tests of their own"),
        };
        victim.map(|entry| entry.n)
    }

    fn remove(&mut self, n: u64) {
        self.entries.retain(|entry| entry.n != n);
    }

    fn clear(&mut self) {
        self.entries.retain(ModelEntry::is_held);
    }

    /// Removes the entries that leave without a call while the hot cache is off.
    fn settle(&mut self) {
        if !self.is_hot {
            self.clear();
        }
    }
}

impl ModelEntry {
    fn is_held(&self) -> bool {
        self.n_pins > 0 || self.n_readers > 0
    }
}

struct Run {
    bench: Bench,
    model: Model,
    readers: Vec<Chunk>,
    n_evicted: usize,
    n_exhausted: usize,
}

impl Run {
    fn step(&mut self, random: &mut Random) {
        let n_keys = 1 + random.below(4);
        let numbers: Vec<u64> = (0..n_keys).map(|_| random.below(N_KEYS as usize) as u64).collect();
        let keys: Vec<ChunkKey> = numbers.iter().map(|&n| key(n)).collect();
        let (tier, model) = (&self.bench.tier, &mut self.model);
        match random.below(1000) {
            0..350 => self.put(numbers[0], random.below(3) == 0),
            350..500 => {
                let mut chunks = Vec::new();
                tier.get(&keys, &mut chunks);
                self.readers.extend(chunks.into_iter().flatten());
                model.each(&numbers, |entry| {
                    entry.n_uses += 1;
                    entry.n_readers += 1;
                });
            }
            500..680 if !self.readers.is_empty() => {
                let chunk = self.readers.swap_remove(random.below(self.readers.len()));
                self.let_go(chunk);
            }
            680..730 => {
                tier.pin(&keys);
                model.each(&numbers, |entry| {
                    entry.n_uses += 1;
                    entry.n_pins += 1;
                });
            }
            730..850 => {
                for &n in &numbers {
                    if let Some(entry) = model.find(n)
                        && entry.n_pins > 0
                    {
                        entry.n_pins -= 1;
                        tier.unpin(&[key(n)]);
                    }
                    model.settle();
                }
            }
            850..900 => {
                tier.touch(&keys);
                model.each(&numbers, |entry| entry.n_uses += 1);
            }
            900..950 => {
                tier.refresh(&keys);
                model.each(&numbers, |_| {});
            }
            950..980 => {
                tier.remove(&keys[..1]);
                model.remove(numbers[0]);
            }
            980..990 => {
                model.is_hot = random.below(3) > 0;
                tier.set_hot_cache(if model.is_hot { HotCache::On } else { HotCache::Off });
                model.settle();
            }
            990..992 => {
                tier.clear();
                model.clear();
            }
            _ => {}
        }
    }

    fn put(&mut self, n: u64, keeps_handle: bool) {
        // In memory: the entries of the index, and chunks that only readers hold.
        let allocated = self.bench.pool.allocated_bytes() / PAGE_BYTES;
        let mut expected = None;
        if allocated == N_PAGES {
            expected = self.model.victim();
            if let Some(victim) = expected {
                self.model.remove(victim);
                self.n_evicted += 1;
            }
        }
        let buffer = match self.bench.tier.allocate(PAGE_BYTES).unwrap() {
            Allocated::Ready(buffer) => buffer,
            Allocated::Exhausted(_) => {
                assert_eq!((allocated, expected), (N_PAGES, None), "something could be evicted");
                self.n_exhausted += 1;
                return;
            }
        };
        assert!(allocated < N_PAGES || expected.is_some(), "nothing could be evicted");
        let chunk = ChunkWriter::new(key(n), buffer).freeze();
        let inserted = self.bench.tier.insert(&chunk);
        assert_eq!(inserted, self.model.put(n));
        if inserted == Inserted::New && keeps_handle {
            self.model.find(n).unwrap().n_readers += 1;
            self.readers.push(chunk);
        }
    }

    fn let_go(&mut self, chunk: Chunk) {
        // A reader of a removed chunk is not a reader of a later one under the same key.
        let address = self.bench.peek_ptr(chunk.key());
        if address == Some(chunk.as_ptr())
            && let Some(entry) = self.model.find(chunk.key().lo)
        {
            entry.n_readers -= 1;
        }
        drop(chunk);
        self.model.settle();
    }

    fn compare(&self) {
        self.bench.check();
        for n in 0..N_KEYS {
            let expected = self.model.entries.iter().find(|entry| entry.n == n);
            let n_pins = self.bench.tier.n_pins(key(n));
            assert_eq!(n_pins, expected.map(|entry| entry.n_pins), "key {n}");
        }
        let tier: &CpuTier = &self.bench.tier;
        assert_eq!(tier.stats().entries, self.model.entries.len());
    }
}

impl Bench {
    fn peek_ptr(&self, key: ChunkKey) -> Option<*const u8> {
        self.tier.shared.acquire(key).map(|chunk| chunk.as_ptr())
    }
}

#[test]
fn every_policy_by_rank_evicts_as_a_searched_list_would() {
    let (n_seeds, n_steps) = if cfg!(miri) { (1, 300) } else { (6, 8_000) };
    for policy in [EvictionPolicy::Lru, EvictionPolicy::Lfu, EvictionPolicy::Fifo, EvictionPolicy::Mru] {
        let (mut n_evicted, mut n_exhausted) = (0, 0);
        for seed in 1..=n_seeds {
            let mut random = Random::new(seed);
            let model = Model { policy, clock: 0, is_hot: true, entries: Vec::new() };
            let bench = Bench::new(N_PAGES, policy);
            let mut run = Run { bench, model, readers: Vec::new(), n_evicted: 0, n_exhausted: 0 };
            for _ in 0..n_steps {
                run.step(&mut random);
                run.compare();
            }
            n_evicted += run.n_evicted;
            n_exhausted += run.n_exhausted;
        }
        assert!(cfg!(miri) || (n_evicted > 1000 && n_exhausted > 100), "the test lost its object");
    }
}
