//! The storage manager: the CPU tier and the backends behind it, as one chain.
//!
//! Works on keys. Operations that the CPU tier can answer alone touch no executor and no guest; what goes
//! to a backend is awaited on the caller's own executor, or on none, with deadlines kept elsewhere.
//!
//! Invariants: an answer never depends on whether a backend returns; a chunk from a backend is handed out
//! only after it was verified; the order of tiers is the configuration's.

mod backend;
mod breaker;
mod fetched;
mod fetching;
mod flights;
mod lookup;
mod pins;
mod retrieve;
mod select;
mod store;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures::future::{join_all, select};
use tokio::sync::Notify;

pub(crate) use backend::{MadeTier, TierFactory};
pub use backend::{Offer, RecreateError};
pub use breaker::{BreakerState, BreakerStatus};
pub(crate) use breaker::{Breakers, Direction};
pub use fetched::Miss;
pub use lookup::{Lookup, Served};
pub use retrieve::Retrieved;
pub use select::{CPU_TIER, TierIndex, Tiers};
pub use store::{Allocation, Stored};

use self::backend::Backend;
use self::flights::Flights;
use self::pins::{Held, Ledger};
use crate::clock::Clock;
use crate::config::OnFull;
use crate::cpu::{Cleared, CpuStats, CpuTier};
use crate::integrity::Sealer;
use crate::key::ChunkKey;
use crate::limits::{PUT_BATCHES_IN_FLIGHT, PUT_POOL_DIVISOR};
use crate::metrics::{self, Operation, TierCounts, TierMetrics};
use crate::runtime::{Control, anywhere};
use crate::sync::lock;
use crate::tier::{Tier, TierError, TierHealth};

/// How a chain behaves.
#[derive(Clone, Debug)]
pub(crate) struct ManagerOptions {
    pub(crate) lookup_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) pin_timeout: Duration,
    pub(crate) on_full: OnFull,
    pub(crate) skip_save: bool,
    pub(crate) clock: Clock,
    pub(crate) sealer: Sealer,
}

/// A backend to be put into a chain.
pub(crate) struct NewBackend {
    pub(crate) name: String,
    pub(crate) tier: Arc<dyn Tier>,
    pub(crate) factory: Option<TierFactory>,
    pub(crate) breakers: Arc<Breakers>,
}

/// A release of pins that goes on whether it is awaited or not.
type Release = tokio::task::JoinHandle<()>;

/// The chain of tiers. Cloning shares it.
#[derive(Clone)]
pub struct StorageManager(Arc<Inner>);

struct Inner {
    // Dropped first: backends may hold buffers of the CPU tier's memory.
    backends: Vec<Arc<Backend>>,
    flights: Arc<Flights>,
    ledger: Mutex<Ledger>,
    /// The ledger has its first entry, or is gone.
    pinned: Arc<Notify>,
    options: ManagerOptions,
    cpu_metrics: TierMetrics,
    /// Counts removals over the whole chain.
    removals: Arc<AtomicU64>,
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
        let share = cpu.provider().capacity_bytes() as u64 / PUT_POOL_DIVISOR;
        let budget = share as usize / backends.len().max(1);
        let removals = Arc::new(AtomicU64::new(0));
        let flights = Arc::<Flights>::default();
        let make = |(place, new): (usize, NewBackend)| {
            let (sealer, flights) = (options.sealer.clone(), Arc::clone(&flights));
            Arc::new(Backend::new(
                new,
                place,
                budget,
                sealer,
                Arc::clone(&removals),
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
            removals,
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

    /// Returns the CPU tier, for what concerns only it.
    pub fn cpu(&self) -> &CpuTier {
        &self.0.cpu
    }

    /// Returns how long an operation may take that names no deadline of its own.
    pub fn timeout(&self) -> Duration {
        self.0.options.timeout
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.options.timeout
    }

    /// Reports whether a `fork` has left the backends with the parent: they answer nothing here.
    pub(crate) fn is_left_behind(&self) -> bool {
        self.0.control.is_left_behind()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.0.ledger)
    }

    /// The backends that an operation may use, with their places in the chain.
    fn backends<'a>(&'a self, tiers: &'a Tiers) -> impl Iterator<Item = (TierIndex, &'a Arc<Backend>)> {
        let open = !self.0.closed.load(Ordering::Acquire);
        let all = self.0.backends.iter().enumerate();
        all.filter(move |(_, backend)| open && !backend.is_bypassed() && tiers.includes(&backend.name))
            .map(|(index, backend)| (TierIndex(index + 1), backend))
    }

    fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.0.backends.iter().find(|backend| backend.name == name)
    }

