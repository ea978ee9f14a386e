//! Digests of chunks' tokens, many chunks in parallel.
//!
//! The digests of a prompt do not depend on each other, so chunks of equal length share the lanes of the processor's
//! vectors: each lane hashes one chunk. `blake3` fills the lanes from one long input only. This module gives its
//! `platform` many short inputs, with the flags that BLAKE3's specification requires for a whole input of this length.
//! That module is not part of the crate's stable API, so the workspace pins the version, and the tests compare every
//! length with the public function.

use std::sync::LazyLock;

use blake3::IncrementCounter;
use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};
use blake3::platform::{Platform, le_bytes_from_words_32, words_from_le_bytes_32};

use super::{CONTEXT_KEY, CONTEXT_TOKENS};

/// A digest, or a node of BLAKE3's tree.
pub(super) type Digest = [u8; 32];

/// BLAKE3 hashes leaves of 1 KiB, each in blocks; a parent is one block.
const LEAF_BYTES: usize = 1024;
const BLOCK_BYTES: usize = 64;

/// Chunks that are hashed in one call: as many as the widest vectors have lanes, which BLAKE3 calls its degree.
const N_LANES: usize = 16;

// The flags of BLAKE3's specification, section 2.1.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;
const DERIVE_KEY_MATERIAL: u8 = 64;

/// The state that all prompts share.
struct Setup {
    platform: Platform,
    tokens: ContextKey,
    tokens_words: [u32; 8],
    key_words: [u32; 8],
}

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let tokens = hash_derive_key_context(CONTEXT_TOKENS);
    Setup {
        platform: Platform::detect(),
        tokens,
        tokens_words: words_from_le_bytes_32(&tokens),
        key_words: words_from_le_bytes_32(&hash_derive_key_context(CONTEXT_KEY)),
    }
});

/// Derives a chunk's key from the 64 bytes that identify it.
pub(super) fn link(bytes: &[u8; BLOCK_BYTES]) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&one_block(&SETUP.key_words, bytes)[..16]);
    key
}

/// Hashes at most one block: one compression.
fn one_block(context: &[u32; 8], bytes: &[u8]) -> Digest {
    const FLAGS: u8 = CHUNK_START | CHUNK_END | ROOT | DERIVE_KEY_MATERIAL;
    let (mut words, mut block) = (*context, [0; BLOCK_BYTES]);
    block[..bytes.len()].copy_from_slice(bytes);
    SETUP.platform.compress_in_place(&mut words, &block, bytes.len() as u8, 0, FLAGS);
    le_bytes_from_words_32(&words)
}

/// Passes the digests of consecutive chunks of `chunk_size` tokens to `take`, in order. Ignores the tokens after the
/// last full chunk.
pub(super) fn each(tokens: &[u32], chunk_size: usize, mut take: impl FnMut(&Digest)) {
    let n_bytes = chunk_size * 4;
    for group in tokens.chunks(chunk_size * N_LANES) {
        let n_chunks = group.len() / chunk_size;
        let bytes = bytes(&group[..n_chunks * chunk_size]);
        let mut digests = [[0; 32]; N_LANES];
        let digests = &mut digests[..n_chunks];
        match n_bytes {
            ..BLOCK_BYTES => {
                let chunks = bytes.chunks_exact(n_bytes).zip(&mut *digests);
                chunks.for_each(|(chunk, digest)| *digest = one_block(&SETUP.tokens_words, chunk));
            }
            BLOCK_BYTES => short::<BLOCK_BYTES>(bytes, digests),
            128 => short::<128>(bytes, digests),
            256 => short::<256>(bytes, digests),
            512 => short::<512>(bytes, digests),
            LEAF_BYTES => short::<LEAF_BYTES>(bytes, digests),
            // A chunk with more leaves than there are chunks fills the lanes better alone.
            _ if n_bytes.is_multiple_of(LEAF_BYTES) && n_bytes / LEAF_BYTES <= n_chunks => {
                long(bytes, n_bytes / LEAF_BYTES, digests);
            }
            _ => {
                let chunks = bytes.chunks_exact(n_bytes).zip(&mut *digests);
                chunks.for_each(|(chunk, digest)| *digest = finalize(hasher().update(chunk)));
            }
        }
        digests.iter().for_each(&mut take);
    }
}

/// Digests chunks of `N` bytes, at most one leaf: each is a tree of one node.
fn short<const N: usize>(bytes: &[u8], digests: &mut [Digest]) {
    hash::<N>(bytes.as_chunks().0.iter(), 0, [0, CHUNK_START, CHUNK_END | ROOT], digests);
}

