//! The replay itself: each request of a trace goes through a chain of tiers as a serving runtime would send it.
//!
//! Per request: look up the leading run of its chunks; retrieve the run and verify every byte; then offer all of
//! the request's chunks to the chain, from the last to the first, so that the head of a prefix is touched last and
//! outlives its tail. A chunk that was evicted in between is stored again.
//!
//! A hit is a chunk of the leading run that was retrieved and verified. The chain is reached through [`Chain`]
//! only; nothing here knows an engine.

pub mod json;
pub mod text;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvtier::{ChunkKey, ChunkSpec};

use crate::content::{self, Mismatch};
use crate::progress::Progress;
use crate::series::{Histogram, Series};
use crate::trace::Request;

/// What became of an offered chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The chain took the payload.
    New,
    /// The first tier had it already; the offer counted as a touch.
    Present,
    /// No memory could be had for it.
    Refused,
}

/// A chunk that came back.
pub struct Retrieved<C> {
    /// The tier that served it, by its place in the chain.
    pub tier: usize,
    /// The payload.
    pub chunk: C,
}

/// What one tier did, from the chain's own counters.
#[derive(Debug, Clone, Default)]
pub struct TierCounters {
    /// Payload bytes that the tier delivered.
    pub bytes_read: u64,
    /// Payload bytes that the tier took.
    pub bytes_written: u64,
    /// Chunks that made room for others. Only what the host sees: a backend's own evictions are its own.
    pub evictions: u64,
    /// Latency by operation.
    pub latency: BTreeMap<String, Histogram>,
    /// Chunks asked for and not served, by reason.
    pub misses: BTreeMap<String, u64>,
    /// Failed operations, by kind.
    pub errors: BTreeMap<String, u64>,
}

/// What a replay needs of the chain of tiers.
pub trait Chain {
    /// A retrieved payload.
    type Chunk: AsRef<[u8]>;

    /// Answers the tiers' names, in the chain's order.
    fn tier_names(&self) -> Vec<String>;

    /// Answers how many chunks may be retrieved at once; at least 1.
    fn window(&self) -> usize;

    /// Answers the keys of a prompt whose chunks have these ids as their content.
    fn keys(&self, block_ids: &[u64]) -> Vec<ChunkKey>;

    /// Answers how many of the leading `keys` the chain has. Retrievals in the order of `keys` follow, until
    /// [`Chain::release`].
    fn lookup(&mut self, keys: &[ChunkKey]) -> Result<usize>;

    /// Retrieves the chunks before the first gap.
    fn retrieve(&mut self, chunks: &[ChunkSpec]) -> Result<Vec<Retrieved<Self::Chunk>>>;

    /// Lets go of what the chain keeps for the last [`Chain::lookup`].
    fn release(&mut self) -> Result<()>;

    /// Offers a chunk to every tier. `fill` is called with the buffer if the payload is needed.
    fn store(&mut self, chunk: ChunkSpec, fill: &mut dyn FnMut(&mut [u8])) -> Result<Stored>;

    /// Waits until all tiers have what was stored.
    fn flush(&mut self) -> Result<()>;

    /// Answers the tiers' counters, in the chain's order.
    fn counters(&self) -> Result<Vec<TierCounters>>;

    /// Closes all tiers, after a replay that ended or failed.
    fn close(&mut self) -> Result<()>;
}

/// What a replay found out.
#[derive(Debug)]
pub struct Outcome {
    /// The tiers' names, in the chain's order.
    pub tier_names: Vec<String>,
    /// Payload bytes of each chunk.
    pub chunk_bytes: usize,
    /// Requests replayed.
    pub requests: u64,
    /// Chunks of all requests.
    pub chunks: u64,
    /// Chunks served and verified, by tier.
    pub hits: Vec<u64>,
    /// Chunks that were found by the lookup, but did not arrive.
    pub lost: u64,
    /// Chunks offered, by what became of them: new, present, refused.
    pub stored: StoredCounts,
    /// Wall time, the final flush included.
    pub elapsed: Duration,
    /// Hits over the trace.
    pub series: Series,
    /// Latency of the calls as the serving runtime sees them. `store` is without the time to fill the buffer.
    pub calls: Calls,
    /// The tiers' counters.
    pub tiers: Vec<TierCounters>,
}

