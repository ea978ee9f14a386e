//! One backend in the chain: a tier with its put queue, its pins, its counters and its switch.

mod contains;
mod fetch;
mod owed;
mod queue;

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use self::contains::Questions;
use self::owed::Owed;
use self::queue::{Batch, Cancelled, Offered, PutQueue};
use super::NewBackend;
use super::breaker::{Breakers, Direction, OwnedPermit, Permit, Verdict};
use super::flights::Flights;
use crate::chunk::Chunk;
use crate::clock::Clock;
use crate::integrity::Sealer;
use crate::key::ChunkKey;
use crate::metrics::{Operation, TierMetrics};
use crate::repeats::Repeats;
use crate::runtime::Control;
use crate::sync::{lock, read, write};
use crate::tier::{Liveness, Pinning, Tier, TierError};
use crate::transfer::Sources;

/// Makes a backend's tier anew, for [`super::StorageManager::recreate`].
pub(crate) type TierFactory = Arc<dyn Fn(Arc<dyn Liveness>) -> MadeTier + Send + Sync>;
/// The new tier, once it has started or failed to.
pub(crate) type MadeTier = Pin<Box<dyn Future<Output = (Arc<dyn Tier>, Result<(), String>)> + Send>>;

pub(in crate::manager) struct Backend {
    pub(in crate::manager) name: String,
    /// Its place among the backends.
    pub(in crate::manager) place: usize,
    /// Counts removals over the whole chain: what backends are known to have holds until the next one.
    pub(in crate::manager) removals: Arc<AtomicU64>,
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
    pub(in crate::manager) questions: Questions,
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
        removals: Arc<AtomicU64>,
        flights: Arc<Flights>,
        control: Control,
    ) -> Self {
        Self {
            name: new.name,
            place,
            removals,
            tier: RwLock::new(new.tier),
            factory: new.factory,
            breakers: new.breakers,
            owed: Owed::default(),
            bypassed: AtomicBool::new(false),
            recreating: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            queue: PutQueue::new(put_budget_bytes),
            flights,
            questions: Questions::default(),
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
    pub(in crate::manager) fn settle(&self, permit: Permit<'_>, verdict: Verdict) {
        if let Some(pause) = permit.settle(verdict) {
            self.tier().passed_over(pause);
        }
    }

    /// As [`Backend::settle`], unless somebody has done so.
    pub(in crate::manager) fn settle_owned(&self, permit: Option<OwnedPermit>, verdict: Verdict) {
        if let Some(pause) = permit.and_then(|permit| permit.settle(verdict)) {
            self.tier().passed_over(pause);
        }
    }

    /// Counts the leading run, and pins it if asked, as far as the breaker lets the tier work.
    pub(in crate::manager) async fn contains(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        pinning: Pinning,
        deadline: Instant,
    ) -> Result<usize, TierError> {
        if self.control.is_left_behind() {
            self.metrics.error(Operation::Contains, TierError::Forked.kind());
            return Err(TierError::Forked);
        }
        if pinning == Pinning::None {
            return self.count_together(keys, deadline).await;
        }
        let permit = self.admit(Direction::Reading, keys.iter().copied()).ok_or(TierError::BreakerOpen)?;
        let outcome = self.count_and_pin(keys, deadline).await;
        self.settle(permit, Verdict::of(&outcome));
        outcome
    }

    async fn count(&self, keys: &[ChunkKey], deadline: Instant) -> Result<usize, TierError> {
        let tier = self.tier();
        let call = async { within(tier.contains(keys.into(), Pinning::None, deadline).await?, keys) };
        self.counted(Operation::Contains, call).await
    }

    /// The tier is asked to pin only what nobody holds yet.
    async fn count_and_pin(&self, keys: &[ChunkKey], deadline: Instant) -> Result<usize, TierError> {
        let tier = self.tier();
        let held = |key: &ChunkKey| self.lock_pins().contains_key(key);
        let n_run = if keys.iter().any(held) {
            let n_present = self.count(keys, deadline).await?;
            let fresh: Vec<usize> = (0..n_present).filter(|&index| !held(&keys[index])).collect();
            let fresh_keys: Arc<[ChunkKey]> = fresh.iter().map(|&index| keys[index]).collect();
            if fresh.is_empty() {
                n_present
            } else {
                let mut doubt = PinDoubt { backend: self, keys: Some(Arc::clone(&fresh_keys)) };
                let call = async {
                    match tier.pin(Arc::clone(&fresh_keys), deadline).await {
                        // It never evicts, or cannot protect: as good as pinned.
                        Err(TierError::Unsupported) => {
                            self.has_no_pins.store(true, Ordering::Relaxed);
                            Ok(fresh.len())
                        }
                        other => within(other?, &fresh_keys),
                    }
                };
                let n_pinned = self.counted(Operation::Contains, call).await?;
                doubt.keys = None;
                fresh.get(n_pinned).copied().unwrap_or(n_present)
            }
        } else {
            let mut doubt = PinDoubt { backend: self, keys: Some(keys.into()) };
            let call = async { within(tier.contains(keys.into(), Pinning::Pin, deadline).await?, keys) };
            let n_run = self.counted(Operation::Contains, call).await?;
            doubt.keys = None;
            n_run
        };
        let mut pins = self.lock_pins();
        for key in &keys[..n_run] {
            *pins.entry(*key).or_default() += 1;
        }
        Ok(n_run)
    }

    /// Gives up one hold on each key; the tier hears of those that nobody holds any more.
    pub(in crate::manager) async fn unpin(
        &self,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Result<(), TierError> {
        let mut free = Vec::new();
        {
            let mut pins = self.lock_pins();
            for key in keys {
                match pins.get_mut(key) {
                    Some(n) if *n > 1 => *n -= 1,
                    Some(_) => {
                        pins.remove(key);
                        free.push(*key);
                    }
                    None => {}
                }
            }
        }
        if free.is_empty() {
            return Ok(());
        }
        let Some(permit) = self.breakers.reading.admit() else {
            // The tier hears of it if it can; nobody waits for one that fails.
            self.unpin_later(&free);
            return Ok(());
        };
        let outcome = self.tier().unpin(free.into(), deadline).await;
        self.settle(permit, Verdict::of(&outcome));
        match outcome {
            Ok(_) => Ok(()),
            Err(TierError::Unsupported) => {
                self.has_no_pins.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn unpin_later(&self, keys: &[ChunkKey]) {
        let pins = self.lock_pins();
        let keys: Arc<[ChunkKey]> = keys.iter().copied().filter(|key| !pins.contains_key(key)).collect();
        drop(pins);
        let tier = self.tier();
        self.control.handle().spawn(async move {
            let deadline = Instant::now() + tier.call_limit(0);
            if let Err(error) = tier.unpin(keys, deadline).await {
                tracing::debug!(%error, "unpin after a failed lookup failed");
            }
        });
    }

    pub(in crate::manager) fn lock_pins(&self) -> std::sync::MutexGuard<'_, HashMap<ChunkKey, u32>> {
        lock(&self.pins)
    }

    /// Reports whether the tier is bound to keep a chunk, because a lookup has pinned it.
    pub(in crate::manager) fn protects(&self, key: ChunkKey) -> bool {
        !self.has_no_pins.load(Ordering::Relaxed) && self.lock_pins().contains_key(&key)
    }

    pub(in crate::manager) fn n_pinned(&self) -> usize {
        self.lock_pins().len()
    }

    /// Has nobody join what is on its way at this moment: lookups, and fetches of `keys`, or all. For when something was
    /// stored or removed: who asks afterwards must find it so.
    pub(in crate::manager) fn forget_on_the_way(&self, keys: Option<&[ChunkKey]>) {
        self.flights.forget(self.place, keys);
        self.questions.forget();
    }

    /// Queues chunks to be stored; waits for room until `wait_until`, if given. Returns how many were
    /// accepted and how many dropped.
    pub(in crate::manager) async fn offer(&self, chunks: &[Chunk], wait_until: Option<Instant>) -> Offer {
        let mut offer = Offer::default();
        if !self.breakers.writing.is_ready() {
            self.breakers.writing.skip();
            self.drop_passed_over(chunks.len());
            offer.n_dropped = chunks.len();
            return offer;
        }
        if self.control.is_left_behind() {
            self.metrics.drop_puts(TierError::Forked.kind(), chunks.len() as u64);
            offer.n_dropped = chunks.len();
            return offer;
        }
        let removals = self.removals.load(Ordering::Acquire);
        for chunk in chunks {
            if chunk.has_holder(self.place, removals) {
                offer.n_present += 1;
                continue;
            }
            let outcome = loop {
                let settled = self.queue.settled();
                let mut settled = pin!(settled);
                settled.as_mut().enable();
                match (self.queue.offer(chunk), wait_until) {
                    (Offered::Full, Some(deadline)) => {
                        if self.control.until(deadline, settled).await.is_err() {
                            break Offered::Full;
                        }
                    }
                    (outcome, _) => break outcome,
                }
            };
            match outcome {
                Offered::Queued | Offered::Pending => offer.n_queued += 1,
                Offered::Full => {
                    offer.n_dropped += 1;
                    self.metrics.drop_puts("queue_full", 1);
                }
                Offered::Closed => {
                    offer.n_dropped += 1;
                    self.metrics.drop_puts("closed", 1);
                }
            }
        }
        offer
    }

    fn drop_passed_over(&self, n_chunks: usize) {
        self.metrics.drop_puts(TierError::BreakerOpen.kind(), n_chunks as u64);
    }

    /// Stores queued chunks until the queue closes. Several of these run per backend.
    pub(in crate::manager) async fn store_queued(self: &Arc<Self>) {
        while let Some(batch) = self.queue.next(self.tier().batch_chunks_max()).await {
            self.store(&batch).await;
        }
    }

    async fn store(self: &Arc<Self>, batch: &Batch<'_>) {
        if self.breakers.writing.is_ready() {
            // A put comes after the removals that were asked for before it.
            self.settle_removals().await;
        }
        let Some(permit) = self.admit(Direction::Writing, batch.chunks.iter().map(Chunk::key)) else {
            return self.drop_passed_over(batch.chunks.len());
        };
        let n_bytes: usize = batch.chunks.iter().map(|chunk| chunk.len()).sum();
        let keys: Arc<[ChunkKey]> = batch.chunks.iter().map(Chunk::key).collect();
        let sources = Sources::new(batch.chunks.clone(), &self.sealer);
        let tier = self.tier();
        // Batches share the store's speed.
        let (_, n_bytes_pending) = self.queue.pending();
        let deadline = Instant::now() + tier.call_limit(n_bytes.max(n_bytes_pending));
        let removals = self.removals.load(Ordering::Acquire);
        let answer = self.counted(Operation::Put, tier.put(keys, sources.clone(), deadline)).await;
        sources.revoke();
        let answer = answer.and_then(|results| match results.len() {
            n if n == batch.chunks.len() => Ok(results),
            n => {
                let error = TierError::BadAnswer(format!("{n} results"));
                self.metrics.error(Operation::Put, error.kind());
                Err(error)
            }
        });
        self.settle(
            permit,
            match &answer {
                Ok(results) => Verdict::of_chunks(results.iter().map(Verdict::of)),
                Err(error) => Verdict::of_error(error),
            },
        );
        // Also of a call that failed: it may have stored something.
        let keys: Vec<ChunkKey> = batch.chunks.iter().map(Chunk::key).collect();
        self.forget_on_the_way(Some(&keys));
        let Ok(results) = answer else {
            return self.metrics.drop_puts("lost", batch.chunks.len() as u64);
        };
        for (result, chunk) in results.iter().zip(&batch.chunks) {
            match result {
                Ok(()) => {
                    chunk.note_holder(self.place, removals);
                    self.metrics.stored(1, chunk.len() as u64);
                }
                Err(error) => {
                    self.metrics.error(Operation::Put, error.kind());
                    tracing::debug!(backend = %self.name, key = %chunk.key(), %error, "put failed");
                }
            }
        }
    }

    /// Waits until nothing, or nothing of `keys`, is queued or in flight.
    pub(in crate::manager) async fn drained(&self, keys: Option<&[ChunkKey]>, deadline: Instant) -> bool {
        self.wait_for(|| self.queue.is_idle(keys), deadline).await
    }

    async fn wait_for(&self, done: impl Fn() -> bool, deadline: Instant) -> bool {
        loop {
            let settled = self.queue.settled();
            let mut settled = pin!(settled);
            settled.as_mut().enable();
            if done() {
                return true;
            }
            if self.control.until(deadline, settled).await.is_err() {
                return done();
            }
        }
    }

    /// Cancels the queued puts of `keys`, or all.
    pub(in crate::manager) fn cancel_puts(&self, keys: Option<&[ChunkKey]>) -> Cancelled {
        let cancelled = self.queue.cancel(keys);
        self.metrics.drop_puts("removed", cancelled.n_chunks as u64);
        cancelled
    }

    pub(in crate::manager) fn can_be_recreated(&self) -> bool {
        self.factory.is_some()
    }

    /// Closes this tier and puts a new one in its place.
    pub(in crate::manager) async fn recreate(&self, close_limit: Duration) -> Result<(), RecreateError> {
        let Some(factory) = &self.factory else { return Err(RecreateError::NotConfigured) };
        if self.recreating.swap(true, Ordering::AcqRel) {
            return Err(RecreateError::Busy);
        }
        let resume = Resume(self);
        if self.closed.load(Ordering::Acquire) {
            return Err(RecreateError::Closed);
        }
        self.queue.pause(true);
        let deadline = Instant::now() + close_limit;
        self.wait_for(|| self.queue.is_quiet(), deadline).await;
        if let Err(error) = self.tier().close(deadline).await {
            tracing::warn!(backend = %self.name, %error, "backend did not close cleanly");
        }
        let (tier, started) = factory(self.breakers.attach()).await;
        if let Err(unwanted) = self.put_in_place(tier) {
            if let Err(error) = unwanted.close(Instant::now() + close_limit).await {
                tracing::warn!(backend = %self.name, %error, "backend did not close cleanly");
            }
            return Err(RecreateError::Closed);
        }
        // What the old instance had pinned, and perhaps what it had stored, went with it.
        self.removals.fetch_add(1, Ordering::AcqRel);
        self.forget_on_the_way(None);
        self.lock_pins().clear();
        self.has_no_pins.store(false, Ordering::Relaxed);
        drop(resume);
        started.map_err(RecreateError::NotStarted)
    }

    /// Puts a new tier into the place of the old one, or gives it back if the backend has been closed.
    fn put_in_place(&self, tier: Arc<dyn Tier>) -> Result<(), Arc<dyn Tier>> {
        let mut place = write(&self.tier);
        if self.closed.load(Ordering::Acquire) {
            return Err(tier);
        }
        *place = tier;
        Ok(())
    }

    /// Stores what is queued, as far as there is time, then closes the tier. One that is being made anew closes by
    /// itself; that is waited for as long.
    pub(in crate::manager) async fn close(&self, limit: Duration) -> Result<(), TierError> {
        let deadline = Instant::now() + limit;
        {
            let _place = write(&self.tier);
            self.closed.store(true, Ordering::Release);
        }
        self.wait_for(|| !self.recreating.load(Ordering::Acquire), deadline).await;
        if !self.drained(None, deadline).await {
            let left = self.queue.cancel(None);
            self.metrics.drop_puts("closed", left.n_chunks as u64);
        }
        self.queue.close();
        // A tier that hangs while it drains still gets a moment to close.
        self.tier().close(deadline.max(Instant::now() + limit / 4)).await
    }
}

/// A call that may have pinned without saying so: it failed, or its caller left.
struct PinDoubt<'a> {
    backend: &'a Backend,
    /// Taken out when the call has answered.
    keys: Option<Arc<[ChunkKey]>>,
}

impl Drop for PinDoubt<'_> {
    fn drop(&mut self) {
        if let Some(keys) = self.keys.take() {
            self.backend.unpin_later(&keys);
        }
    }
}

/// Puts a backend back to work, also when making it anew was interrupted.
struct Resume<'a>(&'a Backend);

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        self.0.recreating.store(false, Ordering::Release);
        // And tells whoever waits to close the backend.
        self.0.queue.pause(false);
    }
}

