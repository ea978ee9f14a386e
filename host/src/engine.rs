//! The engine: tokens in, chunks out. A thin layer over the [`StorageManager`], which works on keys.

use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use crate::chunk::Chunk;
use crate::clock::Clock;
use crate::config::{BackendConfig, Config, ConfigError, OnLoadError};
use crate::cpu::CpuTier;
use crate::integrity::Sealer;
use crate::key::{ChunkKey, ChunkSpec, KeyChain, Namespace, Salt};
use crate::layout::EngineMetadata;
use crate::manager::{
    Allocation, CloseError, FlushError, Lookup, ManagerOptions, NewBackend, RecreateError, RemoveError,
    Retrieved, Status, StorageManager, Stored, TierFactory, Tiers,
};
use crate::memory::{AllocateError, Pool, PoolError, Provider};
use crate::runtime::{Control, block_on};
use crate::tier::Tier;
use crate::wasm::{EngineFacts, LaneThreads, LoadError, ThreadsError, WasmTier};

/// Why an engine could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Configuration and metadata disagree on the chunk size.
    #[error(
        "chunk_size is {configured} in the configuration but {metadata} in the metadata's kv_shape; make them equal"
    )]
    ChunkSize {
        /// Tokens of a chunk in the configuration.
        configured: usize,
        /// Tokens of a chunk in the metadata.
        metadata: usize,
    },
    /// Two tiers have one name.
    #[error("there are two backends called `{0}`; names must be unique")]
    DuplicateName(String),
    /// The buffer pool could not be reserved.
    #[error("the buffer pool of max_local_cpu_size could not be reserved: {0}")]
    Pool(#[from] PoolError),
    /// The system grants no more threads.
    #[error("the control thread could not be started: {0}")]
    Control(#[source] std::io::Error),
    /// The threads that run backends could not be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// A backend could not be loaded and `kvtier.on_load_error` is `fail`.
    #[error("backend `{backend}`: {source}")]
    Load {
        /// The backend's name.
        backend: String,
        /// What went wrong.
        source: LoadError,
    },
}

/// Collects what an engine is built from.
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
        Ok(Self::new(Config::from_file(path)?, metadata))
    }

    /// Names the device that chunks are copied to, for backends that want to know; `cpu` by default.
    #[must_use]
    pub fn dst_device(mut self, device: impl Into<String>) -> Self {
        self.dst_device = device.into();
        self
    }

    /// Takes buffers from memory of the embedding runtime instead of a pool of kvtier's own.
    #[must_use]
    pub fn memory(mut self, provider: Arc<dyn Provider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Uses another clock for the expiry of pins.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Appends a native tier behind the configured backends.
    #[must_use]
    pub fn tier(mut self, name: impl Into<String>, tier: Arc<dyn Tier>) -> Self {
        self.native.push((name.into(), tier));
        self
    }

    /// Reserves the pool, loads the backends side by side, and waits until each is open or has failed.
    ///
    /// # Errors
    /// [`BuildError`]. A backend that cannot be loaded is one only under `kvtier.on_load_error: fail`;
    /// otherwise it is logged, stands in the status, and is tried again in the background.
    pub async fn build(self) -> Result<Engine, BuildError> {
        let Self { config, metadata, dst_device, provider, clock, native } = self;
        config.validate()?;
        if config.chunk_size != metadata.kv_shape.chunk_size() {
            let metadata = metadata.kv_shape.chunk_size();
            return Err(BuildError::ChunkSize { configured: config.chunk_size, metadata });
        }
        for (name, _) in &native {
            let same = |other: &str| other == name;
            let n_native = native.iter().filter(|(other, _)| same(other)).count();
            if n_native > 1 || config.backends.iter().any(|backend| same(&backend.name)) {
                return Err(BuildError::DuplicateName(name.clone()));
            }
        }
        config.notes.iter().for_each(|note| tracing::info!("{note}"));
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

        let namespace = Namespace::new(&metadata);
        let sealer = match &config.integrity_key {
            None => Sealer::checksum(namespace),
            Some(secret) => Sealer::mac(namespace, secret.expose_bytes()),
        };
        let (pool, provider) = match provider {
            Some(provider) => (None, provider),
            None => {
                let pool = Arc::new(Pool::new(config.pool_size_bytes as usize)?);
                (Some(Arc::clone(&pool)), pool as Arc<dyn Provider>)
            }
        };
        let cpu = CpuTier::new(provider, config.cache_policy, config.local_cpu);
        let control = Control::start().map_err(BuildError::Control)?;
        let facts = EngineFacts { dst_device, metadata: metadata.clone(), namespace };
        let mut backends = load(&config, &facts, &control).await?;
        let given = native.into_iter().map(|(name, tier)| NewBackend { name, tier, factory: None });
        backends.extend(given);
        let options = ManagerOptions {
            lookup_timeout: config.lookup_timeout,
            timeout: config.blocking_timeout,
            close_timeout: config.close_timeout,
            pin_timeout: config.pin_timeout,
            on_full: config.on_full,
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

/// Loads the configured backends.
async fn load(
    config: &Config,
    facts: &EngineFacts,
    control: &Control,
) -> Result<Vec<NewBackend>, BuildError> {
    if config.backends.is_empty() {
        return Ok(Vec::new());
    }
    let cache = config.compile_cache.clone().or_else(crate::wasm::default_cache_directory);
    let threads = LaneThreads::start(config.lane_threads, cache)?;
    let starting = config
        .backends
        .iter()
        .map(|backend| WasmTier::start(backend.clone(), facts.clone(), threads.clone(), control.clone()));
    let mut backends = Vec::new();
    for (backend, (tier, outcome)) in config.backends.iter().zip(futures::future::join_all(starting).await) {
        let name = backend.name.clone();
        match outcome {
            Ok(()) => tracing::info!(backend = %name, class = %backend.class_name, "backend ready"),
            Err(source) if config.on_load_error == OnLoadError::Fail => {
                return Err(BuildError::Load { backend: name, source });
            }
            Err(error) => {
                tracing::error!(backend = %name, %error, "backend not loaded; trying again in the background")
            }
        }
        let factory = factory(backend.clone(), facts.clone(), threads.clone(), control.clone());
        backends.push(NewBackend { name, tier: Arc::new(tier), factory: Some(factory) });
    }
    Ok(backends)
}

/// Remembers how a backend was made.
fn factory(
    backend: BackendConfig,
    facts: EngineFacts,
    threads: LaneThreads,
    control: Control,
) -> TierFactory {
    type Made = Pin<Box<dyn Future<Output = (Arc<dyn Tier>, Result<(), String>)> + Send>>;
    Arc::new(move || -> Made {
        let starting = WasmTier::start(backend.clone(), facts.clone(), threads.clone(), control.clone());
        Box::pin(async move {
            let (tier, outcome) = starting.await;
            (Arc::new(tier) as Arc<dyn Tier>, outcome.map_err(|error| error.to_string()))
        })
    })
}

/// Stores and finds the KV cache of prompts. Cloning shares it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    manager: StorageManager,
    metadata: EngineMetadata,
    namespace: Namespace,
    chunk_size: usize,
    save_unfull_chunk: bool,
    /// `None` if the embedding runtime provides the memory.
    pool: Option<Arc<Pool>>,
}

/// A prompt, and how to treat it.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    tokens: &'a [u32],
    salt: Salt,
    tiers: Tiers,
    skip_tokens: usize,
}

impl<'a> Request<'a> {
    /// Makes a request for all chunks of a prompt in all tiers.
    pub fn new(tokens: &'a [u32]) -> Self {
        Self { tokens, salt: Salt::none(), tiers: Tiers::All, skip_tokens: 0 }
    }

    /// Sets tags or a tenant, which nothing is shared across.
    #[must_use]
    pub fn salt(mut self, salt: Salt) -> Self {
        self.salt = salt;
        self
    }

    /// Restricts the request to some tiers.
    #[must_use]
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.tiers = tiers;
        self
    }

    /// Leaves out the first `n_tokens`, which the engine has already; a multiple of the chunk size. They
    /// still count in the keys of the chunks behind them.
    #[must_use]
    pub fn skip(mut self, n_tokens: usize) -> Self {
        self.skip_tokens = n_tokens;
        self
    }
}