    /// Releases what `lookup_id` has pinned, in the tiers where it did. The second time nothing happens.
    ///
    /// # Cancellation
    /// The release goes on.
    pub async fn unpin(&self, lookup_id: &str) {
        let held = self.ledger().release(lookup_id);
        anywhere(join_all(self.release(held))).await;
    }

    /// Releases the pins whose time is over. Runs by itself when that is so.
    pub async fn expire_pins(&self) {
        anywhere(join_all(self.release_expired())).await;
    }

    pub(super) fn release_expired(&self) -> Vec<Release> {
        // Under the lock, so that who finds nothing expired finds it released.
        let mut ledger = self.ledger();
        let expired = ledger.expire(self.0.options.clock.now());
        let n_lookups = expired.len();
        let releases = self.release(expired);
        drop(ledger);
        if n_lookups > 0 {
            self.0.cpu_metrics.pins_expired.fetch_add(n_lookups as u64, Ordering::Relaxed);
            tracing::warn!(n_lookups, "pins expired without unpin");
        }
        releases
    }

    /// Notes what a lookup holds from now on.
    fn hold(&self, lookup_id: &str, held: Held) {
        let options = &self.0.options;
        let expiry = options.clock.now() + options.pin_timeout;
        let (surplus, is_first) = {
            let mut ledger = self.ledger();
            let is_first = ledger.next_expiry().is_none();
            (ledger.hold(lookup_id, held, expiry), is_first)
        };
        if is_first {
            self.0.pinned.notify_one();
        }
        drop(self.release(surplus));
    }

    /// Releases pins as their time comes, until the chain is gone. Later pins expire later, so the next moment changes
    /// only when there was none.
    async fn expire_in_time(chain: Weak<Inner>, clock: Clock, pinned: Arc<Notify>) {
        loop {
            let Some(inner) = chain.upgrade() else { return };
            let next = lock(&inner.ledger).next_expiry();
            drop(inner);
            match next {
                None => pinned.notified().await,
                Some(moment) => {
                    select(pin!(clock.past(moment)), pin!(pinned.notified())).await;
                }
            }
            let Some(inner) = chain.upgrade() else { return };
            drop(Self(inner).release_expired());
        }
    }

    /// Releases pins: in the CPU tier at once, in backends in the background, so that no caller waits for them
    /// who does not want to.
    fn release(&self, held: impl IntoIterator<Item = Held>) -> Vec<Release> {
        let deadline = self.deadline();
        let mut releases = Vec::new();
        let mut is_left_behind = None;
        for (tier, keys) in held.into_iter().flat_map(|held| held.0) {
            let Some(index) = tier.0.checked_sub(1) else {
                self.0.cpu.unpin(&keys);
                continue;
            };
            if *is_left_behind.get_or_insert_with(|| self.is_left_behind()) {
                // What the parent has pinned, it unpins.
                continue;
            }
            let backend = Arc::clone(&self.0.backends[index]);
            releases.push(self.0.control.handle().spawn(async move {
                if let Err(error) = backend.unpin(&keys, deadline).await {
                    tracing::debug!(backend = %backend.name, %error, "unpin failed");
                }
            }));
        }
        releases
    }

