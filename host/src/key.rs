//! Chunk keys: 128-bit names of chunks, chained over all earlier chunks of the prompt.
//!
//! The construction is part of the stored format: another program that follows it finds the same
//! chunks. It has three steps, each BLAKE3 in its key-derivation mode under a context string of its
//! own, so that no value of one step can be taken for a value of another:
//!
//! ```text
//! N   = BLAKE3("kvtier 2026-11 namespace v1", fields)[..16]     once per model, worker and salt
//! D_i = BLAKE3("kvtier 2026-11 chunk tokens v1", tokens)[..32]  tokens as u32, little-endian
//! K_i = BLAKE3("kvtier 2026-11 chunk key v1", N ‖ K_(i-1) ‖ D_i)[..16],  K_(-1) = 16 zero bytes
//! ```
//!
//! The digests `D_i` do not depend on each other, only the short last step is sequential. `fields` is
//! the concatenation of the namespace's fields, each preceded by its length in bytes as a u64,
//! little-endian; [`Namespace::new`] names them. Two different prompts, namespaces or salts share a
//! key only by a collision of 128-bit values. `docs/keys.md` has test vectors.

use std::collections::BTreeMap;
use std::fmt;

use crate::layout::EngineMetadata;

const CONTEXT_NAMESPACE: &str = "kvtier 2026-11 namespace v1";
const CONTEXT_TOKENS: &str = "kvtier 2026-11 chunk tokens v1";
const CONTEXT_KEY: &str = "kvtier 2026-11 chunk key v1";

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

/// Names a chunk to be moved, and says how large it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSpec {
    /// The chunk's name.
    pub key: ChunkKey,
    /// The payload's size in bytes; at least 1.
    pub size_bytes: usize,
}

/// Request tags or a tenant's name, folded into every key of a request, so that requests with
/// different salts share nothing. The order in which tags are added does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salt(BTreeMap<String, String>);

impl Salt {
    /// Makes the empty salt, which all requests without tags share.
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a tag, replacing one of the same name.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Takes from a request's configuration what belongs into its keys: the entries under
    /// `lmcache.tag.`, by the rest of their name. Other entries have no effect on keys.
    pub fn from_request_configs<'a>(configs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let tags = configs.into_iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("lmcache.tag.")?.to_owned(), value.to_owned()))
        });
        Self(tags.collect())
    }
}

/// What keeps the keys of different models, shards, layouts and tenants apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespace([u8; 16]);

impl Namespace {
    /// Derives the namespace of an engine's requests without tags.
    ///
    /// # Source
    /// The fields are: model name, world size, worker id, dtype, then the five numbers of the shape,
    /// numbers as decimal text.
    pub fn new(metadata: &EngineMetadata) -> Self {
        Self::salted(metadata, &Salt::none())
    }

    /// Derives the namespace of requests with the given tags: the fields of [`Namespace::new`],
    /// then name and value of each tag in ascending order of names.
    pub fn salted(metadata: &EngineMetadata, salt: &Salt) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT_NAMESPACE);
        let mut field = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        field(&metadata.model_name);
        field(&metadata.world_size.to_string());
        field(&metadata.worker_id.to_string());
        field(metadata.kv_dtype.name());
        for extent in metadata.kv_shape.extents() {
            field(&extent.to_string());
        }
        for (name, value) in &salt.0 {
            field(name);
            field(value);
        }
        Self(first_16(&hasher.finalize()))
    }

    /// Returns the namespace's 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Derives the keys of one prompt, chunk by chunk.
///
/// Cloning a chain and going on costs only the new tokens, so a conversation's next turn does not
/// hash its history again.
#[derive(Clone)]
pub struct KeyChain {
    namespace: Namespace,
    previous: [u8; 16],
    tokens: blake3::Hasher,
    key: blake3::Hasher,
}

impl KeyChain {
    /// Starts a prompt.
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            previous: [0; 16],
            tokens: blake3::Hasher::new_derive_key(CONTEXT_TOKENS),
            key: blake3::Hasher::new_derive_key(CONTEXT_KEY),
        }
    }

    /// Goes on behind a chunk whose key is known.
    pub fn after(namespace: Namespace, previous: ChunkKey) -> Self {
        Self { previous: previous.to_bytes(), ..Self::new(namespace) }
    }

    /// Appends a chunk and returns its key. `tokens` is usually `chunk_size` long; a shorter last
    /// chunk has a key of its own. Cost: one pass over the tokens, and one compression.
    pub fn push(&mut self, tokens: &[u32]) -> ChunkKey {
        let digest = self.digest(tokens);
        self.tokens.reset();
        self.key.reset();
        self.key.update(&self.namespace.0).update(&self.previous).update(&digest);
        self.previous = first_16(&self.key.finalize());
        ChunkKey::from_bytes(self.previous)
    }

    fn digest(&mut self, tokens: &[u32]) -> [u8; 32] {
        // Tokens reach the hash in pieces that stay in the first-level cache.
        let mut bytes = [0_u8; 4096];
        for piece in tokens.chunks(bytes.len() / 4) {
            for (to, token) in bytes.chunks_exact_mut(4).zip(piece) {
                to.copy_from_slice(&token.to_le_bytes());
            }
            self.tokens.update(&bytes[..piece.len() * 4]);
        }
        *self.tokens.finalize().as_bytes()
    }
}

impl fmt::Debug for KeyChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyChain")
            .field("namespace", &self.namespace)
            .field("previous", &ChunkKey::from_bytes(self.previous))
            .finish_non_exhaustive()
    }
}

fn first_16(hash: &blake3::Hash) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Dtype, KvShape};

    fn metadata() -> EngineMetadata {
        EngineMetadata {
            model_name: "llama-3-8b".into(),
            world_size: 1,
            worker_id: 0,
            kv_dtype: Dtype::BFloat16,
            kv_shape: KvShape::new([32, 2, 256, 8, 128]).expect("a valid shape"),
        }
    }

    fn keys(namespace: Namespace, tokens: &[u32], chunk: usize) -> Vec<ChunkKey> {
        let mut chain = KeyChain::new(namespace);
        tokens.chunks(chunk).map(|chunk| chain.push(chunk)).collect()
    }

    #[test]
    fn the_construction_is_the_documented_one() {
        // Computed here with the plain hash functions, step by step as the module docs say.
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