/// A chunk of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptChunk {
    /// Its key and size.
    pub spec: ChunkSpec,
    /// Its tokens, as positions in the prompt.
    pub tokens: Range<usize>,
}

/// How much of a prompt is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prefix {
    /// Tokens from the first requested one on that are present without a gap.
    pub n_tokens: usize,
    /// Which tier serves which chunk.
    pub lookup: Lookup,
}

/// Chunks of a prompt's prefix.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RetrievedPrefix {
    /// Tokens that the chunks cover, from the first requested one on.
    pub n_tokens: usize,
    /// The chunks, in order, and where they came from.
    pub retrieved: Retrieved,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The tokens to skip do not end at a chunk boundary.
    #[error("{skip_tokens} tokens to skip are not a multiple of chunk_size {chunk_size}")]
    SkipNotAligned {
        /// Tokens to skip.
        skip_tokens: usize,
        /// Tokens of a chunk.
        chunk_size: usize,
    },
    /// More tokens are to be skipped than the prompt has.
    #[error("{skip_tokens} tokens to skip are more than the prompt's {n_tokens}")]
    SkipTooLong {
        /// Tokens to skip.
        skip_tokens: usize,
        /// Tokens of the prompt.
        n_tokens: usize,
    },
    /// A chunk can never be allocated.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
}

