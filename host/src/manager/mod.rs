//! The storage manager: the CPU tier and the backends behind it, as one chain. It works on keys.
//!
//! The engine works on tokens and the manager on keys. Their words for one operation, and its file:
//!
//! | `Engine` | `StorageManager` | file |
//! |---|---|---|
//! | `lookup`, `lookup_pinned` | `contains`, `contains_pinned` | `lookup.rs` |
//! | `retrieve` | `get` | `retrieve.rs` |
//! | `allocate`, `store` | `allocate`, `put` | `store.rs` |
//! | `unpin` | `unpin` | `pins.rs` |
//! | `remove` | `remove` | `remove.rs` |
//! | `close` | `close` | `lifecycle.rs` |
//!
//! Operations that the CPU tier can answer alone involve no executor and no guest. Calls to backends are awaited on the
//! caller's executor, or on none; deadlines fire on kvtier's own threads.
//!
//! Invariants: an answer never depends on whether a backend returns; a chunk from a backend is handed out only after it
//! was verified; the order of tiers is the configuration's.

mod backend;
mod breaker;
mod fetch_into;
mod fetched;
mod fetching;
mod flights;
mod ledger;
mod lifecycle;
mod lookup;
mod memory;
mod pins;
mod presence;
mod receipt;
mod remove;
mod retrieve;
mod select;
mod status;
mod store;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub(crate) use backend::{MadeTier, NewBackend, TierFactory};
pub use backend::{Offer, RecreateError};
pub(crate) use breaker::Breakers;
pub use breaker::{BreakerState, BreakerStatus};
pub use fetch_into::NotFetched;
pub use fetched::Miss;
pub use lifecycle::{CloseError, FailedClose, FlushError, PendingPuts};
pub use lookup::{Lookup, Served};
pub use receipt::{BackendReceipt, PutOutcome, Receipt};
pub use remove::{ClearReport, RemoveError};
pub use retrieve::{MissedChunk, Retrieved};
pub use select::{CPU_TIER, TierIndex, Tiers, UnknownBackend};
pub use status::{BackendStatus, Status};
pub use store::{Allocation, Missing, Stored};

use self::backend::Backend;
use self::flights::Flights;
use self::ledger::Ledger;
use crate::clock::Clock;
use crate::config::OnFull;
use crate::cpu::CpuTier;
use crate::integrity::Sealer;
use crate::key::Namespace;
use crate::limits::{PUT_BATCHES_IN_FLIGHT, PUT_POOL_DIVISOR};
use crate::metrics::{DropReason, TierMetrics};
use crate::runtime::Control;
use crate::sync::lock;

/// The settings of a chain.
#[derive(Clone, Debug)]
pub(crate) struct ManagerOptions {
    pub(crate) lookup_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) pin_timeout: Duration,
    pub(crate) on_full: OnFull,
    /// With 0, a share of the pool.
    pub(crate) put_queue_bytes: u64,
    pub(crate) skip_save: bool,
    /// The size of the largest chunk that is stored.
    pub(crate) chunk_bytes_max: usize,
    pub(crate) clock: Clock,
    pub(crate) namespace: Namespace,
    pub(crate) sealer: Sealer,
}

/// The chain of tiers, on keys: the low-level API, for engines that have their own keys. Cloning shares it.
///
/// An [`Engine`](crate::Engine) derives keys from tokens and does everything else here; get the manager from
/// [`Engine::storage`](crate::Engine::storage), or build one without tokens by
/// [`EngineBuilder::on_keys`](crate::EngineBuilder::on_keys). `host/examples/keys.rs` is a program that works on keys.
///
/// - *Store*: [`allocate`](Self::allocate) gives buffers for the chunks that the CPU tier does not have; fill them,
///   then [`put`](Self::put) them. [`put_chunks`](Self::put_chunks) stores chunks that a retrieval returned.
/// - *Find*: [`contains`](Self::contains) counts the keys that are present from the first on, and returns the tier
///   that serves each; [`contains_pinned`](Self::contains_pinned) also protects them from eviction, under an id, until
///   [`unpin`](Self::unpin) or until the pins expire.
/// - *Retrieve*: [`get`](Self::get) returns chunks by reference, up to the first gap. A chunk from a backend is
///   verified first, and promoted into the CPU tier.
/// - *With memory, keys or chunks of the engine's own*: [`BufferMut::lend`](crate::memory::BufferMut::lend) makes a
///   buffer of its memory, [`fetch_into`](Self::fetch_into) fills such buffers, each with a result of its own, and
///   [`put_chunks_with_receipt`](Self::put_chunks_with_receipt) reports what became of each chunk in each backend.
///   [`contains_each`](Self::contains_each) does not stop at a gap, and
///   [`Namespace::foreign_key`](crate::Namespace::foreign_key) derives keys from the engine's own names.
/// - *Remove*: [`remove`](Self::remove) and [`clear`](Self::clear).
/// - *Tiers*: [`status`](Self::status), [`counts`](Self::counts), [`metrics`](Self::metrics); [`bypass`](Self::bypass),
///   [`restore`](Self::restore), [`recreate`](Self::recreate), [`set_hot_cache`](Self::set_hot_cache);
///   [`flush`](Self::flush) and [`close`](Self::close).
///
/// Keys are given in the order of the prompt: the tail of a prefix is evicted before its head. A key names bytes that
/// never change, and the size in a [`ChunkSpec`](crate::ChunkSpec) is that of the whole payload. Each operation has the
/// deadline of the configuration. A failing backend causes misses, never errors of a retrieval.
#[derive(Clone)]
pub struct StorageManager(Arc<Inner>);

