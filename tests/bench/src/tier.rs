//! A CPU tier with chunks in it, and its counterpart from the standard library.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use kvtier::__internal::cpu::{Allocated, CpuTier, Inserted};
use kvtier::memory::{BufferMut, ChunkWriter, PAGE_BYTES, Pool};
use kvtier::{Chunk, ChunkKey, EvictionPolicy, HotCache};
use kvtier_bench_mix::UniformHasher;

/// Returns the `n`th key. Uniform, as the key chain makes them.
pub(crate) fn key(n: usize) -> ChunkKey {
    let mix = |n: u64| (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    ChunkKey { hi: mix(mix(n as u64 + 1)), lo: mix(mix(n as u64 ^ 0x5555_5555)) }
}

/// Returns lists of `n_keys` keys of the first `n_chunks`, each list from a different position.
pub(crate) fn requests(n_requests: usize, n_keys: usize, n_chunks: usize) -> Vec<Vec<ChunkKey>> {
    let list = |i: usize| (0..n_keys).map(|n| key((i * 7919 + n) % n_chunks)).collect();
    (0..n_requests).map(list).collect()
}

/// Makes a tier with a pool of `n_chunks` pages.
pub(crate) fn tier(n_chunks: usize, policy: EvictionPolicy) -> CpuTier {
    let pool = Pool::new(n_chunks * PAGE_BYTES).expect("the machine has the memory for the bench");
    CpuTier::new(Arc::new(pool), policy, HotCache::On)
}

/// Makes a tier that is full of the first `n_chunks` chunks.
pub(crate) fn full(n_chunks: usize, policy: EvictionPolicy) -> CpuTier {
    let tier = tier(n_chunks, policy);
    for n in 0..n_chunks {
        put(&tier, chunk(&tier, n));
    }
    tier
}

/// Allocates a page, evicting if the tier is full.
pub(crate) fn buffer(tier: &CpuTier) -> BufferMut {
    match tier.allocate(PAGE_BYTES) {
        Ok(Allocated::Ready(buffer)) => buffer,
        other => panic!("the bench leaves room: {other:?}"),
    }
}

/// Makes the `n`th chunk.
pub(crate) fn chunk(tier: &CpuTier, n: usize) -> Chunk {
    ChunkWriter::new(key(n), buffer(tier)).freeze()
}

/// Puts a chunk that is absent.
#[expect(clippy::needless_pass_by_value, reason = "the handle goes with the call")]
pub(crate) fn put(tier: &CpuTier, chunk: Chunk) {
    assert_eq!(tier.insert(&chunk), Inserted::New);
}

/// Pins `percent` of the first `n_chunks` chunks: those that the policy would evict first.
pub(crate) fn pin(tier: &CpuTier, n_chunks: usize, percent: usize, policy: EvictionPolicy) {
    let n_pinned = n_chunks * percent / 100;
    let first = if policy == EvictionPolicy::Mru { n_chunks - n_pinned } else { 0 };
    let pinned: Vec<ChunkKey> = (first..first + n_pinned).map(key).collect();
    assert_eq!(tier.pin(&pinned), n_pinned);
}

/// Allocations that evict, in a tier that stays full.
pub(crate) struct Evictions {
    tier: CpuTier,
    next: usize,
}

impl Evictions {
    /// Makes a full tier, with a share of it pinned.
    pub(crate) fn new(n_chunks: usize, policy: EvictionPolicy, pinned_percent: usize) -> Self {
        let tier = full(n_chunks, policy);
        pin(&tier, n_chunks, pinned_percent, policy);
        Self { tier, next: n_chunks }
    }

    /// Allocates `n` pages, each of which evicts one chunk, and returns the seconds of one allocation. Then fills the
    /// tier again.
    pub(crate) fn sample(&mut self, n: usize) -> f64 {
        let mut buffers = Vec::with_capacity(n);
        let seconds = crate::sample::each(n, |_| buffers.push(buffer(&self.tier)));
        for buffer in buffers {
            put(&self.tier, ChunkWriter::new(key(self.next), buffer).freeze());
            self.next += 1;
        }
        seconds
    }
}

/// The reference of operations in memory: one lock, one hash map, and the allocator of the process.
pub(crate) struct Plain {
    map: Mutex<HashMap<u128, Arc<Vec<u8>>, UniformHasher>>,
    oldest: Mutex<VecDeque<u128>>,
}

impl Plain {
    /// The name of the reference.
    pub(crate) const NAME: &str = "Mutex<HashMap>, malloc";

    /// Makes a map of the first `n_chunks` chunks.
    pub(crate) fn new(n_chunks: usize) -> Self {
        let names: Vec<u128> = (0..n_chunks).map(|n| name(key(n))).collect();
        let map = names.iter().map(|name| (*name, Arc::new(page()))).collect();
        Self { map: Mutex::new(map), oldest: Mutex::new(names.into()) }
    }

    pub(crate) fn lookup(&self, keys: &[ChunkKey]) -> usize {
        let map = self.map.lock().expect("no thread of the bench panics");
        keys.iter().take_while(|key| map.contains_key(&name(**key))).count()
    }

    pub(crate) fn get(&self, keys: &[ChunkKey], chunks: &mut Vec<Option<Arc<Vec<u8>>>>) {
        let map = self.map.lock().expect("no thread of the bench panics");
        chunks.extend(keys.iter().map(|key| map.get(&name(*key)).cloned()));
    }

    /// Puts a chunk by reference, if it is absent.
    pub(crate) fn put(&self, key: ChunkKey, chunk: &Arc<Vec<u8>>) {
        let mut map = self.map.lock().expect("no thread of the bench panics");
        map.entry(name(key)).or_insert_with(|| Arc::clone(chunk));
    }

    pub(crate) fn remove(&self, keys: &[ChunkKey]) {
        let mut map = self.map.lock().expect("no thread of the bench panics");
        for key in keys {
            drop(map.remove(&name(*key)));
        }
    }

    /// Removes the oldest chunk and allocates a page for another.
    pub(crate) fn evict(&self) -> (u128, Vec<u8>) {
        let mut oldest = self.oldest.lock().expect("no thread of the bench panics");
        let name = oldest.pop_front().expect("the map is full");
        drop(self.map.lock().expect("no thread of the bench panics").remove(&name));
        (name, page())
    }

    /// Puts the evicted chunks back, as the newest.
    pub(crate) fn refill(&self, evicted: Vec<(u128, Vec<u8>)>) {
        let mut oldest = self.oldest.lock().expect("no thread of the bench panics");
        let mut map = self.map.lock().expect("no thread of the bench panics");
        for (name, page) in evicted {
            oldest.push_back(name);
            map.insert(name, Arc::new(page));
        }
    }
}

/// Allocates a page with the allocator of the process, without filling it.
pub(crate) fn page() -> Vec<u8> {
    Vec::with_capacity(PAGE_BYTES)
}

fn name(key: ChunkKey) -> u128 {
    (u128::from(key.hi) << 64) | u128::from(key.lo)
}
