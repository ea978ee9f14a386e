//! The outcome of a replay.

use std::time::Duration;

use super::chain::TierCounters;
use crate::format::count;
use crate::histogram::Histogram;
use crate::series::Series;

/// The outcome of a replay.
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
    /// Chunks that the lookup found but that were not delivered.
    pub lost: u64,
    /// Offered chunks, by outcome.
    pub stored: StoredCounts,
    /// Wall-clock time, including the final flush.
    pub elapsed: Duration,
    /// Hits over the trace.
    pub series: Series,
    /// Latency of the calls as the serving runtime sees them. `store` excludes the time to fill the buffer.
    pub calls: Calls,
    /// The tiers' counters.
    pub tiers: Vec<TierCounters>,
}

/// Offered chunks, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredCounts {
    /// See [`super::Stored::New`].
    pub new: u64,
    /// See [`super::Stored::Present`].
    pub present: u64,
    /// See [`super::Stored::Refused`].
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
    /// Returns the operations with their names, in the order of a request.
    pub fn by_name(&self) -> [(&'static str, &Histogram); 3] {
        [("lookup", &self.lookup), ("retrieve", &self.retrieve), ("store", &self.store)]
    }
}

impl Outcome {
    /// Returns the chunks served by any tier.
    pub fn hits_total(&self) -> u64 {
        self.hits.iter().sum()
    }

    /// Returns the share of all chunks that were served; 0 without chunks.
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.hits_total(), self.chunks)
    }

    /// Returns the evictions of all tiers.
    pub fn evictions(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.evictions).sum()
    }

    /// Returns the payload bytes that were compared.
    pub fn bytes_verified(&self) -> u64 {
        self.hits_total() * self.chunk_bytes as u64
    }

    /// Returns sentences about everything that an operator should look at. Misses of chunks that a tier does not have
    /// are normal.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.lost > 0 {
            remarks.push(format!("{} chunks were found but not delivered", count(self.lost)));
        }
        if self.stored.refused > 0 {
            remarks.push(format!("{} chunks were not stored for lack of memory", count(self.stored.refused)));
        }
        for (name, tier) in self.tier_names.iter().zip(&self.tiers) {
            let misses = tier.misses.iter().filter(|(reason, _)| *reason != "not_found");
            remarks
                .extend(misses.map(|(reason, n)| format!("{name}: {} misses, reason `{reason}`", count(*n))));
            remarks.extend(tier.errors.iter().map(|(kind, n)| {
                let last = tier.last_errors.get(kind).map(|text| format!("; the last: {text}"));
                format!("{name}: {} errors, kind `{kind}`{}", count(*n), last.unwrap_or_default())
            }));
            for (what, puts) in [("refused", &tier.refused), ("dropped", &tier.dropped)] {
                remarks.extend(
                    puts.iter()
                        .map(|(reason, n)| format!("{name}: {} puts {what}, reason `{reason}`", count(*n))),
                );
            }
            let skipped = tier.skipped.iter();
            remarks.extend(skipped.map(|(direction, n)| {
                format!("{name}: {} times skipped for {direction}, breaker open", count(*n))
            }));
            remarks.extend(tier.events.iter().map(|(event, n)| format!("{name}: {} × `{event}`", count(*n))));
            let causes = tier.last_causes.iter();
            remarks.extend(causes.map(|(what, cause)| format!("{name}: last failure of {what}: {cause}")));
        }
        remarks
    }

    /// Returns the requests per second of wall-clock time.
    pub fn requests_per_s(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Returns `part / whole`, and 0 for a whole of 0.
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
