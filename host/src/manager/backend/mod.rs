//! One backend in the chain: a tier with its put queue, its pins, its counters and its switch.

mod admit;
mod contains;
mod fetch;
mod owed;
mod pins;
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
use self::owed::Owed;
use self::queue::PutQueue;
pub use self::recreate::RecreateError;
pub use self::store::Offer;
use super::NewBackend;
use super::breaker::{Breakers, Health, OwnedPermit, Permit};
use super::flights::Flights;
use crate::clock::Clock;
use crate::integrity::Sealer;
use crate::key::ChunkKey;
use crate::metrics::{Operation, TierMetrics};
use crate::repeats::Repeats;
use crate::runtime::Control;
use crate::sync::read;
use crate::tier::{Liveness, Tier, TierError};

/// Makes a backend's tier anew, for [`super::StorageManager::recreate`].
pub(crate) type TierFactory = Arc<dyn Fn(Arc<dyn Liveness>) -> MadeTier + Send + Sync>;
/// The new tier, once it has started or failed to.
pub(crate) type MadeTier = Pin<Box<dyn Future<Output = (Arc<dyn Tier>, Result<(), String>)> + Send>>;

pub(in crate::manager) struct Backend {
    pub(in crate::manager) name: String,
    /// Its place among the backends.
    pub(in crate::manager) place: usize,
    /// Counts removals over the whole chain: what backends are known to have holds until the next one.
    pub(in crate::manager) removal_generation: Arc<AtomicU64>,
    tier: RwLock<Arc<dyn Tier>>,
    factory: Option<TierFactory>,
    pub(in crate::manager) breakers: Arc<Breakers>,
    pub(in crate::manager) owed: Owed,
    bypassed: AtomicBool,
    /// Out of the chain while it is made anew.
    recreating: AtomicBool,
    /// No tier is put in place any more. Set under the lock of `tier`.
    closed: AtomicBool,
    pub(in crate::manager) queue: PutQueue,
    /// Chunks of the whole chain that are on their way.
    flights: Arc<Flights>,
    pub(in crate::manager) shared_lookups: SharedLookups,
    /// What fetches in flight move.
    pub(in crate::manager) n_bytes_moving: AtomicUsize,
    /// How many lookups hold each key; the tier hears the first and the last.
    pins: Mutex<HashMap<ChunkKey, u32>>,
    /// The tier has answered that pins protect nothing.
    has_no_pins: AtomicBool,
    pub(in crate::manager) metrics: TierMetrics,
    pub(in crate::manager) sealer: Sealer,
    /// Of chunks whose bytes were refused.
    pub(in crate::manager) refusals: Repeats,
    /// Of removals that are not remembered.
    pub(in crate::manager) forgotten: Repeats,
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
            bypassed: AtomicBool::new(false),
            recreating: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            queue: PutQueue::new(put_budget_bytes),
            flights,
            shared_lookups: SharedLookups::default(),
            n_bytes_moving: AtomicUsize::new(0),
            pins: Mutex::default(),
            has_no_pins: AtomicBool::new(false),
            metrics: TierMetrics::default(),
            sealer,
            refusals: Repeats::new(Clock::system()),
            forgotten: Repeats::new(Clock::system()),
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
            self.metrics.error(operation, error.kind());
            tracing::debug!(backend = %self.name, operation = operation.name(), %error, "call failed");
        }
        outcome
    }

    /// Tells the breaker what a call says of the tier, and the tier if it is passed over from here on.
    pub(in crate::manager) fn settle(&self, permit: Permit<'_>, health: Health) {
        if let Some(pause) = permit.settle(health) {
            self.tier().passed_over(pause);
        }
    }

    /// As [`Backend::settle`], unless somebody has done so.
    pub(in crate::manager) fn settle_owned(&self, permit: Option<OwnedPermit>, health: Health) {
        if let Some(pause) = permit.and_then(|permit| permit.settle(health)) {
            self.tier().passed_over(pause);
        }
    }

    /// Has nobody join what is on its way at this moment: lookups, and fetches of `keys`, or all. For when something was
    /// stored or removed: who asks afterwards must find it so.
    pub(in crate::manager) fn forget_on_the_way(&self, keys: Option<&[ChunkKey]>) {
        self.flights.forget(self.place, keys);
        self.shared_lookups.forget();
    }
}

/// Refuses a count of more chunks than were asked for.
pub(in crate::manager) fn within(n_chunks: usize, keys: &[ChunkKey]) -> Result<usize, TierError> {
    if n_chunks <= keys.len() {
        return Ok(n_chunks);
    }
    Err(TierError::BadAnswer(format!("a count of {n_chunks} for {} keys", keys.len())))
}
