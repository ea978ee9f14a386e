//! The hash of a key.

use std::hash::{BuildHasher, RandomState};

use crate::key::ChunkKey;

/// The segments of a table.
pub(super) const N_SEGMENTS: usize = 64;

/// A key's hash: the upper bits choose the segment, the lower half the bucket.
#[derive(Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn segment(self) -> usize {
        (self.0 >> 58) as usize % N_SEGMENTS
    }

    pub(super) fn tag(self) -> u32 {
        self.0 as u32
    }
}

/// Hashes keys by two folded multiplications. Keys are usually hashes, but an embedder may supply its own, and `n`,
/// `n + 1`, … must not cluster: with one multiplication they did under one seed in a thousand. The seed prevents
/// collisions of chosen keys.
pub(super) struct KeyHash {
    hi: u64,
    lo: u64,
}

impl KeyHash {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self { hi: random.hash_one(0), lo: random.hash_one(1) }
    }

    #[inline]
    pub(super) fn of(&self, key: ChunkKey) -> Hash {
        const CONSTANT: u64 = 0x9e37_79b9_7f4a_7c15;
        Hash(fold(fold(key.hi ^ self.hi, key.lo ^ self.lo), CONSTANT))
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}
