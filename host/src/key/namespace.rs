//! Namespaces, which separate the keys of different models, layouts and tenants.

use std::collections::BTreeMap;
use std::fmt;

use super::CONTEXT_NAMESPACE;
use crate::layout::EngineMetadata;

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
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(bytes)
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
