//! Speed and memory.

use std::time::{Duration, Instant};

use kvtier::tier::{Pinning, TierError};
use kvtier::{CompileCache, Config, block_on};

use crate::judgement::Stop;
use crate::kit::{Ended, Kit, start};

/// The calls that are measured: the payload of a chunk, chunks of a call, and how often.
const CALLS: [(usize, usize, usize); 4] =
    [(4 << 10, 1, 400), (4 << 10, 32, 100), (2 << 20, 1, 30), (2 << 20, 32, 3)];

/// Speed and memory of a backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Figures {
    /// Compilation, instantiation, constructor and `open`, without a cache of compiled code.
    pub load_cold: Option<Duration>,
    /// The same with compiled code from the cache.
    pub load_cached: Duration,
    /// Linear memory of an instance that has just been opened.
    pub memory_open_bytes: u64,
    /// Linear memory of the instance after all calls.
    pub memory_after_bytes: u64,
    /// The calls.
    pub calls: Vec<CallFigures>,
}

/// Median times of one kind of call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallFigures {
    /// Payload of a chunk.
    pub chunk_bytes: usize,
    /// Chunks of one call.
    pub n_chunks: usize,
    /// `contains` of keys that are present.
    pub contains: Duration,
    /// `put` of new chunks.
    pub put: Duration,
    /// `get` of chunks that are present.
    pub get: Duration,
}

/// Measures. `None` if the store has no space for a single chunk.
pub(crate) fn figures(kit: &mut Kit) -> Option<Figures> {
    kit.begin("figures");
    kit.drop_instance();
    let tier = kit.tier().ok()?;
    let load_cached = kit.start_time;
    let memory_open_bytes = tier.health().guest_memory_bytes;
    let uncached = Config { compile_cache: CompileCache::Off, ..kit.config().clone() };
    let started = Instant::now();
    let load_cold = start(&uncached, kit.backend().clone()).ok().map(|_| started.elapsed());
    let mut calls = Vec::new();
    for (chunk_bytes, n_chunks, n_times) in CALLS {
        calls.extend(measured(kit, chunk_bytes, n_chunks, n_times).ok().flatten());
        kit.clean_up(Ended::Well);
    }
    let memory_after_bytes = kit.tier().ok()?.health().guest_memory_bytes;
    if calls.is_empty() {
        return None;
    }
    Some(Figures { load_cold, load_cached, memory_open_bytes, memory_after_bytes, calls })
}

/// Measures one kind of call. `None` if the store has no space for it.
fn measured(
    kit: &mut Kit,
    chunk_bytes: usize,
    n_chunks: usize,
    n_times: usize,
) -> Result<Option<CallFigures>, Stop> {
    let tier = kit.tier()?;
    let n_chunks = n_chunks.min(tier.batch_chunks_max());
    let [mut contains, mut put, mut get] = [const { Vec::new() }; 3];
    for _ in 0..n_times {
        let keys = kit.many_keys(n_chunks);
        kit.stored.extend(&keys);
        let data = kit.sources(&keys, chunk_bytes, 0)?;
        let into = kit.sinks(&keys, chunk_bytes)?;
        let list = || keys.as_slice().into();
        let deadline = kit.deadline();
        let stored = timed(&mut put, || block_on(tier.put(list(), data.clone(), deadline)));
        data.revoke();
        if !is_all_ok(&stored) {
            return Ok(None);
        }
        drop(timed(&mut contains, || block_on(tier.contains(list(), Pinning::None, deadline))));
        let found = timed(&mut get, || block_on(tier.get(list(), into.clone(), deadline)));
        drop(into.revoke());
        // Makes room for the next chunks.
        kit.clean_up(Ended::Well);
        if found.is_err() {
            return Ok(None);
        }
    }
    let [contains, put, get] = [contains, put, get].map(median);
    Ok(Some(CallFigures { chunk_bytes, n_chunks, contains, put, get }))
}

fn is_all_ok(stored: &Result<Vec<Result<(), TierError>>, TierError>) -> bool {
    stored.as_ref().is_ok_and(|results| results.iter().all(Result::is_ok))
}

fn timed<T>(times: &mut Vec<Duration>, call: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let answer = call();
    times.push(started.elapsed());
    answer
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
