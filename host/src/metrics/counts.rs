//! The counters of a tier, and a typed snapshot of them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Histogram, Latency, Operation};
use crate::sync::lock;
use crate::tier::TierError;

/// The reason why a put was given up before the tier had its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// The queue of the backend was full.
    QueueFull,
    /// The call that stored them failed as a whole.
    CallFailed,
    /// The breaker of writing was open.
    BreakerOpen,
    /// A removal cancelled it.
    Removed,
    /// The engine was closed.
    Closed,
    /// Nothing is to be stored.
    SkipSave,
    /// The process is a fork of the one that has the backend.
    Forked,
    /// No buffer was available.
    NoMemory,
    /// The chunk was larger than the engine's chunks can be.
    TooLarge,
}

impl DropReason {
    /// Returns the reason's name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::CallFailed => "lost",
            Self::BreakerOpen => "breaker_open",
            Self::Removed => "removed",
            Self::Closed => "closed",
            Self::SkipSave => "skip_save",
            Self::Forked => "forked",
            Self::NoMemory => "no_memory",
            Self::TooLarge => "too_large",
        }
    }
}

/// The errors of one kind in one operation.
#[derive(Clone, Default)]
struct Errors {
    n: u64,
    /// The text of the last one.
    last: String,
}

/// The counters of one tier.
#[derive(Default)]
pub(crate) struct TierMetrics {
    pub(crate) hits: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) pins_expired: AtomicU64,
    shared: AtomicU64,
    misses: Mutex<BTreeMap<&'static str, u64>>,
    errors: Mutex<BTreeMap<(Operation, &'static str), Errors>>,
    drops: Mutex<BTreeMap<&'static str, u64>>,
    latency: [Histogram; Operation::ALL.len()],
}

fn bump<K: Ord>(counts: &Mutex<BTreeMap<K, u64>>, key: K, by: u64) {
    if by > 0 {
        *lock(counts).entry(key).or_default() += by;
    }
}

