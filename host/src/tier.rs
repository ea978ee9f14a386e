//! The trait that storage behind the CPU tier implements, and its outcomes.
//!
//! Implemented by the WebAssembly tier; an embedder may implement it natively. The chain seals chunks
//! before [`Tier::put`] and verifies them after [`Tier::get`], counts pins, keeps the put queue and the
//! deadlines of operations. A tier only moves bytes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::key::ChunkKey;
use crate::transfer::{Sinks, Sources};

/// A future that any executor can drive.
pub type TierFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer of a call whose chunks can fail apart: one result per key, in order, or the call's error.
pub type PerChunk<T> = Result<Vec<Result<T, TierError>>, TierError>;

/// Whether present chunks are to be protected from the tier's own eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pinning {
    /// Only look.
    None,
    /// Protect exactly the chunks that are counted.
    Pin,
}

/// Storage behind the CPU tier.
///
/// Every method answers by `deadline` or with [`TierError::Timeout`], whatever the storage does. Where
/// chunks can fail apart, the inner results say so, in the order of `keys`; the outer error is the
/// call's. Dropping a future abandons the call: memory lent to it goes back when the last transfer
/// ends.
pub trait Tier: Send + Sync + 'static {
    /// Returns the length of the leading run of `keys` that are present, and pins that run if asked.
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        pinning: Pinning,
        deadline: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>>;

    /// Stores chunk `i` of `data` under `keys[i]`, whole or not at all.
    fn put(&self, keys: Arc<[ChunkKey]>, data: Sources, deadline: Instant) -> TierFuture<'_, PerChunk<()>>;

    /// Fills buffer `i` of `into` with what is stored under `keys[i]`. `None` is a miss, `Some(n)` the
    /// number of bytes written, trailer included.
    fn get(
        &self,
        keys: Arc<[ChunkKey]>,
        into: Sinks,
        deadline: Instant,
    ) -> TierFuture<'_, PerChunk<Option<u64>>>;

    /// Pins the leading run of `keys` that are present, and returns its length.
    fn pin(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>>;

    /// Unpins `keys` and returns how many were pinned.
    fn unpin(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>>;

    /// Removes `keys` and returns how many were present.
    fn remove(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>>;

    /// Finishes and releases what the tier holds. No call follows.
    fn close(&self, deadline: Instant) -> TierFuture<'_, Result<(), TierError>>;

    /// Hears that the chain passes the tier over for `pause`, in one direction at least, because its calls fail: an
    /// occasion to look for what has changed outside, in the background.
    fn passed_over(&self, pause: Duration) {
        let _ = pause;
    }

    /// Returns how the tier is.
    fn health(&self) -> TierHealth {
        TierHealth::default()
    }

    /// Returns how many chunks one call may carry.
    fn batch_chunks_max(&self) -> usize {
        64
    }

    /// Returns how many calls it works on at a time; more would only wait, or be refused as [`TierError::Busy`].
    fn calls_at_once(&self) -> usize {
        usize::MAX
    }

    /// Returns how many bytes its calls may move at a time before a further one is refused as
    /// [`TierError::Busy`]. One call is always taken.
    fn bytes_in_flight_max(&self) -> usize {
        usize::MAX
    }

    /// Returns the time that one call moving `bytes` may take.
    fn call_limit(&self, bytes: usize) -> Duration {
        Duration::from_secs(1) + Duration::from_secs_f64(bytes as f64 / f64::from(32 << 20))
    }
}

/// Hears whether a tier can serve at all; the chain passes over one that cannot.
pub trait Liveness: Send + Sync {
    /// Notes that the tier cannot serve, why, and when it is tried again. Also while it is known, when cause or
    /// time have changed.
    fn down(&self, cause: &str, retry_in: Duration);

    /// Notes that it can serve.
    fn up(&self);

    /// Notes that it starts anew in the same place, so that calls from before say nothing more of it.
    fn renewed(&self) {}
}

/// How a tier is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierHealth {
    /// Why the tier cannot serve at the moment; `None` if it can.
    pub down: Option<String>,
    /// How often a lane was retired and replaced.
    pub lane_restarts: u64,
    /// The reason of the last replacement.
    pub last_restart: Option<String>,
    /// Calls that expired and are still inside the guest.
    pub abandoned_calls: usize,
    /// Instances that exist: one a lane, and those that were retired and have not ended yet.
    pub instances: usize,
    /// Bytes of linear memory that instances hold: all memories of all lanes together.
    pub guest_memory_bytes: u64,
    /// Bytes of host memory that is held for instances outside of their linear memory, as far as it is counted: tables, HTTP
    /// objects at their largest, pending operations on files with their names. Also of instances that were retired
    /// and have not ended yet.
    pub host_memory_bytes: u64,
    /// Lines that the backend wanted to log beyond its limits, and that were dropped, since it was configured.
    pub log_lines_dropped: u64,
    /// How often the backend tried what it is not granted, since it was configured.
    pub denials: u64,
    /// The last of these, and the grant that would allow it.
    pub last_denial: Option<String>,
    /// Who keeps the tier's directory to its capacity, if the tier has one and has asked.
    pub capacity_owner: Option<CapacityOwner>,
    /// Further facts, for people: compile cache, versions, digest.
    pub notes: Vec<(String, String)>,
}

/// Who evicts from a directory that several instances share: one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityOwner {
    /// An instance of this tier.
    ThisProcess,
    /// An instance elsewhere: this tier stores and reads, and evicts nothing.
    Another {
        /// The id of its process, if the system tells it. Where it has ended, this tier takes over within seconds.
        process: Option<u32>,
    },
}

