//! Shared by the tests of memory and of the CPU tier.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

use super::{Allocated, CpuTier, EvictionPolicy, HotCache, Inserted};
use crate::chunk::{Chunk, ChunkWriter};
use crate::key::ChunkKey;
use crate::memory::{BufferMut, PAGE_BYTES, Pool, Waiter};

/// A seeded generator: the same numbers on every machine.
pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::seed_from_u64(seed))
    }

    /// Returns a number less than `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.next_u64() as usize % n
    }
}

/// A tier whose pool has `n_chunks` pages, with chunks of one page, each named by a number.
pub(super) struct Bench {
    pub(super) pool: Arc<Pool>,
    pub(super) tier: CpuTier,
}

pub(super) fn key(n: u64) -> ChunkKey {
    ChunkKey { hi: 0, lo: n }
}

pub(super) fn keys<const N: usize>(numbers: [u64; N]) -> [ChunkKey; N] {
    numbers.map(key)
}

impl Bench {
    pub(super) fn new(n_chunks: usize, policy: EvictionPolicy) -> Self {
        let pool = Arc::new(Pool::new(n_chunks * PAGE_BYTES).unwrap());
        let tier = CpuTier::new(Arc::clone(&pool) as _, policy, HotCache::On);
        Self { pool, tier }
    }

    pub(super) fn allocate(&self) -> Option<BufferMut> {
        match self.tier.allocate(PAGE_BYTES).unwrap() {
            Allocated::Ready(buffer) => Some(buffer),
            Allocated::Exhausted(_) => None,
        }
    }

    /// Allocates and freezes a chunk whose bytes are its number.
    pub(super) fn chunk(&self, n: u64) -> Chunk {
        let mut writer = ChunkWriter::new(key(n), self.allocate().unwrap());
        writer.fill(n as u8);
        writer.freeze()
    }

    /// Inserts chunks and keeps no handle.
    pub(super) fn put(&self, numbers: &[u64]) {
        for &n in numbers {
            assert_eq!(self.tier.insert(&self.chunk(n)), Inserted::New);
        }
    }

    pub(super) fn get(&self, n: u64) -> Option<Chunk> {
        let mut chunks = Vec::new();
        self.tier.get(&[key(n)], &mut chunks);
        chunks.pop().unwrap()
    }

    pub(super) fn has(&self, n: u64) -> bool {
        self.tier.contains_run(&[key(n)]) == 1
    }

    pub(super) fn n_references(&self, n: u64) -> Option<usize> {
        self.tier.shared.locked().n_references(key(n))
    }

    /// Allocates until nothing more can be evicted, keeping every buffer, and returns which of `0..64` left, in order.
    pub(super) fn eviction_order(&self) -> Vec<u64> {
        let mut here: Vec<u64> = (0..64).filter(|&n| self.has(n)).collect();
        let (mut order, mut buffers) = (Vec::new(), Vec::new());
        while let Some(buffer) = self.allocate() {
            buffers.push(buffer);
            let gone: Vec<u64> = here.iter().copied().filter(|&n| !self.has(n)).collect();
            assert!(gone.len() <= 1, "more than one chunk was evicted at a time: {gone:?}");
            here.retain(|&n| self.has(n));
            order.extend(gone);
        }
        self.check();
        order
    }

    pub(super) fn check(&self) {
        self.tier.check().unwrap();
        self.pool.check().unwrap();
    }
}

/// Reports whether something was released since the waiter last looked.
pub(super) fn has_news(waiter: &mut Waiter<'_>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(waiter.released()).poll(&mut context) == Poll::Ready(())
}