/// What became of offered puts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// Chunks that the backend will be asked to store.
    pub n_queued: usize,
    /// Chunks that the backend is known to have.
    pub n_present: usize,
    /// Chunks that were dropped, because the queue was full or the backend is passed over.
    pub n_dropped: usize,
}

/// Why a backend could not be made anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecreateError {
    /// Somebody else is making it anew.
    #[error("the backend is being made anew already")]
    Busy,
    /// The engine is closed, and its backends with it.
    #[error("the engine is closed; build another")]
    Closed,
    /// The process is a fork of the one that has the backend.
    #[error(
        "this process was forked from the one that built the engine, and the backends run there; give the engine up with `Engine::abandon` and build another"
    )]
    Forked,
    /// The engine's threads are gone.
    #[error("the engine was closed meanwhile")]
    Interrupted,
    /// No backend of that name.
    #[error("there is no backend `{0}`")]
    Unknown(String),
    /// The tier was given by the program, which alone can make another.
    #[error("the backend was given by the program, not configured, and cannot be made anew")]
    NotConfigured,
    /// The new one could not be started; it is tried again in the background.
    #[error("the new instance did not start and is tried again in the background: {0}")]
    NotStarted(String),
}

/// Refuses a count of more chunks than were asked for.
pub(in crate::manager) fn within(n_chunks: usize, keys: &[ChunkKey]) -> Result<usize, TierError> {
    if n_chunks <= keys.len() {
        return Ok(n_chunks);
    }
    Err(TierError::BadAnswer(format!("a count of {n_chunks} for {} keys", keys.len())))
}
