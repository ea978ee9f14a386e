//! Counters and latencies of each tier, and their Prometheus text.
//!
//! Counting costs an atomic addition. Reasons and kinds are rare, so counting one takes a lock.

mod counts;
mod histogram;
mod prometheus;
#[cfg(test)]
mod reference_tests;

pub use self::counts::{BreakerCounts, DropReason, ErrorCount, OperationLatency, TierCounts};
pub(crate) use self::counts::{TierMetrics, TierReport};
use self::histogram::Histogram;
pub use self::histogram::{Bucket, Latency};
pub(crate) use self::prometheus::prometheus;

/// The operations whose latency is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// Asking which chunks are present.
    Contains,
    /// Fetching chunks.
    Get,
    /// Storing chunks; for a backend, from the start of its call.
    Put,
    /// Reserving buffers.
    Allocate,
    /// Removing chunks.
    Remove,
}

impl Operation {
    const ALL: [Self; 5] = [Self::Contains, Self::Get, Self::Put, Self::Allocate, Self::Remove];

    /// Returns the operation's name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Contains => "contains",
            Self::Get => "get",
            Self::Put => "put",
            Self::Allocate => "allocate",
            Self::Remove => "remove",
        }
    }
}
