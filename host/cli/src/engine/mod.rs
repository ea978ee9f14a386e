//! The replay's chain over the host library's engine, and how a command line becomes one.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kvtier::config::{OnFull, OnLoadError, open_file};
use kvtier::cpu;
use kvtier::key::KeyChain;
use kvtier::limits::CONFIG_BYTES_MAX;
use kvtier::manager::{BackendStatus, Lookup, StorageManager, Tiers};
use kvtier::memory::PAGE_BYTES;
use kvtier::metrics::TierCounts;
use kvtier::runtime::block_on;
use kvtier::{Chunk, ChunkKey, ChunkSpec, Config, Dtype, Engine, EngineBuilder, EngineMetadata, KvShape};

use crate::args::{Policy, ReplayArgs};
use crate::commands::compile;
use crate::commands::replay::Ready;
use crate::format::{bytes, count};
use crate::histogram::Histogram;
use crate::machine;
use crate::replay::{Chain, Retrieved, Stored, TierCounters};

/// The share of the pool that retrieved chunks may hold, as its divisor: as much as puts in flight may. The rest is
/// for what is being fetched and stored meanwhile.
const WINDOW_POOL_DIVISOR: usize = 4;

/// An engine as the replay needs it. Blocks the calling thread, each call until the engine's deadline at most.
///
/// Lookups are not pinned: a pin counts as a use, which a trace's request makes once, by its retrieval; and pins on
/// all of a prompt that is longer than the pool would leave no room to fetch the rest of it.
pub struct EngineChain {
    engine: Engine,
    chunk_bytes: usize,
    /// The last lookup's answer.
    plan: Lookup,
    /// How many of its chunks have been asked for.
    n_asked: usize,
}

impl EngineChain {
    /// Makes a chain of an engine, for chunks of `chunk_bytes`.
    pub fn new(engine: Engine, chunk_bytes: usize) -> Self {
        Self { engine, chunk_bytes, plan: Lookup::default(), n_asked: 0 }
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn storage(&self) -> &StorageManager {
        self.engine.storage()
    }
}

impl Chain for EngineChain {
    type Chunk = Chunk;

    fn tier_names(&self) -> Vec<String> {
        self.storage().tier_names().into_iter().map(str::to_owned).collect()
    }

    fn window(&self) -> usize {
        if self.storage().tier_names().len() == 1 {
            // Nothing is fetched, so nothing needs room; and a prefix is used from its tail to its head, as a whole.
            return usize::MAX;
        }
        let provider = self.storage().cpu().provider();
        let chunk = provider.footprint_bytes(self.chunk_bytes).max(1);
        (provider.capacity_bytes() / chunk / WINDOW_POOL_DIVISOR).max(1)
    }

    fn keys(&self, block_ids: &[u64]) -> Vec<ChunkKey> {
        let tokens: Vec<u32> = block_ids.iter().flat_map(|&id| [id as u32, (id >> 32) as u32]).collect();
        let mut keys = Vec::new();
        KeyChain::new(self.engine.namespace()).extend(&tokens, 2, &mut keys);
        keys
    }

    fn lookup(&mut self, keys: &[ChunkKey]) -> Result<usize> {
        self.plan = block_on(self.storage().contains(keys, &Tiers::All));
        self.n_asked = 0;
        Ok(self.plan.n_chunks)
    }

    fn retrieve(&mut self, chunks: &[ChunkSpec]) -> Result<Vec<Retrieved<Chunk>>> {
        let plan = self.plan.slice(self.n_asked..self.n_asked + chunks.len());
        self.n_asked += chunks.len();
        let retrieved = block_on(self.storage().get(chunks, &Tiers::All, Some(&plan)));
        let served = retrieved.chunks.into_iter().zip(retrieved.tiers);
        Ok(served.map(|(chunk, tier)| Retrieved { tier: tier.0, chunk }).collect())
    }

    fn release(&mut self) -> Result<()> {
        self.plan = Lookup::default();
        Ok(())
    }

