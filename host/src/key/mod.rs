//! Chunk keys: 128-bit names of chunks, chained over all earlier chunks of the prompt.
//!
//! The construction is part of the stored format: another program that follows it finds the same chunks. It has three
//! steps, each BLAKE3 in its key-derivation mode under its own context string, so that no value of one step can be
//! mistaken for a value of another:
//!
//! ```text
//! N   = BLAKE3("kvtier 2026-11 namespace v1", fields)[..16]     once per model, worker and salt
//! D_i = BLAKE3("kvtier 2026-11 chunk tokens v1", tokens)[..32]  tokens as u32, little-endian
//! K_i = BLAKE3("kvtier 2026-11 chunk key v1", N ‖ K_(i-1) ‖ D_i)[..16],  K_(-1) = 16 zero bytes
//! ```
//!
//! The digests `D_i` do not depend on each other; only the short last step is sequential. `fields` is the concatenation
//! of the namespace's fields, each preceded by its length in bytes as a u64, little-endian; [`Namespace::new`] names
//! them. Two different prompts, namespaces or salts share a key only by a collision of 128-bit values. `docs/keys.md`
//! has test vectors.

mod chain;
mod digest;
mod foreign;
mod namespace;
mod prompt;

use std::fmt;

pub use chain::KeyChain;
pub use namespace::{Namespace, Salt};
pub use prompt::Prompt;

const CONTEXT_NAMESPACE: &str = "kvtier 2026-11 namespace v1";
const CONTEXT_STORAGE: &str = "kvtier 2026-11 storage namespace v1";
const CONTEXT_TOKENS: &str = "kvtier 2026-11 chunk tokens v1";
const CONTEXT_KEY: &str = "kvtier 2026-11 chunk key v1";
const CONTEXT_FOREIGN: &str = "kvtier 2026-11 foreign key v1";

/// Names one chunk for one model, layout and tenant. Its bytes, `hi` first and big-endian, are the 16
/// bytes of the construction above.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The first eight bytes.
    pub hi: u64,
    /// The last eight bytes.
    pub lo: u64,
}

impl ChunkKey {
    /// Makes a key from its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let value = u128::from_be_bytes(bytes);
        Self { hi: (value >> 64) as u64, lo: value as u64 }
    }

    /// Returns the key's 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        (((self.hi as u128) << 64) | self.lo as u128).to_be_bytes()
    }
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.hi, self.lo)
    }
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name and size of a chunk to be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSpec {
    /// The chunk's name.
    pub key: ChunkKey,
    /// The payload's size in bytes, at least 1. A retrieval provides this much memory: a chunk that was stored shorter
    /// is returned with its own length, and one that was stored larger is a miss.
    pub size_bytes: usize,
}

#[cfg(test)]
mod testing {
    use crate::layout::{Dtype, EngineMetadata, KvShape};

    /// The metadata of the published vectors.
    pub(super) fn metadata() -> EngineMetadata {
        EngineMetadata {
            model_name: "llama-3-8b".into(),
            world_size: 1,
            worker_id: 0,
            kv_dtype: Dtype::BFloat16,
            kv_shape: KvShape::new([32, 2, 256, 8, 128]).expect("a valid shape"),
        }
    }

    /// Tokens that do not repeat.
    pub(super) fn tokens(n_tokens: usize) -> Vec<u32> {
        (0..n_tokens as u32).map(|token| token.wrapping_mul(0x9e37_79b9)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::metadata;
    use super::*;
    use crate::layout::{Dtype, KvShape};

    /// The keys of all chunks, including the trailing partial one, as a prompt derives them.
    fn keys(namespace: Namespace, tokens: &[u32], chunk_size: usize) -> Vec<ChunkKey> {
        let mut prompt = Prompt::new(namespace, namespace, chunk_size);
        prompt.append(tokens);
        prompt.keys().iter().copied().chain(prompt.unfull_key()).collect()
    }

    #[test]
    fn the_construction_is_the_documented_one() {
        // Computed with the plain hash functions, step by step as in the module's documentation.
        let derive = |context: &str, bytes: &[u8]| blake3::derive_key(context, bytes);
        let mut fields = Vec::new();
        for field in ["llama-3-8b", "1", "0", "bfloat16", "32", "2", "256", "8", "128"] {
            fields.extend_from_slice(&(field.len() as u64).to_le_bytes());
            fields.extend_from_slice(field.as_bytes());
        }
        let namespace = &derive(CONTEXT_NAMESPACE, &fields)[..16];
        let tokens: Vec<u32> = (0..512).collect();
        let mut previous = vec![0; 16];
        let mut expected = Vec::new();
        for chunk in tokens.chunks(256) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|token| token.to_le_bytes()).collect();
            let digest = derive(CONTEXT_TOKENS, &bytes);
            let key = derive(CONTEXT_KEY, &[namespace, &previous, &digest].concat())[..16].to_vec();
            expected.push(ChunkKey::from_bytes(key.clone().try_into().expect("16 bytes")));
            previous = key;
        }
        assert_eq!(keys(Namespace::new(&metadata()), &tokens, 256), expected);
    }

