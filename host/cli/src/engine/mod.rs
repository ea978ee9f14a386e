//! The engine of a replay, made from the command line.

mod chain;

use anyhow::{Context, Result, ensure};
use kvtier::memory::PAGE_BYTES;
use kvtier::{BackendConfig, Config, Dtype, EngineBuilder, EngineMetadata, KvShape, OnFull, OnLoadError};

pub use self::chain::EngineChain;
use crate::Adapt;
use crate::args::ReplayArgs;
use crate::commands::read_config;
use crate::commands::replay::Ready;
use crate::format::{bytes, count};
use crate::generate::{Generator, Workload};
use crate::machine;
use crate::progress::Progress;
use crate::replay::{self, Chain as _, Outcome};

/// Makes the chain that a command line describes. A replay measures: whatever the configuration sets, puts wait for
/// room instead of being dropped, and a backend that cannot be loaded is an error. `adapt` fits the
/// configuration to this program.
///
/// # Errors
/// If the configuration is invalid, if the pool does not fit the machine or a chunk does not fit the pool, or if a
/// backend cannot be loaded.
pub fn open(args: &ReplayArgs, adapt: Adapt<'_>) -> Result<Ready<EngineChain>> {
    let mut config = read_config(args.config.as_deref())?.log();
    let metadata = metadata(args, config.chunk_size)?;
    let chunk_bytes = match args.model {
        Some(_) => metadata.chunk_bytes(config.chunk_size) as u64,
        None => args.chunk_bytes.get(),
    };
    size_pool(&mut config, args, chunk_bytes)?;
    if let Some(policy) = args.policy {
        config.cache_policy = policy;
    }
    config.on_full = OnFull::Wait;
    config.on_load_error = OnLoadError::Fail;
    let settings = config.shown();
    adapt(&mut config);

    let facts = facts(args, &config, chunk_bytes);
    let chunk_bytes = chunk_bytes as usize;
    let engine = EngineBuilder::new(config, metadata).build_blocking()?;
    Ok(Ready { chain: EngineChain::new(engine, chunk_bytes), chunk_bytes, settings, facts })
}

/// Replays a short trace through a small CPU tier and one backend, which serves what the CPU tier has evicted. `run`
/// tells the keys of one replay from those of another, so that it finds nothing of an earlier one. What it has stored
/// is removed if the class can remove chunks; the second result tells whether that failed.
///
/// # Errors
/// If the backend cannot be loaded, and those of [`replay::run`].
pub fn replay_one(
    config: Config,
    backend: BackendConfig,
    n_requests: usize,
    run: u64,
) -> Result<(Outcome, Result<()>)> {
    const CHUNK_BYTES: usize = PAGE_BYTES;
    const POOL_CHUNKS: u64 = 64;
    let config = Config {
        chunk_size: 16,
        pool_size_bytes: POOL_CHUNKS * PAGE_BYTES as u64,
        on_full: OnFull::Wait,
        on_load_error: OnLoadError::Fail,
        backends: vec![backend],
        ..config
    };
    let kv_shape = KvShape::new([1, 1, 16, 1, 1])?;
    let model_name = format!("kvtier-dev {run:016x}");
    let metadata =
        EngineMetadata { model_name, world_size: 1, worker_id: 0, kv_dtype: Dtype::UInt8, kv_shape };
    let mut chain = EngineChain::new(EngineBuilder::new(config, metadata).build_blocking()?, CHUNK_BYTES);
    let requests = Generator::new(Workload { sessions: 4, system_prompts: 2, ..Workload::default() });
    let requests: Vec<_> = requests.take(n_requests).collect();
    let replayed =
        replay::run(&mut chain, requests.iter().cloned().map(Ok), CHUNK_BYTES, &Progress::hidden());
    let forgotten = chain.forget(requests.iter().map(|request| request.block_ids.as_slice()));
    let closed = chain.close().context("cannot close the chain");
    let outcome = replayed?;
    closed?;
    Ok((outcome, forgotten.context("cannot remove the chunks of the replay")))
}

/// Returns what the keys depend on: the model, or the size alone, so that chunks of another size on the same disk have
/// other keys.
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