impl TierMetrics {
    pub(crate) fn hit(&self, n_chunks: u64, bytes: u64) {
        self.hits.fetch_add(n_chunks, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn share(&self, n_chunks: u64) {
        self.shared.fetch_add(n_chunks, Ordering::Relaxed);
    }

    pub(crate) fn stored(&self, n_chunks: u64, bytes: u64) {
        self.puts.fetch_add(n_chunks, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn miss(&self, reason: &'static str, n_chunks: u64) {
        bump(&self.misses, reason, n_chunks);
    }

    pub(crate) fn error(&self, operation: Operation, error: &TierError) {
        let mut errors = lock(&self.errors);
        let errors = errors.entry((operation, error.kind())).or_default();
        errors.n += 1;
        // Errors bound the foreign texts that they contain.
        errors.last = error.to_string();
    }

    pub(crate) fn drop_puts(&self, reason: DropReason, n_chunks: u64) {
        bump(&self.drops, reason.name(), n_chunks);
    }

    pub(crate) fn took(&self, operation: Operation, time: Duration) {
        self.latency[operation as usize].record(time);
    }

    /// Returns the counts so far, together with what the tier itself reports.
    pub(crate) fn snapshot(&self, name: &str, report: &TierReport) -> TierCounts {
        let copy = |counts: &Mutex<BTreeMap<&'static str, u64>>| lock(counts).clone();
        let latency = Operation::ALL.map(|operation| OperationLatency {
            operation,
            latency: self.latency[operation as usize].snapshot(),
        });
        let errors = lock(&self.errors).clone().into_iter();
        let errors =
            errors.map(|((operation, kind), Errors { n, last })| ErrorCount { operation, kind, n, last });
        TierCounts {
            name: name.to_owned(),
            hits: self.hits.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            puts: self.puts.load(Ordering::Relaxed),
            pins_expired: self.pins_expired.load(Ordering::Relaxed),
            shared: self.shared.load(Ordering::Relaxed),
            misses: copy(&self.misses),
            errors: errors.collect(),
            drops: copy(&self.drops),
            evictions: report.evictions,
            lane_restarts: report.lane_restarts,
            guest_memory_bytes: report.guest_memory_bytes,
            host_memory_bytes: report.host_memory_bytes,
            is_up: report.is_up,
            reading: report.reading,
            writing: report.writing,
            latency: latency.into_iter().filter(|calls| calls.latency.n > 0).collect(),
        }
    }
}

/// What is counted elsewhere: by the tier itself, and by its breakers. The fields are those of [`TierCounts`].
pub(crate) struct TierReport {
    pub(crate) evictions: u64,
    pub(crate) lane_restarts: u64,
    pub(crate) guest_memory_bytes: u64,
    pub(crate) host_memory_bytes: u64,
    pub(crate) is_up: bool,
    pub(crate) reading: BreakerCounts,
    pub(crate) writing: BreakerCounts,
}

impl TierReport {
    /// Makes the report of the CPU tier, which is always up and has no instances and no breakers.
    pub(crate) fn of_cpu(evictions: u64) -> Self {
        Self {
            evictions,
            lane_restarts: 0,
            guest_memory_bytes: 0,
            host_memory_bytes: 0,
            is_up: true,
            reading: BreakerCounts::default(),
            writing: BreakerCounts::default(),
        }
    }
}

/// The counts of one tier so far.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TierCounts {
    /// The tier's name.
    pub name: String,
    /// Chunks served.
    pub hits: u64,
    /// Payload bytes served.
    pub bytes_read: u64,
    /// Payload bytes stored, in the CPU tier including promoted chunks.
    pub bytes_written: u64,
    /// Chunks stored, in the CPU tier including promoted ones.
    pub puts: u64,
    /// Chunks that a retrieval requested from this tier and did not get, by reason.
    pub misses: BTreeMap<&'static str, u64>,
    /// Failed calls and failed chunks, by operation and kind.
    pub errors: Vec<ErrorCount>,
    /// Puts given up before the tier had them, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Chunks evicted to make room. 0 for backends, which do not report theirs.
    pub evictions: u64,
    /// Lanes retired and replaced.
    pub lane_restarts: u64,
    /// Linear memory of the tier's instances now, in bytes; not a count.
    pub guest_memory_bytes: u64,
    /// Host memory held for the instances now, outside their linear memory and as far as it is counted, in bytes; not a
    /// count.
    pub host_memory_bytes: u64,
    /// Lookups whose pins expired; counted at the CPU tier for the whole chain.
    pub pins_expired: u64,
    /// Chunks that a retrieval got from a fetch that another retrieval had begun. Not included in `hits`.
    pub shared: u64,
    /// Whether the tier can serve now; not a count.
    pub is_up: bool,
    /// The counts of the breaker of `contains`, `get`, `pin` and `unpin`.
    pub reading: BreakerCounts,
    /// The counts of the breaker of `put` and `remove`.
    pub writing: BreakerCounts,
    /// Latency of calls, by operation.
    pub latency: Vec<OperationLatency>,
}

impl TierCounts {
    /// Returns how many calls and chunks of an operation failed with an error of this kind.
    pub fn n_errors(&self, operation: Operation, kind: &str) -> u64 {
        let mut errors = self.errors.iter();
        errors.find(|error| error.operation == operation && error.kind == kind).map_or(0, |error| error.n)
    }
}

/// The errors of one kind in one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorCount {
    /// The operation.
    pub operation: Operation,
    /// The error's name in metrics: [`TierError::kind`](crate::tier::TierError::kind).
    pub kind: &'static str,
    /// The number of failed calls and failed chunks.
    pub n: u64,
    /// The text of the last one.
    pub last: String,
}

/// The latency of the calls of one operation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OperationLatency {
    /// The operation.
    pub operation: Operation,
    /// The latency of its calls.
    pub latency: Latency,
}

/// The counts of the breaker of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerCounts {
    /// Whether the tier is skipped in this direction because it fails; not a count.
    pub is_open: bool,
    /// How often it opened, including after a failed probe.
    pub opened: u64,
    /// Operations that skipped the tier because the breaker was open.
    pub skipped: u64,
}