impl Engine {
    /// Returns the storage manager, which does the same on keys.
    pub fn storage(&self) -> &StorageManager {
        &self.0.manager
    }

    /// Returns the metadata that the engine was built with.
    pub fn metadata(&self) -> &EngineMetadata {
        &self.0.metadata
    }

    /// Returns the namespace of requests without tags.
    pub fn namespace(&self) -> Namespace {
        self.0.namespace
    }

    /// Returns the buffer pool, whose base address and length a device can be told; `None` if the embedding
    /// runtime provides the memory.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        self.0.pool.as_ref()
    }

    /// Derives the chunks of a request: full ones, and a trailing partial one if `save_unfull_chunk` is set.
    /// Cost: one pass over the tokens.
    ///
    /// # Errors
    /// [`RequestError`] if the tokens to skip do not fit.
    pub fn chunks(&self, request: &Request<'_>) -> Result<Vec<PromptChunk>, RequestError> {
        let chunk_size = self.0.chunk_size;
        let (skip_tokens, n_tokens) = (request.skip_tokens, request.tokens.len());
        if !skip_tokens.is_multiple_of(chunk_size) {
            return Err(RequestError::SkipNotAligned { skip_tokens, chunk_size });
        }
        if skip_tokens > n_tokens {
            return Err(RequestError::SkipTooLong { skip_tokens, n_tokens });
        }
        let namespace = match &request.salt {
            salt if *salt == Salt::none() => self.0.namespace,
            salt => Namespace::salted(&self.0.metadata, salt),
        };
        let mut chain = KeyChain::new(namespace);
        let mut chunks = Vec::with_capacity(n_tokens.div_ceil(chunk_size));
        for (index, tokens) in request.tokens.chunks(chunk_size).enumerate() {
            if tokens.len() < chunk_size && !self.0.save_unfull_chunk {
                break;
            }
            let key = chain.push(tokens);
            let start = index * chunk_size;
            if start >= skip_tokens {
                let size_bytes = self.0.metadata.chunk_bytes(tokens.len());
                let tokens = start..start + tokens.len();
                chunks.push(PromptChunk { spec: ChunkSpec { key, size_bytes }, tokens });
            }
        }
        Ok(chunks)
    }

    /// Returns how much of a prompt is stored, and where.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn lookup(&self, request: &Request<'_>) -> Result<Prefix, RequestError> {
        let chunks = self.chunks(request)?;
        let lookup = self.0.manager.contains(&keys(&chunks), &request.tiers).await;
        Ok(Prefix { n_tokens: n_tokens(&chunks[..lookup.n_chunks]), lookup })
    }

    /// As [`Engine::lookup`], and pins what it counts for `lookup_id` until [`Engine::unpin`], or until the
    /// pins expire.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn lookup_pinned(
        &self,
        request: &Request<'_>,
        lookup_id: &str,
    ) -> Result<Prefix, RequestError> {
        let chunks = self.chunks(request)?;
        let lookup = self.0.manager.contains_pinned(&keys(&chunks), &request.tiers, lookup_id).await;
        Ok(Prefix { n_tokens: n_tokens(&chunks[..lookup.n_chunks]), lookup })
    }

    /// Retrieves the stored prefix of a prompt; see [`StorageManager::get`]. `plan` is the answer of a lookup
    /// of the same request.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn retrieve(
        &self,
        request: &Request<'_>,
        plan: Option<&Prefix>,
    ) -> Result<RetrievedPrefix, RequestError> {
        let chunks = self.chunks(request)?;
        let specs: Vec<ChunkSpec> = chunks.iter().map(|chunk| chunk.spec).collect();
        let plan = plan.map(|prefix| &prefix.lookup);
        let retrieved = self.0.manager.get(&specs, &request.tiers, plan).await;
        Ok(RetrievedPrefix { n_tokens: n_tokens(&chunks[..retrieved.chunks.len()]), retrieved })
    }

    /// Reserves buffers for the chunks of a prompt that the CPU tier does not have; see
    /// [`StorageManager::allocate`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn allocate(&self, request: &Request<'_>) -> Result<Allocation, RequestError> {
        let specs: Vec<ChunkSpec> = self.chunks(request)?.iter().map(|chunk| chunk.spec).collect();
        Ok(self.0.manager.allocate(&specs).await?)
    }

    /// Stores filled chunks; see [`StorageManager::put`].
    pub async fn store(&self, allocation: Allocation, tiers: &Tiers) -> Stored {
        self.0.manager.put(allocation, tiers).await
    }

    /// Releases what `lookup_id` has pinned. The second time nothing happens.
    pub async fn unpin(&self, lookup_id: &str) {
        self.0.manager.unpin(lookup_id).await;
    }

    /// Removes the chunks of a prompt from the request's tiers; see [`StorageManager::remove`].
    ///
    /// # Errors
    /// [`RemoveError`]; a request that cannot be chunked removes nothing.
    pub async fn remove(&self, request: &Request<'_>) -> Result<usize, RemoveError> {
        match self.chunks(request) {
            Ok(chunks) => self.0.manager.remove(&keys(&chunks), &request.tiers).await,
            Err(_) => Ok(0),
        }
    }

    /// Waits until every queued put has been stored or has failed.
    ///
    /// # Errors
    /// [`FlushError`]
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.0.manager.flush().await
    }

    /// Closes a backend and makes it anew, in the same place; see [`StorageManager::recreate`].
    ///
    /// # Errors
    /// [`RecreateError`]
    pub async fn recreate(&self, backend: &str) -> Result<(), RecreateError> {
        self.0.manager.recreate(backend).await
    }

    /// Says how every tier is.
    pub fn status(&self) -> Status {
        self.0.manager.status()
    }

    /// Returns all counters and latencies as Prometheus text.
    pub fn metrics(&self) -> String {
        self.0.manager.metrics()
    }

    /// Stores what is queued and closes all tiers; see [`StorageManager::close`].
    ///
    /// # Errors
    /// [`CloseError`]
    pub async fn close(&self) -> Result<(), CloseError> {
        self.0.manager.close().await
    }

    /// Returns the same operations for callers without an executor. They block the calling thread, each
    /// until its deadline at most.
    pub fn blocking(&self) -> Blocking<'_> {
        Blocking(self)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("storage", &self.0.manager).finish_non_exhaustive()
    }
}