    fn store(&mut self, chunk: ChunkSpec, fill: &mut dyn FnMut(&mut [u8])) -> Result<Stored> {
        let mut allocation = block_on(self.storage().allocate(&[chunk]))?;
        let (n_missing, n_covered) = (allocation.n_missing(), allocation.n_covered());
        for missing in allocation.missing() {
            fill(missing.bytes);
        }
        let stored = block_on(self.storage().put(allocation, &Tiers::All));
        let taken = stored.n_new > 0 || stored.backends.iter().any(|offer| offer.n_queued > 0);
        Ok(match (n_covered, n_missing) {
            (0, _) => Stored::Refused,
            (_, 0) => Stored::Present,
            _ if taken => Stored::New,
            _ => Stored::Refused,
        })
    }

    /// Waits as long as the number of pending chunks falls within each of the engine's deadlines: how much is pending
    /// depends on the pool, how fast it is stored on the disk.
    fn flush(&mut self) -> Result<()> {
        let mut n_before = usize::MAX;
        loop {
            let Err(error) = block_on(self.engine.storage().flush()) else { return Ok(()) };
            let n_pending = error.pending.iter().map(|puts| puts.n_chunks).sum();
            if n_pending >= n_before {
                return Err(error.into());
            }
            n_before = n_pending;
        }
    }

    fn counters(&self) -> Result<Vec<TierCounters>> {
        let status = self.storage().status();
        let of_tier = |counts: &TierCounts| {
            let backend = status.backends.iter().find(|backend| backend.name == counts.name);
            TierCounters { last_causes: backend.map(last_causes).unwrap_or_default(), ..counters(counts) }
        };
        Ok(self.storage().counts().iter().map(of_tier).collect())
    }

    fn close(&mut self) -> Result<()> {
        Ok(self.engine.blocking().close()?)
    }
}

/// Translates the library's counters.
fn counters(counts: &TierCounts) -> TierCounters {
    let latency = counts.latency.iter().map(|(operation, latency)| {
        let mut histogram = Histogram::default();
        latency.buckets.iter().for_each(|bucket| histogram.record_n(bucket.upper_ns, bucket.n));
        (operation.name().to_owned(), histogram)
    });
    let by_reason = |counts: &BTreeMap<&'static str, u64>| {
        counts.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect()
    };
    let errors = counts.errors.iter().map(|((operation, kind), n)| (format!("{operation}_{kind}"), *n));
    TierCounters {
        bytes_read: counts.bytes_read,
        bytes_written: counts.bytes_written,
        evictions: counts.evictions,
        latency: latency.collect(),
        misses: by_reason(&counts.misses),
        errors: errors.collect(),
        dropped: by_reason(&counts.drops),
        skipped: not_zero([("reading", counts.reading.skipped), ("writing", counts.writing.skipped)]),
        events: not_zero([
            ("lane_restarted", counts.lane_restarts),
            ("reading_breaker_opened", counts.reading.opened),
            ("writing_breaker_opened", counts.writing.opened),
        ]),
        last_causes: BTreeMap::new(),
    }
}

fn not_zero<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}

/// Returns the last failure of each direction of a backend, and the reason of its last new lane.
fn last_causes(backend: &BackendStatus) -> BTreeMap<String, String> {
    let causes = [
        ("lanes", &backend.health.last_restart),
        ("reading", &backend.reading.last_cause),
        ("writing", &backend.writing.last_cause),
    ];
    causes.into_iter().filter_map(|(what, cause)| Some((what.to_owned(), cause.clone()?))).collect()
}

/// Makes the chain that a command line asks for. A replay measures: puts wait for room instead of being dropped, and
/// a backend that cannot be loaded is a failure, whatever the configuration says. `program` compiles components unless
/// the configuration names another compiler.
///
/// # Errors
/// A configuration that cannot be used, a pool that does not fit the machine or not a chunk, and a backend that
/// cannot be loaded.
pub fn open(args: &ReplayArgs, program: Option<&Path>) -> Result<Ready<EngineChain>> {
    let mut config = match &args.config {
        Some(path) => Config::from_file(path)?.log(),
        None => Config::default(),
    };
    let metadata = metadata(args, config.chunk_size)?;
    let chunk_bytes = match args.model {
        Some(_) => metadata.chunk_bytes(config.chunk_size) as u64,
        None => args.chunk_bytes.get(),
    };
    size_pool(&mut config, args, chunk_bytes)?;
    if let Some(policy) = args.policy {
        config.cache_policy = policy.into();
    }
    config.on_full = OnFull::Wait;
    config.on_load_error = OnLoadError::Fail;
    compile::choose_compiler(&mut config, program);

    let facts = facts(args, &config, chunk_bytes);
    let text = args.config.as_deref().map(config_text).transpose()?;
    let chunk_bytes = chunk_bytes as usize;
    let engine = EngineBuilder::new(config, metadata).build_blocking()?;
    Ok(Ready { chain: EngineChain::new(engine, chunk_bytes), chunk_bytes, config: text, facts })
}

