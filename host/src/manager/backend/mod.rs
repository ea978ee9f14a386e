//! One backend in the chain: a tier with its put queue, pins, breakers and counters.

mod admit;
mod contains;
mod damaged;
mod drain;
mod fetch;
mod owed;
mod pins;
mod presence;
mod queue;
mod recreate;
mod remove;
mod store;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use self::contains::SharedLookups;
use self::damaged::DamagedRemovals;
use self::owed::Owed;
use self::queue::PutQueue;
pub use self::recreate::RecreateError;
pub use self::store::Offer;
use super::breaker::{Breakers, CallOutcome, OwnedPermit, Permit};
use super::flights::Flights;
use crate::clock::Clock;
use crate::integrity::Sealer;
use crate::key::ChunkKey;
use crate::log_throttle::LogThrottle;
use crate::metrics::{Operation, TierMetrics};
use crate::runtime::Control;
use crate::sync::read;
use crate::tier::{Liveness, Tier, TierError};

/// Creates a backend's tier again, for [`super::StorageManager::recreate`].
pub(crate) type TierFactory = Arc<dyn Fn(Arc<dyn Liveness>) -> MadeTier + Send + Sync>;
/// The new tier, once it has started or failed to.
pub(crate) type MadeTier = Pin<Box<dyn Future<Output = (Arc<dyn Tier>, Result<(), String>)> + Send>>;

/// A backend for a new chain.
pub(crate) struct NewBackend {
    pub(crate) name: String,
    pub(crate) tier: Arc<dyn Tier>,
    pub(crate) factory: Option<TierFactory>,
    pub(crate) breakers: Arc<Breakers>,
}

pub(in crate::manager) struct Backend {
    pub(in crate::manager) name: String,
    /// Its position among the backends.
    pub(in crate::manager) place: usize,
    /// Counts removals over the whole chain. The knowledge of which chunks a backend has is valid until the next
    /// removal.
    pub(in crate::manager) removal_generation: Arc<AtomicU64>,
    tier: RwLock<Arc<dyn Tier>>,
    factory: Option<TierFactory>,
    pub(in crate::manager) breakers: Arc<Breakers>,
    pub(in crate::manager) owed: Owed,
    damaged: DamagedRemovals,
    bypassed: AtomicBool,
    /// Out of the chain while its tier is created again.
    recreating: AtomicBool,
    /// No new tier is accepted. Set under the lock of `tier`.
    closed: AtomicBool,
    pub(in crate::manager) queue: PutQueue,
    /// The chunks that the whole chain is fetching.
    flights: Arc<Flights>,
    pub(in crate::manager) shared_lookups: SharedLookups,
    /// The bytes of fetches in flight.
    pub(in crate::manager) n_bytes_moving: AtomicUsize,
    /// How many lookups have pinned each key. The tier is notified of the first and the last.
    pins: Mutex<HashMap<ChunkKey, u32>>,
    /// The tier does not support pins.
    has_no_pins: AtomicBool,
    /// The tier does not have the method `present`.
    has_no_presence: AtomicBool,
    pub(in crate::manager) metrics: TierMetrics,
    pub(in crate::manager) sealer: Sealer,
    /// Throttles the log of refused bytes.
    pub(in crate::manager) refusals: LogThrottle,
    /// Throttles the log of removals that are not remembered.
    pub(in crate::manager) forgotten: LogThrottle,
    pub(in crate::manager) control: Control,
}

impl Backend {
    pub(in crate::manager) fn new(
        new: NewBackend,
        place: usize,
        put_budget_bytes: usize,
        sealer: Sealer,
        removal_generation: Arc<AtomicU64>,
        flights: Arc<Flights>,
        control: Control,
    ) -> Self {
        Self {
            name: new.name,
            place,
            removal_generation,
            tier: RwLock::new(new.tier),
            factory: new.factory,
            breakers: new.breakers,
            owed: Owed::default(),
            damaged: DamagedRemovals::default(),
            bypassed: AtomicBool::new(false),
            recreating: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            queue: PutQueue::new(put_budget_bytes),
            flights,
            shared_lookups: SharedLookups::default(),
            n_bytes_moving: AtomicUsize::new(0),
            pins: Mutex::default(),
            has_no_pins: AtomicBool::new(false),
            has_no_presence: AtomicBool::new(false),
            metrics: TierMetrics::default(),
            sealer,
            refusals: LogThrottle::new(Clock::system()),
            forgotten: LogThrottle::new(Clock::system()),
            control,
        }
    }

    pub(in crate::manager) fn tier(&self) -> Arc<dyn Tier> {
        Arc::clone(&read(&self.tier))
    }

    pub(in crate::manager) fn is_bypassed(&self) -> bool {
        self.bypassed.load(Ordering::Relaxed) || self.recreating.load(Ordering::Relaxed)
    }

    pub(in crate::manager) fn set_bypassed(&self, bypassed: bool) {
        self.bypassed.store(bypassed, Ordering::Relaxed);
    }

    /// Runs one call and counts its latency and its error.
    pub(in crate::manager) async fn counted<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, TierError>>,
    ) -> Result<T, TierError> {
        let started = Instant::now();
        let outcome = call.await;
        self.metrics.took(operation, started.elapsed());
        if let Err(error) = &outcome {
            self.metrics.error(operation, error);
            tracing::debug!(backend = %self.name, operation = operation.name(), %error, "call failed");
        }
        outcome
    }

    /// Reports a call to its breaker, and to the tier if the chain skips it from now on.
    pub(in crate::manager) fn report(&self, permit: Permit<'_>, outcome: CallOutcome) {
        if let Some(pause) = permit.report(outcome) {
            self.tier().skipped_for(pause);
        }
    }

    /// Like [`Backend::report`]. Does nothing if the call was reported before.
    pub(in crate::manager) fn report_owned(&self, permit: Option<OwnedPermit>, outcome: CallOutcome) {
        if let Some(pause) = permit.and_then(|permit| permit.report(outcome)) {
            self.tier().skipped_for(pause);
        }
    }

    /// Prevents later operations from joining the lookups that are under way now, and the fetches of `keys` (or of all
    /// keys). Called when something was stored or removed, which later operations must see.
    pub(in crate::manager) fn invalidate_in_flight(&self, keys: Option<&[ChunkKey]>) {
        self.flights.invalidate(self.place, keys);
        self.shared_lookups.invalidate();
    }
}

/// Refuses a count that exceeds the number of requested chunks. A component's count has been checked; a native tier's
/// has not.
pub(in crate::manager) fn within(
    method: &str,
    n_chunks: usize,
    keys: &[ChunkKey],
) -> Result<usize, TierError> {
    if n_chunks <= keys.len() {
        return Ok(n_chunks);
    }
    Err(TierError::count_too_large(method, n_chunks, keys.len()))
}
