//! The sequential step: each chunk's key is derived from the previous key and the digest of the chunk's tokens.

use std::fmt;

use super::digest::{self, Digest, Digesting};
use super::{ChunkKey, Namespace};

/// Derives the keys of one prompt, one chunk or many chunks at a time.
///
/// It keeps the last key and no tokens, so only new tokens cost time. [`Prompt`](super::Prompt) does the same for
/// tokens in pieces of any length.
#[derive(Clone)]
pub struct KeyChain {
    /// The input of the next key's hash: namespace, previous key, and the digest of the chunk's tokens.
    block: [u8; 64],
}

impl KeyChain {
    /// Starts a prompt.
    pub fn new(namespace: Namespace) -> Self {
        Self::after(namespace, ChunkKey::from_bytes([0; 16]))
    }

    /// Continues after a chunk whose key is known.
    pub fn after(namespace: Namespace, previous: ChunkKey) -> Self {
        let mut block = [0; 64];
        block[..16].copy_from_slice(&namespace.to_bytes());
        block[16..32].copy_from_slice(&previous.to_bytes());
        Self { block }
    }

    /// Appends a chunk and returns its key. `tokens` usually has `chunk_size` tokens; a shorter last chunk has its own
    /// key. Cost: one pass over the tokens and one compression.
    pub fn push(&mut self, tokens: &[u32]) -> ChunkKey {
        self.push_digest(&Digesting::new().update(tokens).digest())
    }

    /// Appends the full chunks of `tokens`, adds their keys to `keys`, and returns the remaining tokens. Cost: one
    /// vectorized pass over the tokens, and one compression per chunk.
    ///
    /// # Panics
    /// If `chunk_size` is 0.
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