    #[test]
    fn the_published_vectors_hold() {
        let namespace = Namespace::new(&metadata());
        let tokens: Vec<u32> = (0..600).collect();
        let shown: Vec<String> = keys(namespace, &tokens, 256).iter().map(ToString::to_string).collect();
        let page = include_str!("../../docs/keys.md");
        for vector in [namespace.to_string(), shown.join("\n")] {
            assert!(page.contains(&format!("```\n{vector}\n```")), "docs/keys.md does not have\n{vector}");
        }
    }

    #[test]
    fn t53_token_0_changes_every_key_and_token_300_keeps_the_first() {
        let namespace = Namespace::new(&metadata());
        let tokens: Vec<u32> = (0..768).collect();
        let base = keys(namespace, &tokens, 256);
        let changed = |index: usize| {
            let mut tokens = tokens.clone();
            tokens[index] ^= 1;
            keys(namespace, &tokens, 256)
        };
        assert!(changed(0).iter().zip(&base).all(|(a, b)| a != b));
        let later = changed(300);
        assert_eq!(later[0], base[0]);
        assert!(later[1] != base[1] && later[2] != base[2]);
    }

    #[test]
    fn t56_tag_values_distinguish_and_their_order_does_not() {
        let salted = |salt: &Salt| Namespace::salted(&metadata(), salt);
        let ab = Salt::none().tag("a", "1").tag("b", "2");
        assert_eq!(salted(&ab), salted(&Salt::none().tag("b", "2").tag("a", "1")));
        assert_ne!(salted(&ab), salted(&Salt::none().tag("a", "1").tag("b", "3")));
        assert_ne!(salted(&ab), salted(&Salt::none().tag("a", "1b2")));
        let from = |pairs: &[(&'static str, &'static str)]| {
            salted(&Salt::from_request_configs(pairs.iter().copied()))
        };
        assert_eq!(from(&[("lmcache.skip_save", "1")]), salted(&Salt::none()));
        assert_eq!(from(&[("lmcache.tag.a", "1"), ("x", "y"), ("lmcache.tag.b", "2")]), salted(&ab));
    }

    #[test]
    fn every_field_of_the_metadata_keeps_namespaces_apart() {
        let base = metadata();
        let mut others = vec![base.clone(); 5];
        others[0].model_name = "llama-3-8".into();
        others[1].world_size = 2;
        others[2].worker_id = 1;
        others[3].kv_dtype = Dtype::Float16;
        others[4].kv_shape = KvShape::new([32, 2, 128, 16, 128]).expect("a valid shape");
        for other in &others {
            assert_ne!(Namespace::new(other), Namespace::new(&base), "{other:?}");
        }
    }

    #[test]
    fn a_chain_goes_on_behind_a_known_key() {
        let namespace = Namespace::new(&metadata());
        let tokens: Vec<u32> = (0..2048).collect();
        let all = keys(namespace, &tokens, 256);
        let mut chain = KeyChain::after(namespace, all[4]);
        assert_eq!(chain.push(&tokens[5 * 256..6 * 256]), all[5]);
    }

    #[test]
    fn keys_round_trip_through_bytes_and_show_as_hex() {
        let key = ChunkKey { hi: 0x0123_4567_89ab_cdef, lo: 1 };
        assert_eq!(ChunkKey::from_bytes(key.to_bytes()), key);
        assert_eq!(key.to_string(), "0123456789abcdef0000000000000001");
    }
}