    /// Removes `keys` from the chosen tiers, pinned or not, and returns how many were present, summed over
    /// the tiers. Puts of them that are queued are cancelled; those in flight are waited for. A backend whose
    /// breaker of writing is open is told in the background, and serves nothing until it has answered; here it is an error.
    ///
    /// # Cancellation
    /// The removal goes on: pins that were forgotten here must be forgotten by the backends as well.
    ///
    /// # Errors
    /// The first tier's that could not tell; the others have been asked all the same.
    pub async fn remove(&self, keys: &[ChunkKey], tiers: &Tiers) -> Result<usize, RemoveError> {
        let deadline = self.deadline();
        let started = Instant::now();
        let mut n_removed = 0;
        self.forget_pins(keys, tiers);
        if tiers.includes(CPU_TIER) {
            n_removed += self.0.cpu.remove(keys);
            self.0.cpu_metrics.took(Operation::Remove, started.elapsed());
        }
        // Bypassed tiers too: what is removed must not come back.
        let mut chosen = self.0.backends.iter().filter(|backend| tiers.includes(&backend.name)).peekable();
        if let Some(first) = chosen.peek()
            && self.is_left_behind()
        {
            return Err(RemoveError { tier: first.name.clone(), n_removed, error: TierError::Forked });
        }
        let removals = chosen.map(|backend| {
            // At once: none of these may start now.
            let cancelled = backend.cancel_puts(Some(keys));
            let (removed, keys) = (Arc::clone(backend), Arc::<[ChunkKey]>::from(keys));
            let removal = async move { removed.remove(&keys, cancelled, deadline).await };
            let removing = self.0.control.handle().spawn(removal);
            async move { (backend, removing.await) }
        });
        let mut failed = None;
        for (backend, outcome) in anywhere(join_all(removals)).await {
            // What was begun before this returns is not for those who ask afterwards.
            backend.forget_on_the_way(Some(keys));
            let outcome = outcome.unwrap_or_else(|_| Err(TierError::Down("the engine is closed".into())));
            match outcome {
                Ok(n) => n_removed += n,
                Err(error) => {
                    failed.get_or_insert(RemoveError { tier: backend.name.clone(), n_removed: 0, error });
                }
            }
        }
        match failed {
            None => Ok(n_removed),
            Some(failed) => Err(RemoveError { n_removed, ..failed }),
        }
    }

    /// Takes `keys` out of the ledger, before the tiers drop their pins.
    fn forget_pins(&self, keys: &[ChunkKey], tiers: &Tiers) {
        let mut ledger = self.ledger();
        if ledger.len() > 0 {
            let keys: HashSet<ChunkKey> = keys.iter().copied().collect();
            for (index, name) in self.tier_names().into_iter().enumerate() {
                if tiers.includes(name) {
                    ledger.forget(TierIndex(index), Some(&keys));
                }
            }
        }
    }

    /// Empties the chosen tiers as far as they can be emptied: the CPU tier of what is neither pinned nor
    /// being read; of backends, the queued puts. Puts in flight are waited for.
    pub async fn clear(&self, tiers: &Tiers) -> ClearReport {
        let deadline = self.deadline();
        let mut report = ClearReport::default();
        let chosen = self.0.backends.iter().filter(|backend| tiers.includes(&backend.name));
        let cancelled: Vec<_> = chosen.map(|backend| (backend, backend.cancel_puts(None))).collect();
        for (backend, cancelled) in cancelled {
            report.puts_cancelled += cancelled.n_chunks;
            report.skipped.push(backend.name.clone());
            anywhere(backend.drained(Some(&cancelled.in_flight), deadline)).await;
            backend.forget_on_the_way(None);
        }
        // Last, because what waits to be stored or is being stored is being read.
        if tiers.includes(CPU_TIER) {
            report.cpu = self.0.cpu.clear();
        }
        report
    }

