//! Building an engine on keys, whose layout kvtier does not know.

use super::chain::{Chunks, Memory};
use super::{BuildError, EngineBuilder};
use crate::config::Config;
use crate::key::Namespace;
use crate::layout::StorageMetadata;
use crate::manager::StorageManager;
use crate::runtime::{block_on, unbudgeted};

impl EngineBuilder<StorageMetadata> {
    /// Starts an engine on keys: for serving engines that name their chunks, and whose chunks have no KV shape or
    /// several sizes. `chunk_size` and `save_unfull_chunk` of the configuration have no meaning in it.
    ///
    /// ```
    /// use std::ptr::NonNull;
    /// use kvtier::memory::{BufferMut, ChunkWriter};
    /// use kvtier::{Config, EngineBuilder, StorageMetadata, Tiers, block_on};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let metadata = StorageMetadata {
    ///     model_name: "meta-llama/Llama-3-8B".into(),
    ///     world_size: 1,
    ///     worker_id: 0,
    ///     layout: "pages of 16 tokens, bfloat16, v1".into(),
    ///     chunk_bytes_max: 2 << 20,
    /// };
    /// let config = Config { pool_size_bytes: 64 << 20, ..Config::default() };
    /// let storage = EngineBuilder::on_keys(config, metadata).build_blocking()?;
    ///
    /// // The key of a page, from the name that the serving engine has for it.
    /// let key = storage.namespace().foreign_key(b"request 7, page 0");
    /// # let spec = kvtier::ChunkSpec { key, size_bytes: 5 };
    /// # let mut allocation = block_on(storage.allocate(&[spec]))?;
    /// # for missing in allocation.missing() { missing.bytes.copy_from_slice(b"bytes"); }
    /// # block_on(storage.put(allocation, &Tiers::All));
    ///
    /// // Fetches it into memory of the serving engine, which stays alive until the last transfer has ended.
    /// let mut page = vec![0; 2 << 20].into_boxed_slice();
    /// let (start, length) = (NonNull::from(&mut *page).cast(), page.len());
    /// // SAFETY: the owner has the memory on the heap, and nothing else uses it.
    /// let buffer = unsafe { BufferMut::lend(start, length, page) };
    /// let fetched = block_on(storage.fetch_into(vec![ChunkWriter::new(key, buffer)], &Tiers::All));
    /// let chunk = fetched[0].as_ref().map_err(|not_fetched| not_fetched.miss.clone())?;
    /// assert_eq!(&chunk[..], b"bytes");
    /// # block_on(storage.close())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_keys(config: Config, metadata: StorageMetadata) -> Self {
        Self::of(config, metadata)
    }

    /// Builds no CPU tier and reserves no memory. Chunks are stored from lent memory and fetched into lent memory
    /// ([`BufferMut::lend`](crate::memory::BufferMut::lend), [`StorageManager::fetch_into`]);
    /// [`StorageManager::allocate`] is an error, and [`StorageManager::get`] finds no memory. Unless
    /// `kvtier.put_queue_bytes` is set, the put queues may hold 1 GiB together.
    #[must_use]
    pub fn without_cpu_tier(mut self) -> Self {
        self.memory = Memory::Absent;
        self
    }

    /// Reserves the pool, if there is a CPU tier, and loads the backends, as [`EngineBuilder::build`] of an engine on
    /// tokens does.
    ///
    /// # Errors
    /// [`BuildError`]
    pub async fn build(self) -> Result<StorageManager, BuildError> {
        unbudgeted(self.make()).await
    }

    async fn make(self) -> Result<StorageManager, BuildError> {
        self.config.validate()?;
        self.metadata.check()?;
        let chunks = Chunks {
            metadata: (&self.metadata).into(),
            namespace: Namespace::of_storage(&self.metadata),
            size_bytes: self.metadata.chunk_bytes_max,
            size_bytes_max: self.metadata.chunk_bytes_max,
        };
        let (manager, _) = self.chain(chunks).await?;
        Ok(manager)
    }

    /// As `build`, for callers without an executor.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn build_blocking(self) -> Result<StorageManager, BuildError> {
        block_on(self.build())
    }
}
