//! A class of a component as a tier: lanes behind the trait that the chain knows.

mod bytes_in_flight;
mod close;
mod loading;
mod state;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use self::bytes_in_flight::BytesInFlight;
use self::close::close_lanes;
pub use self::loading::Loading;
use self::state::{Lanes, TierState, load_until_it_works};
use super::lane::{Answer, Call, Lane};
use super::load::{LoadError, LoadRequest};
use super::policy::Denials;
use super::prepared::{BackendShared, EngineFacts};
use super::state::Stores;
use super::state::blocking_files::BlockingFiles;
use super::state::file_work::FileWork;
use super::state::log::BackendLog;
use super::threads::{LaneThreads, holding};
use crate::clock::Clock;
use crate::config::BackendConfig;
use crate::key::ChunkKey;
use crate::limits::SPLICES_MAX;
use crate::runtime::{Control, yield_now};
use crate::sync::lock;
use crate::tier::{Liveness, Pinning, Tier, TierError, TierFuture, TierHealth};
use crate::transfer::{Sinks, Sources};

/// The cause for which a backend is down while its component is compiled.
const BEING_COMPILED: &str = "its component is being compiled";

/// A backend that runs as a WebAssembly component.
pub struct WasmTier {
    config: BackendConfig,
    state: Arc<Mutex<TierState>>,
    /// The bytes that calls in flight move.
    bytes_in_flight: AtomicUsize,
    shared: BackendShared,
    control: Control,
}

impl WasmTier {
    /// Loads a backend and waits until its first instance is open or has failed. A backend that failed is retried in
    /// the background until the tier is closed or dropped; `liveness` is notified whenever it cannot serve.
    pub async fn start(
        config: BackendConfig,
        facts: EngineFacts,
        threads: LaneThreads,
        control: Control,
        liveness: Arc<dyn Liveness>,
    ) -> (Self, Result<(), LoadError>) {
        let (tier, loading) = Self::begin(config, facts, threads, control, liveness);
        (tier, loading.outcome().await)
    }

    /// As [`WasmTier::start`], without waiting.
    pub fn begin(
        mut config: BackendConfig,
        facts: EngineFacts,
        threads: LaneThreads,
        control: Control,
        liveness: Arc<dyn Liveness>,
    ) -> (Self, Loading) {
        let directories = facts.fill(&mut config);
        let shared = BackendShared {
            log: Arc::new(BackendLog::new(&config, Clock::system())),
            blocking_files: Arc::new(BlockingFiles::new(&config.name, Clock::system())),
            denials: Denials::new(&config.name, &config.allow),
            stores: Stores::new(&control),
            held: Arc::default(),
            file_work: FileWork::new(&config.limits),
            splices: Arc::new(Semaphore::new(SPLICES_MAX)),
            backend_threads: Arc::default(),
            owners: Arc::default(),
        };
        holding::note(&config.name, &shared.backend_threads);
        let request = LoadRequest { config, facts, threads, control, shared, liveness, directories };
        let state = Arc::new(Mutex::new(TierState::Down("being loaded".into())));
        let tier = Self {
            config: request.config.clone(),
            state: Arc::clone(&state),
            bytes_in_flight: AtomicUsize::new(0),
            shared: request.shared.clone(),
            control: request.control.clone(),
        };
        let mark_compiling = {
            let (state, liveness) = (Arc::clone(&state), Arc::clone(&request.liveness));
            move || {
                let state = lock(&state);
                if matches!(*state, TierState::Compiling(_)) {
                    // It cannot have come up before: it has no lanes yet.
                    liveness.down(BEING_COMPILED, Duration::ZERO);
                }
            }
        };
        let (sender, loading) = loading::pair(&request.config, mark_compiling);
        let control = request.control.clone();
        control.handle().spawn(load_until_it_works(request, Arc::downgrade(&state), sender));
        (tier, loading)
    }

    async fn call(&self, bytes: usize, call: Call, deadline: Instant) -> Result<Answer, TierError> {
        let lanes = self.lanes()?;
        // Calls share the store's speed, so each gets the time for all bytes that are under way.
        let _counted = BytesInFlight::new(&self.bytes_in_flight, bytes, self.bytes_in_flight_max())
            .ok_or(TierError::Busy)?;
        if bytes > 0 {
            // Calls that begin together, such as the batches of one retrieval, count each other's bytes.
            yield_now().await;
        }
        let limit = self.config.limits.call_timeout_for(self.bytes_in_flight.load(Ordering::Relaxed) as u64);
        let deadline = deadline.min(Instant::now() + limit);
        let idlest = match lanes.all.as_slice() {
            [only] => Some(only),
            several => several.iter().min_by_key(|lane| lane.load()),
        };
        match idlest {
            Some(lane) => lane.call(call, deadline).await,
            None => Err(TierError::Down("no lanes".into())),
        }
    }

    async fn count(&self, n_keys: usize, call: Call, deadline: Instant) -> Result<usize, TierError> {
        let method = call.method();
        match self.call(0, call, deadline).await? {
            Answer::Count(count) if count as usize <= n_keys => Ok(count as usize),
            Answer::Count(count) => Err(TierError::count_too_large(method, count as usize, n_keys)),
            other => Err(mismatch(&other)),
        }
    }