    /// Waits until every queued put has been stored or has failed.
    ///
    /// # Errors
    /// [`FlushError`] when the deadline passes first.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.flush_until(self.deadline()).await
    }

    /// As [`StorageManager::flush`], until `deadline`.
    ///
    /// # Errors
    /// [`FlushError`]
    pub async fn flush_until(&self, deadline: Instant) -> Result<(), FlushError> {
        let mut pending = Vec::new();
        for backend in &self.0.backends {
            if !anywhere(backend.drained(None, deadline)).await {
                let (n_chunks, _) = backend.queue.pending();
                pending.push((backend.name.clone(), n_chunks));
            }
        }
        if pending.is_empty() { Ok(()) } else { Err(FlushError { pending }) }
    }

    /// Turns the hot cache on or off. Off empties it; chunks in use leave it when they are released.
    pub fn set_hot_cache(&self, on: bool) {
        self.0.cpu.set_hot_cache(on);
    }

    /// Takes a backend out of the chain, or puts it back in. While it is out no put, get or lookup reaches
    /// it; its queued puts go on.
    ///
    /// # Errors
    /// [`RecreateError::Unknown`]
    pub fn bypass(&self, name: &str, bypassed: bool) -> Result<(), RecreateError> {
        let backend = self.backend(name).ok_or_else(|| RecreateError::Unknown(name.into()))?;
        backend.set_bypassed(bypassed);
        Ok(())
    }

    /// Closes a backend and makes it anew from its configuration, in the same place of the chain.
    ///
    /// # Cancellation
    /// The backend is made anew all the same.
    ///
    /// # Errors
    /// [`RecreateError`]
    pub async fn recreate(&self, name: &str) -> Result<(), RecreateError> {
        let place = self.0.backends.iter().position(|backend| backend.name == name);
        let place = place.ok_or_else(|| RecreateError::Unknown(name.into()))?;
        if self.0.closed.load(Ordering::Acquire) {
            return Err(RecreateError::Closed);
        }
        if self.is_left_behind() {
            return Err(RecreateError::Forked);
        }
        let backend = &self.0.backends[place];
        if backend.can_be_recreated() {
            // The pins go with the old instance.
            self.ledger().forget(TierIndex(place + 1), None);
        }
        let (backend, limit) = (Arc::clone(backend), self.0.options.close_timeout);
        let recreating = self.0.control.handle().spawn(async move { backend.recreate(limit).await });
        anywhere(recreating).await.unwrap_or(Err(RecreateError::Interrupted))
    }

    /// Says how every tier is.
    pub fn status(&self) -> Status {
        let backends = self.0.backends.iter().map(|backend| {
            let (puts_pending, put_bytes_pending) = backend.queue.pending();
            BackendStatus {
                name: backend.name.clone(),
                bypassed: backend.is_bypassed(),
                puts_pending,
                put_bytes_pending,
                pinned_keys: backend.n_pinned(),
                removals_owed: backend.owed.len(),
                reading: backend.breakers.reading.status(),
                writing: backend.breakers.writing.status(),
                health: backend.tier().health(),
            }
        });
        Status {
            hot_cache: self.0.cpu.is_hot(),
            cpu: self.0.cpu.stats(),
            lookups_pinned: self.ledger().len(),
            backends: backends.collect(),
        }
    }

    /// Returns what every tier has counted, in the chain's order.
    pub fn counts(&self) -> Vec<TierCounts> {
        let mut cpu = self.0.cpu_metrics.snapshot(CPU_TIER);
        cpu.evictions = self.0.cpu.stats().evictions.pressure;
        let backends = self.0.backends.iter().map(|backend| {
            let mut counts = backend.metrics.snapshot(&backend.name);
            let health = backend.tier().health();
            counts.lane_restarts = health.lane_restarts;
            counts.guest_memory_bytes = health.guest_memory_bytes;
            counts.host_memory_bytes = health.host_memory_bytes;
            counts.is_up = health.down.is_none();
            counts.reading = backend.breakers.reading.status().counts();
            counts.writing = backend.breakers.writing.status().counts();
            counts
        });
        std::iter::once(cpu).chain(backends).collect()
    }

    /// Returns all counters and latencies as Prometheus text.
    pub fn metrics(&self) -> String {
        metrics::prometheus(&self.counts())
    }

    /// Stores what is queued and closes the backends, the last of the chain first, each within the close
    /// limit; then the CPU tier. A backend that fails or hangs does not stop the others.
    ///
    /// # Errors
    /// [`CloseError`] names those that did not close cleanly. The chain is closed all the same.
    ///
    /// # Cancellation
    /// Closing goes on; calling it again waits for its end and gives its outcome.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.0.closed.store(true, Ordering::Release);
        if self.is_left_behind() {
            self.0.cpu.close();
            let failed = self.0.backends.iter().map(|backend| (backend.name.clone(), TierError::Forked));
            let failed: Vec<_> = failed.collect();
            return if failed.is_empty() { Ok(()) } else { Err(CloseError { failed }) };
        }
        let closing = self.0.closing.get_or_init(|| {
            let this = self.clone();
            let (done, outcome) = tokio::sync::watch::channel(None);
            self.0.control.handle().spawn(async move {
                let closed = this.close_tiers().await;
                done.send_replace(Some(closed));
            });
            outcome
        });
        let mut closing = closing.clone();
        // The sender is dropped unsent only if the threads are gone, and the tiers with them.
        anywhere(closing.wait_for(Option::is_some))
            .await
            .map_or(Ok(()), |outcome| outcome.clone().unwrap_or(Ok(())))
    }

    async fn close_tiers(&self) -> Result<(), CloseError> {
        drop(self.ledger().drain());
        let mut failed = Vec::new();
        for backend in self.0.backends.iter().rev() {
            let limit = self.0.options.close_timeout;
            let closed = self.0.control.until(Instant::now() + limit * 2, backend.close(limit)).await;
            match closed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push((backend.name.clone(), error)),
                Err(_) => failed.push((backend.name.clone(), TierError::Timeout(limit * 2))),
            }
        }
        self.0.cpu.close();
        if failed.is_empty() { Ok(()) } else { Err(CloseError { failed }) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.control.is_left_behind() {
            // Lanes, files and connections are the parent's; closing them here would disturb it.
            return std::mem::forget(std::mem::take(&mut self.backends));
        }
        self.pinned.notify_one();
        // Ends the workers of a chain that was dropped without `close`.
        for backend in &self.backends {
            backend.queue.cancel(None);
            backend.queue.close();
        }
    }
}

