//! Building an engine: the pool, the backends, the chain.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backends::load;
use super::{BuildError, Engine, Inner};
use crate::clock::Clock;
use crate::config::{BreakerConfig, Compiler, Config, ConfigError, check_tier_names};
use crate::cpu::{CpuTier, HotCache};
use crate::integrity::Sealer;
use crate::key::Namespace;
use crate::layout::EngineMetadata;
use crate::manager::{Breakers, ManagerOptions, NewBackend, StorageManager};
use crate::memory::{Pool, Provider};
use crate::runtime::{Control, block_on, unbudgeted};
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
pub struct EngineBuilder {
    config: Config,
    metadata: EngineMetadata,
    dst_device: String,
    provider: Option<Arc<dyn Provider>>,
    clock: Clock,
    native: Vec<(String, Arc<dyn Tier>)>,
}

impl EngineBuilder {
    /// Starts from a configuration made in code.
    pub fn new(config: Config, metadata: EngineMetadata) -> Self {
        let dst_device = "cpu".to_owned();
        Self { config, metadata, dst_device, provider: None, clock: Clock::system(), native: Vec::new() }
    }

    /// Starts from a configuration file and the environment's `LMCACHE_*` variables.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn from_file(path: impl AsRef<Path>, metadata: EngineMetadata) -> Result<Self, ConfigError> {
        Ok(Self::new(Config::from_file(path)?.log(), metadata))
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
        self.provider = Some(provider);
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
    /// have the default settings, [`BreakerConfig::default`].
    #[must_use]
    pub fn tier(mut self, name: impl Into<String>, tier: Arc<dyn Tier>) -> Self {
        self.native.push((name.into(), tier));
        self
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
        let Self { config, metadata, dst_device, provider, clock, native } = self;
        config.validate()?;
        if config.chunk_size != metadata.kv_shape.chunk_size() {
            let metadata = metadata.kv_shape.chunk_size();
            return Err(BuildError::ChunkSize { configured: config.chunk_size, metadata });
        }
        let (worker_id, world_size) = (metadata.worker_id, metadata.world_size);
        if worker_id >= world_size {
            return Err(BuildError::Worker { worker_id, world_size });
        }
        let configured = config.backends.iter().map(|backend| &backend.name);
        let names: Vec<String> = configured.chain(native.iter().map(|(name, _)| name)).cloned().collect();
        check_tier_names(&names).map_err(BuildError::TierName)?;

        let namespace = Namespace::new(&metadata);
        let sealer = match &config.integrity_key {
            None => Sealer::checksum(namespace),
            Some(secret) => Sealer::mac(namespace, secret.expose_bytes()),
        };
        let control = Control::start().map_err(BuildError::Control)?;
        let (pool, provider) = if let Some(provider) = provider {
            (None, provider)
        } else {
            let chunk_bytes = metadata.chunk_bytes(config.chunk_size) as u64;
            let (pool_bytes, options) = (config.pool_bytes(chunk_bytes) as usize, config.pool);
            // On another thread, because touching the memory in advance takes seconds.
            let pool = control.compute(pool_bytes, move || Pool::with_options(pool_bytes, options)).await?;
            tracing::info!(
                bytes = pool.region_bytes(),
                huge_pages = options.huge_pages.name(),
                mlock = options.mlock,
                prefault = options.prefault,
                "buffer pool reserved"
            );
            let pool = Arc::new(pool);
            (Some(Arc::clone(&pool)), pool as Arc<dyn Provider>)
        };
        let keeps_chunks = config.local_cpu && config.pool_size_bytes > 0;
        let hot_cache = if keeps_chunks { HotCache::On } else { HotCache::Off };
        let cpu = CpuTier::new(provider, config.cache_policy, hot_cache);
        let mut backends = load(&config, &dst_device, &metadata, &control, &clock).await?;
        let given = native.into_iter().map(|(name, tier)| {
            let breakers = Arc::new(Breakers::new(&name, BreakerConfig::default(), &clock));
            NewBackend { name, tier, factory: None, breakers }
        });
        backends.extend(given);
        let options = ManagerOptions {
            lookup_timeout: config.lookup_timeout,
            timeout: config.blocking_timeout,
            close_timeout: config.close_timeout,
            pin_timeout: config.pin_timeout,
            on_full: config.on_full,
            put_queue_bytes: config.put_queue_bytes,
            skip_save: config.skip_save,
            clock,
            sealer,
        };
        let manager = StorageManager::new(cpu, backends, options, control);
        let (chunk_size, save_unfull_chunk) = (config.chunk_size, config.save_unfull_chunk);
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

impl std::fmt::Debug for EngineBuilder {
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