/// The engine's operations as blocking calls.
#[derive(Clone, Copy, Debug)]
pub struct Blocking<'a>(&'a Engine);

impl Blocking<'_> {
    /// See [`Engine::lookup`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn lookup(&self, request: &Request<'_>) -> Result<Prefix, RequestError> {
        block_on(self.0.lookup(request))
    }

    /// See [`Engine::lookup_pinned`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn lookup_pinned(&self, request: &Request<'_>, lookup_id: &str) -> Result<Prefix, RequestError> {
        block_on(self.0.lookup_pinned(request, lookup_id))
    }

    /// See [`Engine::retrieve`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn retrieve(
        &self,
        request: &Request<'_>,
        plan: Option<&Prefix>,
    ) -> Result<RetrievedPrefix, RequestError> {
        block_on(self.0.retrieve(request, plan))
    }

    /// See [`Engine::allocate`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn allocate(&self, request: &Request<'_>) -> Result<Allocation, RequestError> {
        block_on(self.0.allocate(request))
    }

    /// See [`Engine::store`].
    pub fn store(&self, allocation: Allocation, tiers: &Tiers) -> Stored {
        block_on(self.0.store(allocation, tiers))
    }

    /// See [`Engine::unpin`].
    pub fn unpin(&self, lookup_id: &str) {
        block_on(self.0.unpin(lookup_id));
    }

    /// See [`Engine::remove`].
    ///
    /// # Errors
    /// [`RemoveError`]
    pub fn remove(&self, request: &Request<'_>) -> Result<usize, RemoveError> {
        block_on(self.0.remove(request))
    }

    /// See [`Engine::flush`].
    ///
    /// # Errors
    /// [`FlushError`]
    pub fn flush(&self) -> Result<(), FlushError> {
        block_on(self.0.flush())
    }

    /// See [`Engine::recreate`].
    ///
    /// # Errors
    /// [`RecreateError`]
    pub fn recreate(&self, backend: &str) -> Result<(), RecreateError> {
        block_on(self.0.recreate(backend))
    }

    /// See [`Engine::close`].
    ///
    /// # Errors
    /// [`CloseError`]
    pub fn close(&self) -> Result<(), CloseError> {
        block_on(self.0.close())
    }
}

fn keys(chunks: &[PromptChunk]) -> Vec<ChunkKey> {
    chunks.iter().map(|chunk| chunk.spec.key).collect()
}

fn n_tokens(chunks: &[PromptChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.tokens.len()).sum()
}

/// Chunk handles go to other threads and outlive the engine.
const _: () = {
    const fn owned<T: Send + Sync + 'static>() {}
    owned::<Chunk>();
    owned::<Engine>();
};
