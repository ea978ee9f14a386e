//! Hashing of chunk keys.
//!
//! Keys are already uniform, so some of their digits would do as a hash. But an attacker who chooses tokens can search
//! for keys that share these digits. The two halves are therefore multiplied by secret random numbers, folded, and
//! multiplied again. The standard library's hash is stronger and takes several times as long in WebAssembly.

use std::hash::{BuildHasher, Hasher, RandomState};

#[derive(Clone, Debug)]
pub(super) struct KeyHashing([u64; 2]);

impl Default for KeyHashing {
    fn default() -> Self {
        let random = RandomState::new();
        Self([1, 2].map(|n| random.hash_one(n) | 1))
    }
}

impl BuildHasher for KeyHashing {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { factors: self.0, sum: 0 }
    }
}

#[derive(Debug)]
pub(super) struct KeyHasher {
    factors: [u64; 2],
    sum: u64,
}

impl Hasher for KeyHasher {
    fn write_u64(&mut self, half: u64) {
        let [next, after] = self.factors;
        self.sum = self.sum.wrapping_add(half.wrapping_mul(next));
        self.factors = [after, next];
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        // A product's upper bits depend on all below them, its lower ones on few; the map takes buckets from the lower.
        (self.sum ^ self.sum >> 32).wrapping_mul(self.factors[0]).rotate_left(32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::KeyHashing;
    use crate::ChunkKey;

    /// The fullest of 256 buckets that so many keys fall into.
    fn fullest(hash: impl Fn(&ChunkKey) -> u64, keys: &[ChunkKey]) -> usize {
        let mut buckets = [0; 256];
        for key in keys {
            buckets[hash(key) as usize % 256] += 1;
        }
        buckets.into_iter().max().unwrap_or_default()
    }

    #[test]
    fn keys_that_share_most_of_their_bits_are_spread() {
        let shapes: [fn(u64) -> ChunkKey; 4] = [
            |n| ChunkKey { hi: n << 32, lo: 0 },
            |n| ChunkKey { hi: 0, lo: n << 32 },
            |n| ChunkKey { hi: n, lo: 7 },
            |n| ChunkKey { hi: 7, lo: n << 48 },
        ];
        for (number, shape) in shapes.into_iter().enumerate() {
            let keys: Vec<ChunkKey> = (0..4096).map(shape).collect();
            // 16 a bucket on average. Over many draws, as an unlucky one has some pattern.
            let mut draws: Vec<usize> = (0..101)
                .map(|_| {
                    let hashing = KeyHashing::default();
                    fullest(|key| hashing.hash_one(key), &keys)
                })
                .collect();
            draws.sort_unstable();
            assert!(draws[50] <= 64, "shape {number}: {draws:?}");
        }
        // What the digits themselves would do.
        let keys: Vec<ChunkKey> = (0..4096).map(shapes[0]).collect();
        assert_eq!(fullest(|key| key.hi, &keys), 4096);
    }

    #[test]
    fn halves_count_by_their_place_and_maps_hash_differently() {
        let key = ChunkKey { hi: 3, lo: 5 };
        let hashing = KeyHashing::default();
        assert_ne!(hashing.hash_one(key), hashing.hash_one(ChunkKey { hi: 5, lo: 3 }));
        let values: HashSet<u64> = (0..8).map(|_| KeyHashing::default().hash_one(key)).collect();
        assert_eq!(values.len(), 8);
    }
}
