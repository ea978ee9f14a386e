//! Namespaces, which separate the keys of different models, layouts and tenants.

use std::collections::BTreeMap;
use std::fmt;

use super::{CONTEXT_NAMESPACE, CONTEXT_STORAGE};
use crate::layout::{EngineMetadata, StorageMetadata};

/// Request tags or a tenant's name, part of every key of a request, so that requests with different salts share
/// nothing. The order in which tags are added does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salt(BTreeMap<String, String>);

impl Salt {
    /// Makes the empty salt of all requests without tags.
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a tag, replacing one of the same name.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Takes the tags from a request's configuration: the entries under `lmcache.tag.`, by the rest of their name.
    /// Other entries do not affect keys.
    pub fn from_request_configs<'a>(configs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let tags = configs.into_iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("lmcache.tag.")?.to_owned(), value.to_owned()))
        });
        Self(tags.collect())
    }
}

/// Separates the keys of different models, shards, layouts and tenants.
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

    /// Derives the namespace of requests with the given tags from the fields of [`Namespace::new`], then the name and
    /// value of each tag in ascending order of names.
    pub fn salted(metadata: &EngineMetadata, salt: &Salt) -> Self {
        let mut fields = Fields::new(CONTEXT_NAMESPACE);
        fields.push(&metadata.model_name);
        fields.push(&metadata.world_size.to_string());
        fields.push(&metadata.worker_id.to_string());
        fields.push(metadata.kv_dtype.name());
        for extent in metadata.kv_shape.extents() {
            fields.push(&extent.to_string());
        }
        for (name, value) in &salt.0 {
            fields.push(name);
            fields.push(value);
        }
        fields.namespace()
    }

    /// Derives the namespace of an engine on keys. It never equals that of an engine on tokens, since it is derived
    /// under another context.
    ///
    /// # Source
    /// The fields are: model name, world size, worker id, the tag of the layout, the size of the largest chunk;
    /// numbers as decimal text. `docs/keys.md` has a test vector.
    #[must_use]
    pub fn of_storage(metadata: &StorageMetadata) -> Self {
        let mut fields = Fields::new(CONTEXT_STORAGE);
        fields.push(&metadata.model_name);
        fields.push(&metadata.world_size.to_string());
        fields.push(&metadata.worker_id.to_string());
        fields.push(&metadata.layout);
        fields.push(&metadata.chunk_bytes_max.to_string());
        fields.namespace()
    }

    /// Returns the namespace's 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// The fields of a namespace, each preceded by its length.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    fn push(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    fn namespace(&self) -> Namespace {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0.finalize().as_bytes()[..16]);
        Namespace(bytes)
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

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn metadata() -> StorageMetadata {
        StorageMetadata {
            model_name: "llama-3-8b".into(),
            world_size: 1,
            worker_id: 0,
            layout: "vllm rows v1, bf16".into(),
            chunk_bytes_max: 128 << 10,
        }
    }

    #[test]
    fn the_namespace_of_an_engine_on_keys_is_the_documented_one_and_the_published_vectors_hold() {
        let mut fields = Vec::new();
        for field in ["llama-3-8b", "1", "0", "vllm rows v1, bf16", "131072"] {
            fields.extend_from_slice(&(field.len() as u64).to_le_bytes());
            fields.extend_from_slice(field.as_bytes());
        }
        let namespace = Namespace::of_storage(&metadata());
        assert_eq!(namespace.to_bytes(), blake3::derive_key(CONTEXT_STORAGE, &fields)[..16]);
        let page = include_str!("../../docs/keys.md");
        for value in [namespace.to_string(), namespace.foreign_key(b"block-0").to_string()] {
            assert!(page.contains(&value), "docs/keys.md does not have {value}");
        }
    }

    #[test]
    fn each_field_matters_and_no_namespace_is_that_of_an_engine_on_tokens() {
        let mut all = vec![metadata(); 6];
        all[1].model_name.push('b');
        all[2].world_size = 2;
        all[3].worker_id = 1;
        all[4].layout.push('2');
        all[5].chunk_bytes_max += 1;
        let mut namespaces: Vec<_> = all.iter().map(Namespace::of_storage).collect();
        namespaces.push(Namespace::new(&testing::metadata()));
        let n_different = namespaces.iter().collect::<std::collections::HashSet<_>>().len();
        assert_eq!(n_different, namespaces.len());
    }
}