struct Inner {
    // Dropped first, because backends may hold buffers of the CPU tier's memory.
    backends: Vec<Arc<Backend>>,
    flights: Arc<Flights>,
    ledger: Mutex<Ledger>,
    /// Notified when the ledger gets its first entry, and when the chain is dropped.
    pinned: Arc<Notify>,
    options: ManagerOptions,
    cpu_metrics: TierMetrics,
    /// Counts removals over the whole chain.
    removal_generation: Arc<AtomicU64>,
    closed: AtomicBool,
    closing: OnceLock<tokio::sync::watch::Receiver<Option<Result<(), CloseError>>>>,
    cpu: CpuTier,
    control: Control,
}

impl StorageManager {
    pub(crate) fn new(
        cpu: CpuTier,
        backends: Vec<NewBackend>,
        options: ManagerOptions,
        control: Control,
    ) -> Self {
        let queue_bytes = match options.put_queue_bytes {
            0 => cpu.provider().capacity_bytes() as u64 / PUT_POOL_DIVISOR,
            bytes => bytes,
        };
        let budget = queue_bytes as usize / backends.len().max(1);
        let removal_generation = Arc::new(AtomicU64::new(0));
        let flights = Arc::<Flights>::default();
        let make = |(place, new): (usize, NewBackend)| {
            let (sealer, flights) = (options.sealer.clone(), Arc::clone(&flights));
            Arc::new(Backend::new(
                new,
                place,
                budget,
                sealer,
                Arc::clone(&removal_generation),
                flights,
                control.clone(),
            ))
        };
        let backends: Vec<_> = backends.into_iter().enumerate().map(make).collect();
        for backend in &backends {
            for _ in 0..PUT_BATCHES_IN_FLIGHT {
                let backend = Arc::clone(backend);
                control.handle().spawn(async move { backend.store_queued().await });
            }
        }
        let inner = Arc::new(Inner {
            backends,
            flights,
            ledger: Mutex::default(),
            pinned: Arc::default(),
            options,
            cpu_metrics: TierMetrics::default(),
            removal_generation,
            closed: AtomicBool::new(false),
            closing: OnceLock::new(),
            cpu,
            control,
        });
        let (chain, clock) = (Arc::downgrade(&inner), inner.options.clock.clone());
        let expiring = Self::expire_in_time(chain, clock, Arc::clone(&inner.pinned));
        inner.control.handle().spawn(expiring);
        Self(inner)
    }

    /// Returns the tiers' names in the chain's order, the CPU tier first.
    pub fn tier_names(&self) -> Vec<&str> {
        let backends = self.0.backends.iter().map(|backend| backend.name.as_str());
        std::iter::once(CPU_TIER).chain(backends).collect()
    }

    /// Returns the namespace in which the chain stores chunks, and in which
    /// [`foreign_key`](crate::Namespace::foreign_key) derives keys.
    pub fn namespace(&self) -> Namespace {
        self.0.options.namespace
    }

    /// Returns the CPU tier, for operations that concern no other.
    #[doc(hidden)]
    pub fn cpu(&self) -> &CpuTier {
        &self.0.cpu
    }

    /// Returns the time limit of operations that get no deadline.
    pub fn timeout(&self) -> Duration {
        self.0.options.timeout
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.options.timeout
    }

    /// Reports whether a `fork` has left the backends with the parent process.
    pub(crate) fn is_forked_child(&self) -> bool {
        self.0.control.is_forked_child()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.0.ledger)
    }

    /// Returns the backends that an operation may use, with their places in the chain.
    fn backends<'a>(&'a self, tiers: &'a Tiers) -> impl Iterator<Item = (TierIndex, &'a Arc<Backend>)> {
        let open = !self.0.closed.load(Ordering::Acquire);
        let all = self.0.backends.iter().enumerate();
        all.filter(move |(_, backend)| open && !backend.is_bypassed() && tiers.includes(&backend.name))
            .map(|(index, backend)| (TierIndex(index + 1), backend))
    }

    fn backend(&self, name: &str) -> Result<&Arc<Backend>, UnknownBackend> {
        let found = self.0.backends.iter().find(|backend| backend.name == name);
        found.ok_or_else(|| UnknownBackend(name.into()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.control.is_forked_child() {
            // Lanes, files and connections belong to the parent; closing them here would disturb it.
            return std::mem::forget(std::mem::take(&mut self.backends));
        }
        self.pinned.notify_one();
        // Ends the workers of a chain that was dropped without `close`.
        for backend in &self.backends {
            backend.queue.cancel(None, DropReason::Closed);
            backend.queue.close();
        }
    }
}

impl std::fmt::Debug for StorageManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageManager").field("tiers", &self.tier_names()).finish_non_exhaustive()
    }
}