impl std::fmt::Debug for StorageManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageManager").field("tiers", &self.tier_names()).finish_non_exhaustive()
    }
}

/// How a chain is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Whether the CPU tier keeps chunks.
    pub hot_cache: bool,
    /// The CPU tier's state.
    pub cpu: CpuStats,
    /// Lookups that hold pins.
    pub lookups_pinned: usize,
    /// The backends in the chain's order.
    pub backends: Vec<BackendStatus>,
}

/// How a backend is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Whether it is taken out of the chain.
    pub bypassed: bool,
    /// Chunks queued or being stored.
    pub puts_pending: usize,
    /// Memory that they hold, in bytes.
    pub put_bytes_pending: usize,
    /// Keys that lookups hold.
    pub pinned_keys: usize,
    /// Chunks that it is still to be told to remove. It serves nothing until it has been.
    pub removals_owed: usize,
    /// Whether it is passed over by lookups and retrievals because `contains`, `get`, `pin` or `unpin` fail.
    pub reading: BreakerStatus,
    /// Whether it is passed over by stores because `put` or `remove` fail.
    pub writing: BreakerStatus,
    /// What the tier says of itself.
    pub health: TierHealth,
}

/// What [`StorageManager::clear`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClearReport {
    /// What left the CPU tier.
    pub cpu: Cleared,
    /// Queued puts that were cancelled, over all backends.
    pub puts_cancelled: usize,
    /// Backends whose stored chunks stay, because the contract has no `clear`.
    pub skipped: Vec<String>,
}

/// A tier could not say what it removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tier `{tier}` could not remove: {error}; {n_removed} were removed elsewhere")]
#[non_exhaustive]
pub struct RemoveError {
    /// The tier.
    pub tier: String,
    /// Chunks removed from the other tiers.
    pub n_removed: usize,
    /// Its error.
    #[source]
    pub error: TierError,
}

/// Puts were still pending when the time was over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("puts are still pending: {}", pending.iter().map(|(name, n)| format!("{n} chunks for `{name}`")).collect::<Vec<_>>().join(", "))]
#[non_exhaustive]
pub struct FlushError {
    /// Backends with the number of their pending chunks.
    pub pending: Vec<(String, usize)>,
}

/// Backends did not close cleanly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not closed cleanly: {}", failed.iter().map(|(name, error)| format!("`{name}`: {error}")).collect::<Vec<_>>().join(", "))]
#[non_exhaustive]
pub struct CloseError {
    /// Backends with their errors.
    pub failed: Vec<(String, TierError)>,
}
