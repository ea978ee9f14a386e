//! The replay: each request of a trace goes through a chain of tiers as a serving runtime would send it.
//!
//! For each request: look up the prefix; retrieve it and verify every byte; then offer all chunks of the request to the
//! chain. Offers go from the last chunk to the first, so that the head of a prefix is used last and outlives its tail.
//! A chunk that was evicted in between is stored again.
//!
//! A hit is a chunk of the prefix that was retrieved and verified. The chain is reached through [`Chain`] only; nothing
//! here depends on an engine.

mod chain;
pub mod json;
mod outcome;
pub mod text;
mod verdict;
mod wrong_bytes;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvtier::ChunkSpec;

pub use self::chain::{Chain, Retrieved, Stored, TierCounters};
pub use self::outcome::{Calls, Outcome, StoredCounts, ratio};
pub use self::verdict::{FaultyBackends, Strictness};
pub use self::wrong_bytes::{Fault, WrongBytes};
use crate::content;
use crate::progress::Progress;
use crate::series::Series;
use crate::trace::Request;

/// Sends `requests` through `chain`.
///
/// # Errors
/// If a line of the trace is broken, if an operation of the whole chain fails (a single failing tier does not fail it),
/// and with [`WrongBytes`].
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

        // Also after an error: the chain holds nothing for the lookup from here on.
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

    /// Retrieves and verifies the chunks of `found`, and returns the hits by tier.
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

    /// Offers a chunk and returns the time of its end, which is the `start` of the next one: reading the clock takes a
    /// good part of the time of a small chunk.
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
