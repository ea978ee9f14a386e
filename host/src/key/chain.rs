//! The sequential step: each chunk's key from the one before and the digest of its tokens.

use std::fmt;

use super::digest::{self, Digest, Digesting};
use super::{ChunkKey, Namespace};

/// Derives the keys of one prompt, chunk by chunk or many at once.
///
/// It keeps the last key and no tokens: going on costs only the new tokens. [`Prompt`](super::Prompt) does that for
/// appended tokens of any number.
#[derive(Clone)]
pub struct KeyChain {
    /// What the next key is the hash of: namespace, previous key, and the digest of the chunk's tokens.
    block: [u8; 64],
}

impl KeyChain {
    /// Starts a prompt.
    pub fn new(namespace: Namespace) -> Self {
        Self::after(namespace, ChunkKey::from_bytes([0; 16]))
    }

    /// Goes on behind a chunk whose key is known.
    pub fn after(namespace: Namespace, previous: ChunkKey) -> Self {
        let mut block = [0; 64];
        block[..16].copy_from_slice(&namespace.to_bytes());
        block[16..32].copy_from_slice(&previous.to_bytes());
        Self { block }
    }

    /// Appends a chunk and returns its key. `tokens` is usually `chunk_size` long; a shorter last
    /// chunk has a key of its own. Cost: one pass over the tokens, and one compression.
    pub fn push(&mut self, tokens: &[u32]) -> ChunkKey {
        self.push_digest(&Digesting::new().update(tokens).digest())
    }

    /// Appends the full chunks of `tokens`, makes `keys` longer by their keys, and returns the tokens behind the last
    /// of them. Cost: one pass over the tokens in vectors, and one compression a chunk.
    ///
    /// # Panics
    /// When `chunk_size` is 0.
    pub fn extend<'a>(
        &mut self,
        tokens: &'a [u32],
        chunk_size: usize,
        keys: &mut Vec<ChunkKey>,
    ) -> &'a [u32] {
        let n_chunks = tokens.len() / chunk_size;
        let (full, rest) = tokens.split_at(n_chunks * chunk_size);
        keys.reserve(n_chunks);
        digest::each(full, chunk_size, |digest| keys.push(self.push_digest(digest)));
        rest
    }

    pub(super) fn push_digest(&mut self, digest: &Digest) -> ChunkKey {
        self.block[32..].copy_from_slice(digest);
        let key = digest::link(&self.block);
        self.block[16..32].copy_from_slice(&key);
        ChunkKey::from_bytes(key)
    }
}

impl fmt::Debug for KeyChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyChain").finish_non_exhaustive()
    }
}