/// Why a tier could not tell, or could not do. Never means "absent".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// No answer by the deadline.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The call was inside a lane that was retired.
    #[error("the lane was retired: {0}")]
    Lost(String),
    /// The guest trapped.
    #[error("the guest trapped: {0}")]
    Trap(String),
    /// Too many calls, or too many bytes of calls, are in flight.
    #[error("too many calls or bytes in flight")]
    Busy,
    /// The tier was not asked, because too many of its calls in this direction failed of late.
    #[error("not asked: too many of its calls failed of late; its breakers in status() have the cause")]
    BreakerOpen,
    /// The tier is not running.
    #[error("not running: {0}")]
    Down(String),
    /// The process is a fork of the one that has the tier.
    #[error(
        "not asked: this process was forked from the one that built the engine, and the backends run there; give the engine up with `Engine::abandon` and build another"
    )]
    Forked,
    /// The answer breaks the contract.
    #[error("the answer breaks the contract: {0}")]
    BadAnswer(String),
    /// The store cannot be reached.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The constructor refused its configuration.
    #[error("invalid configuration: {0}")]
    InvalidConfig(String),
    /// An argument was refused.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The store is full.
    #[error("no space left in the store")]
    NoSpace,
    /// Stored bytes are damaged.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The tier does not do that.
    #[error("not supported")]
    Unsupported,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl TierError {
    /// Returns the error's own words, where it has any.
    pub(crate) fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Lost(text)
            | Self::Trap(text)
            | Self::Down(text)
            | Self::BadAnswer(text)
            | Self::Unavailable(text)
            | Self::InvalidConfig(text)
            | Self::InvalidArgument(text)
            | Self::Corrupt(text)
            | Self::Other(text) => Some(text),
            Self::Timeout(_)
            | Self::Busy
            | Self::BreakerOpen
            | Self::Forked
            | Self::NoSpace
            | Self::Unsupported => None,
        }
    }

    /// Returns the error's name in metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Lost(_) => "lost",
            Self::Trap(_) => "trap",
            Self::Busy => "busy",
            Self::BreakerOpen => "breaker_open",
            Self::Down(_) => "down",
            Self::Forked => "forked",
            Self::BadAnswer(_) => "bad_answer",
            Self::Unavailable(_) => "unavailable",
            Self::InvalidConfig(_) => "invalid_config",
            Self::InvalidArgument(_) => "invalid_argument",
            Self::NoSpace => "no_space",
            Self::Corrupt(_) => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Other(_) => "other",
        }
    }
}