    fn lanes(&self) -> Result<Arc<Lanes>, TierError> {
        match &*lock(&self.state) {
            TierState::Lanes(lanes) => Ok(Arc::clone(lanes)),
            TierState::Down(cause) => Err(TierError::Down(cause.clone())),
            TierState::Compiling(_) => Err(TierError::Down(BEING_COMPILED.into())),
            TierState::Closed => Err(TierError::Down("closed".into())),
        }
    }
}

impl Tier for WasmTier {
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        pinning: Pinning,
        deadline: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>> {
        let n_keys = keys.len();
        Box::pin(self.count(n_keys, Call::Contains(keys, pinning), deadline))
    }

    fn put(
        &self,
        keys: Arc<[ChunkKey]>,
        data: Sources,
        deadline: Instant,
    ) -> TierFuture<'_, Result<Vec<Result<(), TierError>>, TierError>> {
        Box::pin(async move {
            match self.call(data.total_bytes(), Call::Put(keys, data), deadline).await? {
                Answer::Put(results) => Ok(results),
                other => Err(mismatch(&other)),
            }
        })
    }

    fn get(
        &self,
        keys: Arc<[ChunkKey]>,
        into: Sinks,
        deadline: Instant,
    ) -> TierFuture<'_, Result<Vec<Result<Option<u64>, TierError>>, TierError>> {
        Box::pin(async move {
            match self.call(into.total_bytes(), Call::Get(keys, into), deadline).await? {
                Answer::Get(results) => Ok(results),
                other => Err(mismatch(&other)),
            }
        })
    }

    fn present(
        &self,
        keys: Arc<[ChunkKey]>,
        deadline: Instant,
    ) -> TierFuture<'_, Result<Vec<bool>, TierError>> {
        Box::pin(async move {
            match self.call(0, Call::Present(keys), deadline).await? {
                Answer::Present(present) => Ok(present),
                other => Err(mismatch(&other)),
            }
        })
    }

    fn pin(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(self.count(keys.len(), Call::Pin(keys), deadline))
    }

    fn unpin(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(self.count(keys.len(), Call::Unpin(keys), deadline))
    }

    fn remove(&self, keys: Arc<[ChunkKey]>, deadline: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(self.count(keys.len(), Call::Remove(keys), deadline))
    }

    fn close(&self, deadline: Instant) -> TierFuture<'_, Result<(), TierError>> {
        Box::pin(async move {
            let running = std::mem::replace(&mut *lock(&self.state), TierState::Closed);
            let deadline = deadline.min(Instant::now() + self.config.limits.close_timeout);
            let closed = match running {
                TierState::Lanes(lanes) => close_lanes(&lanes, deadline).await,
                TierState::Down(_) => Ok(()),
                // The compiler ends, and with it the thread that waits for it.
                TierState::Compiling(compiler) => {
                    drop(compiler);
                    Ok(())
                }
                TierState::Closed => return Ok(()),
            };
            self.stop_threads(deadline, closed).await
        })
    }

    fn skipped_for(&self, pause: Duration) {
        if let TierState::Lanes(lanes) = &*lock(&self.state) {
            lanes.external.read_again_later(pause);
        }
    }

    fn health(&self) -> TierHealth {
        let mut health = TierHealth {
            instances: self.shared.stores.count(),
            host_memory_bytes: self.shared.held.load(Ordering::Relaxed) + self.shared.file_work.held_bytes(),
            log_lines_dropped: self.shared.log.n_dropped(),
            ..TierHealth::default()
        };
        match &*lock(&self.state) {
            TierState::Closed => health.down = Some("closed".into()),
            TierState::Down(cause) => health.down = Some(cause.clone()),
            TierState::Compiling(_) => health.down = Some(BEING_COMPILED.into()),
            TierState::Lanes(lanes) => lanes.add_to(&mut health),
        }
        health.notes.extend(self.shared.blocking_files.told());
        health.denials = self.shared.denials.count();
        health.last_denial = self.shared.denials.last();
        health.capacity_owner = self.shared.owners.owner();
        health
    }

    fn batch_chunks_max(&self) -> usize {
        self.config.limits.batch_chunks_max
    }

    fn calls_in_flight_max(&self) -> usize {
        match &*lock(&self.state) {
            TierState::Lanes(lanes) => lanes.all.iter().map(Lane::calls_in_flight_max).sum(),
            TierState::Down(_) | TierState::Compiling(_) | TierState::Closed => 1,
        }
    }

    fn bytes_in_flight_max(&self) -> usize {
        usize::try_from(self.config.limits.bytes_in_flight).unwrap_or(usize::MAX)
    }

    fn call_limit(&self, bytes: usize) -> Duration {
        self.config.limits.call_timeout_for(bytes as u64)
    }
}

impl Drop for WasmTier {
    /// Ends the lanes. A backend that is still being loaded does not start.
    fn drop(&mut self) {
        *lock(&self.state) = TierState::Closed;
    }
}

impl std::fmt::Debug for WasmTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmTier").field("name", &self.config.name).finish_non_exhaustive()
    }
}

/// Returns the error for the answer of another method. `lane` pairs methods with answers, so this does not happen.
fn mismatch(answer: &Answer) -> TierError {
    TierError::BadAnswer(format!("the answer of another method: {answer:?}"))
}
