//! What a cache has to do to be compared.

use std::hash::{BuildHasherDefault, Hasher};

use crate::chats::Block;

/// A cache of chunks of [`CHUNK_BYTES`](crate::CHUNK_BYTES). Each operation follows the cache's documentation. What a
/// thread can keep between calls, such as vectors with spare capacity, is in `Hold`.
pub trait Contender: Send + Sync {
    /// The cache's name of a chunk, made before the clock starts.
    type Key: Copy + Send + Sync;
    /// What a thread keeps between calls.
    type Hold: Default + Send;

    /// Makes the cache's name of a chunk.
    fn key(block: Block) -> Self::Key;

    /// Returns the length of the leading run of keys that are present. Does not count as a use where the cache has such
    /// an operation.
    fn lookup(&self, keys: &[Self::Key], hold: &mut Self::Hold) -> usize;

    /// Takes a handle to each chunk's bytes and releases it; returns how many chunks were present. Counts as a use.
    fn get(&self, keys: &[Self::Key], hold: &mut Self::Hold) -> usize;

    /// Allocates memory for each chunk, without filling it, and inserts it; chunks beyond the capacity are evicted.
    fn insert(&self, keys: &[Self::Key], hold: &mut Self::Hold);

    /// Serves a prompt: gets the leading run and inserts what is missing. Returns the length of the run.
    fn serve(&self, keys: &[Self::Key], hold: &mut Self::Hold) -> usize {
        let n_run = self.lookup(keys, hold);
        let (run, missing) = keys.split_at(n_run);
        self.get(run, hold);
        self.insert(missing, hold);
        n_run
    }
}

/// Returns bits of the key as its hash: keys are uniform, so no cache has to hash them.
#[derive(Clone, Copy, Debug, Default)]
pub struct UniformHash(u64);

/// The hasher for caches that let their users choose one.
pub type UniformHasher = BuildHasherDefault<UniformHash>;

impl Hasher for UniformHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 ^= word;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 ^= value as u64;
    }
}
