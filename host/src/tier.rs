//! The trait of storage behind the CPU tier, and its outcomes.
//!
//! The WebAssembly tier implements it, and an embedder can implement it natively. The chain seals chunks before
//! [`Tier::put`] and verifies them after [`Tier::get`]; it counts pins, queues puts and keeps the deadlines of
//! operations. A tier only moves bytes.

mod error;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::key::ChunkKey;

pub use self::error::TierError;
pub use crate::integrity::{Flaw, PayloadHash, Sealer, TRAILER_BYTES, Trailer};
pub use crate::transfer::{Claim, Lease, Sealed, Sink, Sinks, Sources, TransferError};

/// A future that any executor can drive.
pub type TierFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The result of a call whose chunks can fail separately: one result per key, in order, or the error of the call.
pub type PerChunk<T> = Result<Vec<Result<T, TierError>>, TierError>;

/// How a lookup treats the chunks that it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pinning {
    /// Leaves them to the tier's own eviction.
    None,
    /// Protects exactly these from it until they are unpinned.
    Pin,
}

/// Storage behind the CPU tier.
///
/// Every method returns by `deadline`, if necessary with [`TierError::Timeout`], whatever the storage does. Where
/// chunks can fail separately there is one inner result per key, in the order of `keys`; the outer error is that of the
/// call. Dropping a future abandons the call. The memory lent to it is released when the last transfer ends.
///
/// A list of keys may be empty, and may have a key twice. Every element gets its result, but a change happens once: a
/// repeated key is stored and pinned once, and counts once for `unpin` and `remove`. `put` and `get` carry at most
/// [`batch_chunks_max`](Tier::batch_chunks_max) keys; the others may carry those of a whole prompt.
pub trait Tier: Send + Sync + 'static {
    /// Returns how many of `keys`, counted from the first, are present without a gap. With [`Pinning::Pin`] exactly
    /// these are protected from the tier's own eviction until [`unpin`](Tier::unpin), as by [`pin`](Tier::pin).
    ///
    /// # Errors
    /// [`TierError::Unsupported`] with [`Pinning::Pin`] if the tier does not support pins; the chain then makes lookups
    /// without it. Any other error if the tier cannot find out. After an error nothing is pinned.
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        pinning: Pinning,
        deadline: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>>;

    /// Returns for each of `keys`, in order, whether it is present, also after a gap. Pins nothing. Optional.
    ///
    /// # Errors
    /// [`TierError::Unsupported`], by default, if the tier does not have the method. Any other error if the tier cannot
    /// find out.
    fn present(
        &self,
        keys: Arc<[ChunkKey]>,
        deadline: Instant,
    ) -> TierFuture<'_, Result<Vec<bool>, TierError>> {
        let _ = (keys, deadline);
        Box::pin(std::future::ready(Err(TierError::Unsupported)))
    }

    /// Stores chunk `i` of `data` under `keys[i]`, whole or not at all. A key that is present keeps its bytes, which is
    /// a success and counts as a use. After a success [`get`](Tier::get) finds the chunk until it is evicted or
    /// removed.
    ///
    /// # Errors
    /// For each chunk, [`TierError::NoSpace`] or any other; the chunk is then absent.
    fn put(&self, keys: Arc<[ChunkKey]>, data: Sources, deadline: Instant) -> TierFuture<'_, PerChunk<()>>;

    /// Fills buffer `i` of `into` with the chunk stored under `keys[i]`. `None` is a miss, `Some(n)` the number of
    /// bytes written, including the trailer. A chunk that is larger than the buffer is not written, and its length is
    /// returned.
    ///
    /// # Errors
    /// For each chunk, [`TierError::Corrupt`] if the stored bytes are damaged; any other if the tier cannot find out.
    /// Other chunks are not affected.
    fn get(
        &self,
        keys: Arc<[ChunkKey]>,
        into: Sinks,
        deadline: Instant,
    ) -> TierFuture<'_, PerChunk<Option<u64>>>;

    /// Protects the leading run of `keys` that are present from the tier's own eviction, and returns its length. A key
    /// that is pinned twice is unpinned by one [`unpin`](Tier::unpin): the chain counts.
    ///
    /// # Errors
    /// [`TierError::Unsupported`] if the tier never evicts or cannot protect chunks; the chain then treats its chunks
    /// as pinned. Any other error if it failed. Nothing is pinned then.
    fn pin(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>>;

    /// Ends the protection of `keys`, and returns how many were pinned. Skips other keys.
    ///
    /// # Errors
    /// [`TierError::Unsupported`], as for [`pin`](Tier::pin), which the chain does not treat as a failure. Any other
    /// error if it failed.
    fn unpin(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>>;

    /// Removes `keys`, pinned or not, and returns how many were present. Afterwards [`get`](Tier::get) finds none of
    /// them, also after a restart.
    ///
    /// # Errors
    /// Any; some of the keys may have been removed.
    fn remove(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>>;

    /// Writes pending data and releases the tier's resources. No call follows.
    ///
    /// # Errors
    /// Any; the chain reports it and counts the tier as closed.
    fn close(&self, deadline: Instant) -> TierFuture<'_, Result<(), TierError>>;

    /// Notes that the chain skips the tier for `pause`, in at least one direction, because its calls fail. The tier may
    /// use this time to check in the background what has changed outside.
    fn skipped_for(&self, pause: Duration) {
        let _ = pause;
    }

    /// Returns the state of the tier.
    fn health(&self) -> TierHealth {
        TierHealth::default()
    }

    /// Returns how many chunks one call may carry.
    fn batch_chunks_max(&self) -> usize {
        64
    }

    /// Returns how many calls the tier works on at a time. Further calls wait, or are refused as [`TierError::Busy`].
    fn calls_in_flight_max(&self) -> usize {
        usize::MAX
    }

    /// Returns how many bytes its calls may move at a time before a further one is refused as [`TierError::Busy`]. One
    /// call is always accepted.
    fn bytes_in_flight_max(&self) -> usize {
        usize::MAX
    }

    /// Returns the time limit of one call that moves `bytes`.
    fn call_limit(&self, bytes: usize) -> Duration {
        Duration::from_secs(1) + Duration::from_secs_f64(bytes as f64 / f64::from(32 << 20))
    }
}

/// Receives notifications of whether a tier can serve. The chain skips a tier that cannot.
pub trait Liveness: Send + Sync {
    /// Notes that the tier cannot serve, the cause, and the time of the next try. Called again when the cause or the
    /// time has changed.
    fn down(&self, cause: &str, retry_in: Duration);

    /// Notes that the tier can serve.
    fn up(&self);

    /// Notes that the tier starts again in the same place, so that earlier calls no longer count.
    fn renewed(&self) {}
}

/// The state of a tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierHealth {
    /// Why the tier cannot serve now. `None` if it can.
    pub down: Option<String>,
    /// How often a lane was retired and replaced.
    pub lane_restarts: u64,
    /// The reason of the last replacement.
    pub last_restart: Option<String>,
    /// Calls that expired and are still inside the guest.
    pub abandoned_calls: usize,
    /// Instances that exist: one per lane, and retired ones that have not ended yet.
    pub instances: usize,
    /// Bytes of linear memory that the instances hold, summed over all lanes.
    pub guest_memory_bytes: u64,
    /// Bytes of host memory that is held for instances outside their linear memory, as far as it is counted: tables,
    /// HTTP objects at their largest, pending operations on files with their names. Includes instances that were
    /// retired and have not ended yet.
    pub host_memory_bytes: u64,
    /// Log lines of the backend beyond its limits, which were dropped, since it was configured.
    pub log_lines_dropped: u64,
    /// How often the backend tried to do something that is not granted, since it was configured.
    pub denials: u64,
    /// The last of these, and the grant that would allow it.
    pub last_denial: Option<String>,
    /// The instance that keeps the tier's directory within its capacity, if the tier has a directory and its backend
    /// called `keep-capacity`.
    pub capacity_owner: Option<CapacityOwner>,
    /// Further facts, for people: where the code comes from, its style and digest, [`BLOCKING_FILES_NOTE`].
    pub notes: Vec<TierNote>,
}

/// The name of the note that says how many times an async class has blocked its instance to read or write a file.
pub const BLOCKING_FILES_NOTE: &str = "blocking file calls";

/// One fact about a tier, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierNote {
    /// The name of the fact.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl TierNote {
    /// Makes a note.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// The instance that evicts from a directory that several instances share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityOwner {
    /// An instance of this tier.
    ThisProcess,
    /// An instance elsewhere. This tier stores and reads, but does not evict.
    Another {
        /// The id of its process, if the system reports it. When that process ends, this tier takes over within
        /// seconds.
        process: Option<u32>,
    },
}