/// What the keys depend on: the model, or the size alone, so that chunks of another size on the same disk are other
/// chunks.
fn metadata(args: &ReplayArgs, chunk_size: usize) -> Result<EngineMetadata> {
    let tokens = u32::try_from(chunk_size).context("chunk_size is too large")?;
    let (model_name, kv_dtype, extents) = match args.model {
        Some(model) => {
            let geometry = model.geometry();
            let extents = [geometry.layers, geometry.kv, tokens, geometry.kv_heads, geometry.head_size];
            (model.name(), Dtype::BFloat16, extents)
        }
        None => (format!("chunks of {} bytes", args.chunk_bytes), Dtype::UInt8, [1, 1, tokens, 1, 1]),
    };
    let kv_shape = KvShape::new(extents)?;
    Ok(EngineMetadata { model_name, world_size: 1, worker_id: 0, kv_dtype, kv_shape })
}

fn size_pool(config: &mut Config, args: &ReplayArgs, chunk_bytes: u64) -> Result<()> {
    let footprint = chunk_bytes.checked_next_multiple_of(PAGE_BYTES as u64).unwrap_or(u64::MAX);
    if let Some(n_chunks) = args.capacity_chunks {
        config.pool_size_bytes = machine::pool_bytes(n_chunks.get(), footprint)?;
    }
    let pool_bytes = config.pool_bytes(chunk_bytes);
    ensure!(
        footprint <= pool_bytes,
        "a chunk of {} does not fit the CPU tier's pool of {}; raise max_local_cpu_size or --capacity-chunks",
        bytes(chunk_bytes),
        bytes(pool_bytes)
    );
    match machine::memory_bytes() {
        Some(memory) => machine::ensure_fits(pool_bytes, memory),
        None => Ok(()),
    }
}

fn facts(args: &ReplayArgs, config: &Config, chunk_bytes: u64) -> Vec<(String, String)> {
    let footprint = chunk_bytes.next_multiple_of(PAGE_BYTES as u64);
    let pool_bytes = config.pool_bytes(chunk_bytes);
    let n_chunks = pool_bytes / footprint;
    let size = match args.model {
        Some(model) => format!("{}, {} of {} tokens", bytes(chunk_bytes), model.name(), config.chunk_size),
        None => bytes(chunk_bytes),
    };
    let hot = if config.local_cpu { "" } else { ", keeps no chunks" };
    let pool = format!("{}, {} chunks, {}{hot}", bytes(pool_bytes), count(n_chunks), config.cache_policy);
    let mut facts = vec![("Chunk".to_owned(), size), ("CPU tier".to_owned(), pool)];
    facts.extend(config.backends.iter().map(|backend| {
        let lanes = if backend.lanes == 1 { String::new() } else { format!(", {} lanes", backend.lanes) };
        (format!("Backend {}", backend.name), format!("{}{lanes}", backend.class_name))
    }));
    facts.push(("kvtier".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    facts
}

fn config_text(path: &Path) -> Result<(String, String)> {
    let mut text = String::new();
    // It was read before, so it is no larger, unless somebody has changed it since.
    open_file(path)
        .and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_string(&mut text))
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    Ok((path.display().to_string(), text))
}

impl From<Policy> for cpu::EvictionPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Lru => Self::Lru,
            Policy::Lfu => Self::Lfu,
            Policy::Fifo => Self::Fifo,
            Policy::Mru => Self::Mru,
            Policy::S3Fifo => Self::S3Fifo,
            Policy::Sieve => Self::Sieve,
        }
    }
}