/// Offered chunks by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredCounts {
    /// See [`Stored::New`].
    pub new: u64,
    /// See [`Stored::Present`].
    pub present: u64,
    /// See [`Stored::Refused`].
    pub refused: u64,
}

/// Latency of the calls as the serving runtime sees them.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    /// One for each request.
    pub lookup: Histogram,
    /// One for each window of chunks.
    pub retrieve: Histogram,
    /// One for each chunk.
    pub store: Histogram,
}

impl Calls {
    /// Answers the operations with their names, in the order in which a request makes them.
    pub fn by_name(&self) -> [(&'static str, &Histogram); 3] {
        [("lookup", &self.lookup), ("retrieve", &self.retrieve), ("store", &self.store)]
    }
}

impl Outcome {
    /// Answers the chunks served by any tier.
    pub fn hits_total(&self) -> u64 {
        self.hits.iter().sum()
    }

    /// Answers the share of all chunks that was served; 0 without chunks.
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.hits_total(), self.chunks)
    }

    /// Answers the evictions of all tiers.
    pub fn evictions(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.evictions).sum()
    }

    /// Answers the payload bytes that were compared.
    pub fn bytes_verified(&self) -> u64 {
        self.hits_total() * self.chunk_bytes as u64
    }

    /// Answers the requests per second of wall time.
    pub fn requests_per_s(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Answers `part / whole`, and 0 for a whole of 0.
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A tier served bytes that are not the chunk's. Nothing after this can be trusted, so the replay ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongBytes {
    /// The tier's name.
    pub tier: String,
    /// The chunk.
    pub key: ChunkKey,
    /// The request, counted from 1.
    pub request: u64,
    /// The chunk's place in the request.
    pub chunk_index: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The length in bytes.
    Length {
        /// Bytes of a chunk.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A byte.
    Content(Mismatch),
}

impl std::fmt::Display for WrongBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tier, key, request, chunk_index, .. } = self;
        write!(
            f,
            "tier `{tier}` served wrong bytes for chunk {key} (request {request}, chunk {chunk_index}): "
        )?;
        match self.fault {
            Fault::Length { expected, found } => write!(f, "{found} bytes instead of {expected}"),
            Fault::Content(mismatch) => write!(f, "{mismatch}"),
        }
    }
}

impl std::error::Error for WrongBytes {}

/// Sends `requests` through `chain`.
///
/// # Errors
/// A broken line of the trace, an operation of the chain that fails as a whole (a tier that fails alone does
/// not), and [`WrongBytes`].
pub fn run<C: Chain>(
    chain: &mut C,
    requests: impl Iterator<Item = Result<Request>>,
    chunk_bytes: usize,
    progress: &Progress,
) -> Result<Outcome> {
    let tier_names = chain.tier_names();
    let n_tiers = tier_names.len();
    let outcome = Outcome {
        chunk_bytes,
        requests: 0,
        chunks: 0,
        hits: vec![0; n_tiers],
        lost: 0,
        stored: StoredCounts::default(),
        elapsed: Duration::ZERO,
        series: Series::new(n_tiers),
        calls: Calls::default(),
        tiers: Vec::new(),
        tier_names,
    };
    let mut replay = Replay { chain, outcome };
    let start = Instant::now();
    for request in requests {
        let request = request?;
        let number = replay.outcome.requests + 1;
        replay.request(&request).with_context(|| format!("request {number} of the trace failed"))?;
        progress.tick(replay.outcome.hit_ratio());
    }
    let Replay { chain, mut outcome } = replay;
    chain.flush().context("cannot flush the chain")?;
    outcome.elapsed = start.elapsed();
    outcome.tiers = chain.counters()?;
    Ok(outcome)
}

