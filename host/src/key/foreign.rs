//! Keys of other systems: a serving engine that names its chunks itself gives those names, and kvtier's keys are
//! derived from them.

use super::{CONTEXT_FOREIGN, ChunkKey, Namespace};

impl Namespace {
    /// Derives the key of a chunk from the name that another system has for it: any bytes, of any length. Two names
    /// have the same key only by a collision of 128-bit values, and names of other namespaces never do.
    ///
    /// The name must determine the chunk's bytes: it has to contain what the namespace does not, such as the rank of a
    /// tensor-parallel worker, and it has to be chained over the earlier chunks of the prompt if the other system's
    /// chunks depend on them.
    ///
    /// Cost: one BLAKE3 hash of 16 bytes and the name.
    ///
    /// # Source
    /// `docs/keys.md`, with test vectors.
    #[must_use]
    pub fn foreign_key(&self, name: &[u8]) -> ChunkKey {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT_FOREIGN);
        hasher.update(&self.to_bytes());
        hasher.update(name);
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        ChunkKey::from_bytes(key)
    }

    /// Derives the keys of many names, in order. Like [`Namespace::foreign_key`] for each, with the setup done once.
    #[must_use]
    pub fn foreign_keys<'a>(&self, names: impl IntoIterator<Item = &'a [u8]>) -> Vec<ChunkKey> {
        let mut begun = blake3::Hasher::new_derive_key(CONTEXT_FOREIGN);
        begun.update(&self.to_bytes());
        let derive = |name: &[u8]| {
            let mut key = [0; 16];
            begun.clone().update(name).finalize_xof().fill(&mut key);
            ChunkKey::from_bytes(key)
        };
        names.into_iter().map(derive).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::metadata;
    use super::*;

    #[test]
    fn the_construction_is_the_documented_one_and_the_published_vectors_hold() {
        let namespace = Namespace::new(&metadata());
        let page = include_str!("../../docs/keys.md");
        for name in ["block-0", "vllm@llama-3-8b@1@0@00ff"] {
            let key = namespace.foreign_key(name.as_bytes());
            let plain =
                blake3::derive_key(CONTEXT_FOREIGN, &[&namespace.to_bytes()[..], name.as_bytes()].concat());
            assert_eq!(key.to_bytes(), plain[..16]);
            let row = format!("| `{name}` | `{key}` |");
            assert!(page.contains(&row), "docs/keys.md does not have the row {row}");
        }
    }

    #[test]
    fn many_names_have_the_keys_that_each_has_alone() {
        let namespace = Namespace::new(&metadata());
        let names: Vec<Vec<u8>> = (0..300_usize).map(|n| vec![n as u8; n * 7 % 2_000]).collect();
        let alone: Vec<ChunkKey> = names.iter().map(|name| namespace.foreign_key(name)).collect();
        assert_eq!(namespace.foreign_keys(names.iter().map(Vec::as_slice)), alone);
    }

    #[test]
    fn a_name_has_another_key_in_another_namespace_and_is_no_chain_of_tokens() {
        let (one, mut other) = (metadata(), metadata());
        other.model_name = "llama-3-70b".into();
        let name = [7; 48];
        let key = Namespace::new(&one).foreign_key(&name);
        assert_ne!(key, Namespace::new(&other).foreign_key(&name));
        // The 64 bytes of a chained key, given as a name: the contexts keep them apart.
        let bytes = [&Namespace::new(&one).to_bytes()[..], &name].concat();
        assert_ne!(key.to_bytes(), blake3::derive_key(super::super::CONTEXT_KEY, &bytes)[..16]);
    }
}
