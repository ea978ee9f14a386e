//! Building an engine: its parts and settings, and an engine on tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::{Chunks, Memory};
use super::{BuildError, Engine, Inner};
use crate::clock::Clock;
use crate::config::{Compiler, Config, ConfigError};
use crate::key::Namespace;
use crate::layout::EngineMetadata;
use crate::memory::Provider;
use crate::runtime::{block_on, unbudgeted};
use crate::tier::Tier;

/// Collects the parts of an engine and builds it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kvtier::{Dtype, EngineBuilder, EngineMetadata, KvShape};
///
/// let metadata = EngineMetadata {
///     model_name: "meta-llama/Llama-3-8B".into(),
///     world_size: 1,
///     worker_id: 0,
///     kv_dtype: Dtype::BFloat16,
///     kv_shape: KvShape::new([32, 2, 256, 8, 128])?,
/// };
/// let engine = EngineBuilder::from_file("kvtier.yaml", metadata)?.build().await?;
/// # Ok(()) }
/// ```
///
/// With [`EngineMetadata`] it builds an [`Engine`], which works on tokens. With
/// [`StorageMetadata`](crate::StorageMetadata), from [`EngineBuilder::on_keys`] on, it builds a
/// [`StorageManager`](crate::StorageManager), which works on keys and knows no layout.
pub struct EngineBuilder<M = EngineMetadata> {
    pub(super) config: Config,
    pub(super) metadata: M,
    pub(super) dst_device: String,
    pub(super) memory: Memory,
    pub(super) clock: Clock,
    pub(super) native: Vec<(String, Arc<dyn Tier>)>,
}

impl EngineBuilder {
    /// Starts from a configuration made in code.
    pub fn new(config: Config, metadata: EngineMetadata) -> Self {
        Self::of(config, metadata)
    }

    /// Starts from a configuration file and the environment's `LMCACHE_*` variables.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn from_file(path: impl AsRef<Path>, metadata: EngineMetadata) -> Result<Self, ConfigError> {
        Ok(Self::new(Config::from_file(path)?.log(), metadata))
    }

    /// Reserves the pool, loads the backends concurrently, and waits until each is open or has failed. Under
    /// `kvtier.on_load_error: continue` it does not wait for a backend whose component has to be compiled first, which
    /// joins the chain when it is ready.
    ///
    /// # Errors
    /// [`BuildError`]. A backend that cannot be loaded is an error only under `kvtier.on_load_error: fail`. Otherwise
    /// it is logged, appears in the status, and is tried again in the background.
    pub async fn build(self) -> Result<Engine, BuildError> {
        unbudgeted(self.make()).await
    }

    async fn make(self) -> Result<Engine, BuildError> {
        self.config.validate()?;
        let metadata = self.metadata.clone();
        if self.config.chunk_size != metadata.kv_shape.chunk_size() {
            let (configured, metadata) = (self.config.chunk_size, metadata.kv_shape.chunk_size());
            return Err(BuildError::ChunkSize { configured, metadata });
        }
        let (chunk_size, save_unfull_chunk) = (self.config.chunk_size, self.config.save_unfull_chunk);
        let namespace = Namespace::new(&metadata);
        let chunks = Chunks {
            metadata: (&metadata).into(),
            namespace,
            size_bytes: metadata.chunk_bytes(chunk_size),
            // Engines may use their storage manager for chunks of other sizes.
            size_bytes_max: usize::MAX,
        };
        let (manager, pool) = self.chain(chunks).await?;
        Ok(Engine(Arc::new(Inner { manager, metadata, namespace, chunk_size, save_unfull_chunk, pool })))
    }

    /// As [`EngineBuilder::build`], for callers without an executor.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn build_blocking(self) -> Result<Engine, BuildError> {
        block_on(self.build())
    }
}

impl<M> EngineBuilder<M> {
    pub(super) fn of(config: Config, metadata: M) -> Self {
        Self {
            config,
            metadata,
            dst_device: "cpu".to_owned(),
            memory: Memory::Pool,
            clock: Clock::system(),
            native: Vec::new(),
        }
    }

    /// Names the device that chunks are copied to, for backends that need it; `cpu` by default.
    #[must_use]
    pub fn dst_device(mut self, device: impl Into<String>) -> Self {
        self.dst_device = device.into();
        self
    }

    /// Takes buffers from memory of the embedding runtime instead of kvtier's own pool.
    #[must_use]
    pub fn memory(mut self, provider: Arc<dyn Provider>) -> Self {
        self.memory = Memory::Provided(provider);
        self
    }

    /// Names the program that compiles components, instead of `kvtier.compiler`: the `kvtier` command of the same build
    /// of this library. By default it is the `kvtier` on `PATH`; if there is none, this process compiles, without the
    /// limits of a compiler. If the program fails, reaches a limit or is of another build, the backend is not loaded.
    #[must_use]
    pub fn compiler(mut self, program: impl Into<PathBuf>) -> Self {
        self.config.compiler = Compiler::Program(program.into());
        self
    }

    /// Names a command that compiles components, to which kvtier appends its own arguments: for a program that contains
    /// the compiler itself and is started by an interpreter. The command is run without an environment, in the root
    /// directory.
    #[must_use]
    pub fn compiler_command(mut self, program: impl Into<PathBuf>, arguments: Vec<String>) -> Self {
        self.config.compiler = Compiler::Command { program: program.into(), arguments };
        self
    }

    /// Chooses how traps of guests are noticed, in the place of `kvtier.signal_handlers`: by signal handlers of the
    /// process, or by checks in the guests' code. A host in whose process other code installs handlers for SIGSEGV,
    /// SIGILL or SIGFPE turns them off: otherwise the next trap ends the process.
    #[must_use]
    pub fn signal_handlers(mut self, are_used: bool) -> Self {
        self.config.signal_handlers = are_used;
        self
    }

    /// Uses another clock for the expiry of pins and the pauses of breakers.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Appends a native tier after the configured backends. Its name follows the rules of a backend's, and its breakers
    /// have the default settings, [`BreakerConfig::default`](crate::BreakerConfig).
    #[must_use]
    pub fn tier(mut self, name: impl Into<String>, tier: Arc<dyn Tier>) -> Self {
        self.native.push((name.into(), tier));
        self
    }
}

impl<M: std::fmt::Debug> std::fmt::Debug for EngineBuilder<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineBuilder").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::EngineBuilder;
    use crate::config::Config;
    use crate::layout::{Dtype, EngineMetadata, KvShape};
    use crate::memory::{HugePages, PoolOptions};

    fn builder(pool_size_bytes: u64, pool: PoolOptions) -> EngineBuilder {
        let metadata = EngineMetadata {
            model_name: "test".into(),
            world_size: 1,
            worker_id: 0,
            kv_dtype: Dtype::BFloat16,
            kv_shape: KvShape::new([2, 2, 16, 2, 8]).unwrap(),
        };
        EngineBuilder::new(Config { chunk_size: 16, pool_size_bytes, pool, ..Config::default() }, metadata)
    }

    #[test]
    fn the_pool_is_made_as_configured_or_start_is_refused() {
        let options =
            PoolOptions { huge_pages: HugePages::Transparent, prefault: true, ..Default::default() };
        let engine = builder(8 << 20, options).build_blocking().unwrap();
        assert_eq!(engine.pool().unwrap().options(), options);
        let options = PoolOptions { huge_pages: HugePages::Explicit, ..Default::default() };
        let error = builder(4 << 40, options).build_blocking().unwrap_err().to_string();
        assert!(error.contains("vm.nr_hugepages=2097152"), "{error}");
    }
}