struct Replay<'a, C> {
    chain: &'a mut C,
    outcome: Outcome,
}

impl<C: Chain> Replay<'_, C> {
    fn request(&mut self, request: &Request) -> Result<()> {
        let keys = self.chain.keys(&request.block_ids);
        let chunks: Vec<ChunkSpec> =
            keys.iter().map(|&key| ChunkSpec { key, size_bytes: self.outcome.chunk_bytes }).collect();
        self.outcome.requests += 1;
        self.outcome.chunks += chunks.len() as u64;

        let start = Instant::now();
        let n_found = self.chain.lookup(&keys)?.min(keys.len());
        self.outcome.calls.lookup.record(start.elapsed());

        // Whatever goes wrong, what the chain keeps for the lookup ends here.
        let retrieved = self.retrieve(&chunks[..n_found]);
        self.chain.release()?;
        let hits = retrieved?;
        for (sum, n) in self.outcome.hits.iter_mut().zip(&hits) {
            *sum += n;
        }
        self.outcome.lost += n_found as u64 - hits.iter().sum::<u64>();
        self.outcome.series.push(chunks.len() as u64, &hits);

        let mut now = Instant::now();
        for chunk in chunks.iter().rev() {
            now = self.store(*chunk, now)?;
        }
        Ok(())
    }

    /// Retrieves and verifies `found`, and answers the hits by tier.
    fn retrieve(&mut self, found: &[ChunkSpec]) -> Result<Vec<u64>> {
        let mut hits = vec![0; self.outcome.hits.len()];
        let window = self.chain.window().max(1);
        for (n_done, chunks) in found.chunks(window).enumerate() {
            let start = Instant::now();
            let retrieved = self.chain.retrieve(chunks)?;
            self.outcome.calls.retrieve.record(start.elapsed());
            for (index, (chunk, answer)) in chunks.iter().zip(&retrieved).enumerate() {
                self.verify(*chunk, n_done * window + index, answer)?;
                hits[answer.tier] += 1;
            }
            if retrieved.len() < chunks.len() {
                break;
            }
        }
        Ok(hits)
    }

    fn verify(
        &self,
        chunk: ChunkSpec,
        chunk_index: usize,
        answer: &Retrieved<C::Chunk>,
    ) -> Result<(), WrongBytes> {
        let payload = answer.chunk.as_ref();
        let fault = if payload.len() == chunk.size_bytes {
            match content::verify(chunk.key, payload) {
                Ok(()) => return Ok(()),
                Err(mismatch) => Fault::Content(mismatch),
            }
        } else {
            Fault::Length { expected: chunk.size_bytes, found: payload.len() }
        };
        let tier = self.outcome.tier_names[answer.tier].clone();
        Err(WrongBytes { tier, key: chunk.key, request: self.outcome.requests, chunk_index, fault })
    }

    /// Offers a chunk, from `start` on, and answers when it was done: reading the clock takes a good part of the time
    /// of a small chunk.
    fn store(&mut self, chunk: ChunkSpec, start: Instant) -> Result<Instant> {
        let mut filling = Duration::ZERO;
        let stored = self.chain.store(chunk, &mut |payload| {
            let start = Instant::now();
            content::fill(chunk.key, payload);
            filling += start.elapsed();
        })?;
        let end = Instant::now();
        self.outcome.calls.store.record(end.duration_since(start).saturating_sub(filling));
        let counts = &mut self.outcome.stored;
        *match stored {
            Stored::New => &mut counts.new,
            Stored::Present => &mut counts.present,
            Stored::Refused => &mut counts.refused,
        } += 1;
        Ok(end)
    }
}

#[cfg(test)]
pub(crate) mod tests;