/// Digests chunks of `n_leaves` leaves: the first leaves of all chunks in parallel, then the second ones, and so on;
/// then the parents, level by level.
fn long(bytes: &[u8], n_leaves: usize, digests: &mut [Digest]) {
    let n_chunks = digests.len();
    let mut level = vec![[[0; 32]; N_LANES]; n_leaves];
    for (index, nodes) in level.iter_mut().enumerate() {
        let leaves = bytes.as_chunks().0.iter().skip(index).step_by(n_leaves);
        hash::<LEAF_BYTES>(leaves, index as u64, [0, CHUNK_START, CHUNK_END], &mut nodes[..n_chunks]);
    }
    let mut parents = [[0; BLOCK_BYTES]; N_LANES];
    while level.len() > 1 {
        let (n_nodes, n_parents) = (level.len(), level.len() / 2);
        let flags = if n_nodes == 2 { PARENT | ROOT } else { PARENT };
        for index in 0..n_parents {
            let (left, right) = (&level[2 * index], &level[2 * index + 1]);
            for ((parent, left), right) in parents.iter_mut().zip(left).zip(right) {
                parent[..32].copy_from_slice(left);
                parent[32..].copy_from_slice(right);
            }
            hash(parents[..n_chunks].iter(), 0, [flags, 0, 0], &mut level[index][..n_chunks]);
        }
        // A node without a neighbour moves up unchanged.
        if n_nodes % 2 == 1 {
            level.swap(n_parents, n_nodes - 1);
        }
        level.truncate(n_nodes.div_ceil(2));
    }
    digests.copy_from_slice(&level[0][..n_chunks]);
}

/// Hashes separate inputs of `N` bytes, as many as `into` has room for. The flags are those of all blocks, of the
/// first, and of the last.
fn hash<'a, const N: usize>(
    inputs: impl Iterator<Item = &'a [u8; N]>,
    counter: u64,
    [all, first, last]: [u8; 3],
    into: &mut [Digest],
) {
    let mut lanes = [&[0; N]; N_LANES];
    lanes.iter_mut().zip(inputs).for_each(|(lane, input)| *lane = input);
    SETUP.platform.hash_many(
        &lanes[..into.len()],
        &SETUP.tokens_words,
        counter,
        IncrementCounter::No,
        all | DERIVE_KEY_MATERIAL,
        first,
        last,
        into.as_flattened_mut(),
    );
}

/// Returns the tokens' bytes in the order that the construction requires, without a copy. All hashed tokens pass here
/// once.
fn bytes(tokens: &[u32]) -> &[u8] {
    const { assert!(cfg!(target_endian = "little"), "tokens are hashed as they lie in memory") };
    #[cfg(test)]
    N_TOKENS_HASHED.set(N_TOKENS_HASHED.get() + tokens.len());
    bytemuck::cast_slice(tokens)
}

#[cfg(test)]
thread_local! {
    /// The number of tokens that this thread has hashed.
    pub(super) static N_TOKENS_HASHED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn hasher() -> blake3::Hasher {
    blake3::Hasher::new_from_context_key(&SETUP.tokens)
}

fn finalize(hasher: &blake3::Hasher) -> Digest {
    *hasher.finalize().as_bytes()
}

/// The digest of one chunk, whose tokens may come in pieces.
#[derive(Clone)]
pub(super) struct Digesting(blake3::Hasher);

impl Digesting {
    /// Starts a chunk.
    pub(super) fn new() -> Self {
        Self(hasher())
    }

    /// Appends tokens.
    pub(super) fn update(&mut self, tokens: &[u32]) -> &mut Self {
        self.0.update(bytes(tokens));
        self
    }

    /// Returns the digest of the tokens so far.
    pub(super) fn digest(&self) -> Digest {
        finalize(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::tokens;
    use super::*;

    /// The digest by the public function.
    fn expected(tokens: &[u32], chunk_size: usize) -> Vec<Digest> {
        let digest = |chunk: &[u32]| {
            let bytes: Vec<u8> = chunk.iter().flat_map(|token| token.to_le_bytes()).collect();
            blake3::derive_key(CONTEXT_TOKENS, &bytes)
        };
        tokens.chunks_exact(chunk_size).map(digest).collect()
    }

    fn found(tokens: &[u32], chunk_size: usize) -> Vec<Digest> {
        let mut digests = Vec::new();
        each(tokens, chunk_size, |digest| digests.push(*digest));
        digests
    }

    #[test]
    fn every_size_of_chunk_has_the_public_functions_digests() {
        let tokens = tokens(2_100 * 3);
        for chunk_size in 1..=2_100 {
            // Whole groups and odd remainders where that is cheap, and tokens after the last chunk.
            let n_tokens = (chunk_size * 37).min(2_100 * 3 - 1);
            let tokens = &tokens[..n_tokens];
            assert_eq!(found(tokens, chunk_size), expected(tokens, chunk_size), "{chunk_size} tokens");
        }
    }

    #[test]
    fn every_number_of_chunks_has_the_public_functions_digests() {
        // One size for each way: one block, blocks of one leaf, trees with and without nodes that move up, one by one.
        for chunk_size in [3, 16, 64, 100, 128, 256, 512, 768, 1024, 1280, 1792, 2816] {
            let tokens = tokens(chunk_size * 41 - 1);
            for n_chunks in 0..=40 {
                let tokens = &tokens[..(chunk_size * (n_chunks + 1) - 1)];
                let digests = found(tokens, chunk_size);
                assert_eq!(digests.len(), n_chunks);
                assert_eq!(digests, expected(tokens, chunk_size), "{n_chunks} chunks of {chunk_size} tokens");
            }
        }
    }

    #[test]
    fn a_link_is_the_public_function_on_one_block() {
        for seed in 0..=255_u8 {
            let block = std::array::from_fn(|index| (index as u8).wrapping_mul(seed) ^ seed);
            assert_eq!(link(&block), blake3::derive_key(CONTEXT_KEY, &block)[..16]);
        }
    }
}
