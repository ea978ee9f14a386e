//! The metadata of engines on keys, and the form in which backends get the metadata of any engine.

use super::{EngineMetadata, LayoutError};
use crate::limits::{CHUNK_BYTES_MAX, LAYOUT_BYTES_MAX};

/// What an engine on keys serves: chunks whose layout only the embedder knows. kvtier sees their bytes, by key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageMetadata {
    /// The model's name in the serving engine.
    pub model_name: String,
    /// The number of workers that hold a shard of the model.
    pub world_size: u32,
    /// This worker's index, in `0..world_size`.
    pub worker_id: u32,
    /// A tag for the layout of the chunks: whatever makes bytes of one engine useless to another belongs here, such as
    /// element type, shape and page size, and the version of the embedder's own format. Any text of 1 to 256 bytes
    /// without control characters. Engines with different tags share nothing.
    pub layout: String,
    /// The size of the largest chunk in bytes, from 1 to 2⁴⁰. Chunks may be smaller. Larger ones are not stored.
    pub chunk_bytes_max: usize,
}

impl StorageMetadata {
    /// Checks the layout.
    ///
    /// # Errors
    /// [`LayoutError::BadTag`] and [`LayoutError::BadChunkBytes`]
    pub(crate) fn check(&self) -> Result<(), LayoutError> {
        let tag = &self.layout;
        if tag.is_empty() || tag.len() > LAYOUT_BYTES_MAX || tag.contains(char::is_control) {
            return Err(LayoutError::BadTag { n_bytes: tag.len() });
        }
        match self.chunk_bytes_max as u64 {
            1..=CHUNK_BYTES_MAX => Ok(()),
            _ => Err(LayoutError::BadChunkBytes(self.chunk_bytes_max)),
        }
    }
}

/// The metadata of either kind, as backends get it.
#[derive(Clone, Debug)]
pub(crate) struct BackendMetadata {
    pub(crate) model_name: String,
    pub(crate) world_size: u32,
    pub(crate) worker_id: u32,
    /// The element type's name, or the tag of an opaque layout.
    pub(crate) kv_dtype: String,
    /// Empty for an opaque layout.
    pub(crate) kv_shape: Vec<u32>,
    /// Tokens of a chunk; 1 for an opaque layout.
    pub(crate) chunk_size: u32,
}

impl From<&EngineMetadata> for BackendMetadata {
    fn from(metadata: &EngineMetadata) -> Self {
        Self {
            model_name: metadata.model_name.clone(),
            world_size: metadata.world_size,
            worker_id: metadata.worker_id,
            kv_dtype: metadata.kv_dtype.name().to_owned(),
            kv_shape: metadata.kv_shape.extents().to_vec(),
            chunk_size: metadata.kv_shape.chunk_size() as u32,
        }
    }
}

impl From<&StorageMetadata> for BackendMetadata {
    fn from(metadata: &StorageMetadata) -> Self {
        Self {
            model_name: metadata.model_name.clone(),
            world_size: metadata.world_size,
            worker_id: metadata.worker_id,
            kv_dtype: metadata.layout.clone(),
            kv_shape: Vec::new(),
            chunk_size: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_layout_has_a_short_readable_tag_and_a_bounded_size() {
        let check = |layout: &str, chunk_bytes_max| {
            let model_name = String::new();
            let layout = layout.to_owned();
            StorageMetadata { model_name, world_size: 1, worker_id: 0, layout, chunk_bytes_max }.check()
        };
        assert_eq!(check("vllm rows v1, bf16, 128 × 64", 1), Ok(()));
        assert_eq!(check(&"x".repeat(LAYOUT_BYTES_MAX), 1 << 40), Ok(()));
        for tag in ["", "a\nb", "a\u{85}", &"x".repeat(LAYOUT_BYTES_MAX + 1)] {
            assert_eq!(check(tag, 1), Err(LayoutError::BadTag { n_bytes: tag.len() }));
        }
        for size in [0, (1 << 40) + 1, usize::MAX] {
            assert_eq!(check("a", size), Err(LayoutError::BadChunkBytes(size)));
        }
    }
}
