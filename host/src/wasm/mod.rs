//! The WebAssembly tier: a class of a component as a [`Tier`].
//!
//! The only part of the library that names wasmtime. Files are read and compiled in [`component`], classes
//! found and checked in [`class`], methods bound in [`contract`]; a [`lane`] runs one instance in a
//! [`sandbox`], [`host`] is what that instance can call, and [`grants`] where it is refused what it was not
//! granted.

mod class;
mod component;
mod contract;
mod footprint;
mod grants;
mod host;
mod inspect;
mod lane;
mod log;
mod net;
mod review;
mod sandbox;
mod stdio;
mod threads;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use class::{ClassError, ClassReport, MethodReport, kebab};
pub use component::{
    COMPILER_COMMAND, CodeOrigin, Compilation, CompileLimit, Compiled, ComponentError, compile_into_cache,
    compile_one, default_cache_directory, limit_process,
};
pub use inspect::{Inspection, inspect};
pub use net::NetError;
pub use review::{Limit, Pin, Reach, Review, Verdict, review};
pub use threads::{LaneThreads, ThreadsError};
use tokio::runtime::Handle;
use wasmtime::component::{InstancePre, Linker};

use self::class::Class;
use self::contract::types;
use self::grants::{Denials, Secrets, Witness};
use self::lane::{Answer, Call, Lane, Standing};
use self::log::BackendLog;
use self::net::NetPolicy;
use self::sandbox::{Alive, State};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::{BackendConfig, SecretError};
use crate::key::{ChunkKey, Namespace};
use crate::layout::EngineMetadata;
use crate::limits::{RESTART_PAUSE_MAX, RESTART_PAUSE_MIN};
use crate::memory::lock;
use crate::runtime::Control;
use crate::tier::{Liveness, Pinning, Tier, TierError, TierFuture, TierHealth};
use crate::transfer::{Sinks, Sources};

/// The version of the contract that this host serves.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// The packages of which this host offers interfaces to components.
const OFFERED: [&str; 7] = [
    "kvtier:storage",
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// Tells whether this host offers the package of an imported interface.
#[must_use]
pub fn offers(import: &str) -> bool {
    import.split_once('/').is_some_and(|(package, _)| OFFERED.contains(&package))
}

/// What a class's constructor is told of the engine.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    /// The device that chunks are copied to, for instance `cuda:0`, or `cpu`.
    pub dst_device: String,
    /// The engine's metadata.
    pub metadata: EngineMetadata,
    /// The namespace of requests without tags.
    pub namespace: Namespace,
}

/// Why a backend cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The component's file.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The class.
    #[error("component `{}`: {source}", path.display())]
    Class {
        /// The component's file.
        path: PathBuf,
        /// What is wrong with the class.
        source: ClassError,
    },
    /// The component imports what this host does not offer.
    #[error(
        "component `{}` imports `{import}`, which this host does not offer: it offers WASI 0.2 and 0.3 without \
         wasi:http, and kvtier:storage@{CONTRACT_VERSION}; build the component without what needs it{}",
        path.display(),
        if import.starts_with("wasi:http/") { ", and speak HTTP over wasi:sockets" } else { "" }
    )]
    NotOffered {
        /// The component's file.
        path: PathBuf,
        /// The interface.
        import: String,
    },
    /// A secret that the configuration names.
    #[error("secrets.{key}: {source}")]
    Secret {
        /// The key of the configuration.
        key: String,
        /// Why it cannot be had.
        source: SecretError,
    },
    /// A secret that is no text.
    #[error("secrets.{0} is not UTF-8 text, and constructors take text")]
    SecretNotText(String),
    /// A host name in `allow.net`.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The first instance could not be made, constructed or opened.
    #[error("class `{class}` did not start: {cause}")]
    NotStarted {
        /// The class.
        class: String,
        /// What went wrong.
        cause: String,
    },
}

/// A backend's class, linked and checked, ready for any number of instances.
struct Prepared {
    name: String,
    config: BackendConfig,
    class: Class,
    pre: InstancePre<State>,
    limits: LaneLimits,
    net: NetPolicy,
    record: Record,
    secrets: Secrets,
    facts: EngineFacts,
    /// `config.*` and `secrets.*`, resolved.
    settings: Vec<(String, String)>,
    threads: LaneThreads,
    lanes: Handle,
}

/// The limits that a lane enforces.
#[derive(Clone, Copy)]
struct LaneLimits {
    calls_in_flight_max: usize,
    abandoned_calls_max: usize,
    lane_stall: Duration,
    open_timeout: Duration,
}

impl Prepared {
    fn new_store(&self, memory_bytes: Arc<AtomicU64>) -> wasmtime::Result<wasmtime::Store<State>> {
        let log = Arc::clone(&self.record.log);
        let witness = Witness::new(&self.record.denials, &self.secrets);
        let alive = Alive::new(&self.record.stores);
        sandbox::new_store(self.threads.engine(), &self.config, &self.net, log, &witness, memory_bytes, alive)
    }

    fn init(&self) -> types::Init {
        let metadata = &self.facts.metadata;
        types::Init {
            backend_name: self.name.clone(),
            dst_device: self.facts.dst_device.clone(),
            metadata: types::EngineMetadata {
                model_name: metadata.model_name.clone(),
                world_size: metadata.world_size,
                worker_id: metadata.worker_id,
                kv_dtype: metadata.kv_dtype.name().into(),
                kv_shape: metadata.kv_shape.extents().into(),
                chunk_size: metadata.kv_shape.chunk_size() as u32,
            },
            namespace: self.facts.namespace.to_string(),
            config: self.settings.clone(),
        }
    }
}

/// A backend that runs as a WebAssembly component.
pub struct WasmTier {
    config: BackendConfig,
    state: Arc<Mutex<Running>>,
    /// What calls in flight move, in bytes.
    bytes_in_flight: AtomicUsize,
    record: Record,
}

/// What is kept of a backend as long as it is configured, whatever becomes of its instances.
#[derive(Clone)]
struct Record {
    log: Arc<BackendLog>,
    denials: Arc<Denials>,
    /// How many stores exist.
    stores: Arc<AtomicUsize>,
}

/// Bytes that one call moves, counted while it lasts.
struct Moving<'a> {
    in_flight: &'a AtomicUsize,
    bytes: usize,
    /// Those of all calls when this one began, its own included.
    total_bytes: usize,
}

impl<'a> Moving<'a> {
    /// Counts a call in, if it is within `max_bytes` with all others, or is the only one that moves anything.
    fn new(in_flight: &'a AtomicUsize, bytes: usize, max_bytes: usize) -> Option<Self> {
        let add = |others: usize| {
            let total = others.saturating_add(bytes);
            (bytes == 0 || others == 0 || total <= max_bytes).then_some(total)
        };
        let others = in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Self { in_flight, bytes, total_bytes: others + bytes })
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether the backend has been loaded.
enum Running {
    /// Being loaded, or waiting to be tried again, because of the last failure.
    Down(String),
    Lanes(Arc<Lanes>),
    Closed,
}

struct Lanes {
    lanes: Vec<Lane>,
    facts: Vec<(String, String)>,
}

impl WasmTier {
    /// Loads a backend and waits until its first instance is open or has failed. A failed backend is tried
    /// again in the background, until the tier is closed or dropped; `liveness` hears whenever it cannot serve.
    pub async fn start(
        config: BackendConfig,
        facts: EngineFacts,
        threads: LaneThreads,
        control: Control,
        liveness: Arc<dyn Liveness>,
    ) -> (Self, Result<(), LoadError>) {
        let state = Arc::new(Mutex::new(Running::Down("being loaded".into())));
        let record = Record {
            log: Arc::new(BackendLog::new(&config, Clock::system())),
            denials: Denials::new(&config.name, &config.allow),
            stores: Arc::default(),
        };
        let tier = Self {
            config: config.clone(),
            state: Arc::clone(&state),
            bytes_in_flight: AtomicUsize::new(0),
            record: record.clone(),
        };
        let outcome = load(&config, &facts, &threads, &control, &state, &record, &liveness).await;
        // A class that did not start is tried again by its lanes' own supervisors.
        if let Err(error) = &outcome
            && !matches!(error, LoadError::NotStarted { .. })
        {
            let mut backoff = Backoff::new(RESTART_PAUSE_MIN, RESTART_PAUSE_MAX);
            let mut pause = backoff.pause();
            set_down(&state, error, &*liveness, pause);
            let weak = Arc::downgrade(&state);
            control.clone().handle().spawn(async move {
                loop {
                    tokio::time::sleep(pause).await;
                    let Some(state) = weak.upgrade() else { return };
                    if matches!(*lock(&state), Running::Closed) {
                        return;
                    }
                    match load(&config, &facts, &threads, &control, &state, &record, &liveness).await {
                        Ok(()) | Err(LoadError::NotStarted { .. }) => return,
                        Err(error) => {
                            pause = backoff.pause();
                            set_down(&state, &error, &*liveness, pause);
                        }
                    }
                }
            });
        }
        (tier, outcome)
    }

    async fn call(&self, bytes: usize, call: Call, deadline: Instant) -> Result<Answer, TierError> {
        let lanes = self.lanes()?;
        // Calls share the store's speed, so each is given the time of all bytes that are under way.
        let max_bytes = usize::try_from(self.config.limits.bytes_in_flight).unwrap_or(usize::MAX);
        let moving = Moving::new(&self.bytes_in_flight, bytes, max_bytes).ok_or(TierError::Busy)?;
        let limit = self.config.limits.call_timeout_for(moving.total_bytes as u64);
        let deadline = deadline.min(Instant::now() + limit);
        let idlest = lanes.lanes.iter().min_by_key(|lane| lane.load());
        match idlest {
            Some(lane) => lane.call(call, deadline).await,
            None => Err(TierError::Down("no lanes".into())),
        }
    }

    async fn count(&self, n_keys: usize, call: Call, deadline: Instant) -> Result<usize, TierError> {
        match self.call(0, call, deadline).await? {
            Answer::Count(count) if count as usize <= n_keys => Ok(count as usize),
            Answer::Count(count) => {
                Err(TierError::BadAnswer(format!("a count of {count} for {n_keys} keys")))
            }
            other => Err(mismatch(&other)),
        }
    }

    fn lanes(&self) -> Result<Arc<Lanes>, TierError> {
        match &*lock(&self.state) {
            Running::Lanes(lanes) => Ok(Arc::clone(lanes)),
            Running::Down(cause) => Err(TierError::Down(cause.clone())),
            Running::Closed => Err(TierError::Down("closed".into())),
        }
    }
}

/// Reads, compiles, checks and links the component, and starts the lanes.
async fn load(
    config: &BackendConfig,
    facts: &EngineFacts,
    threads: &LaneThreads,
    control: &Control,
    state: &Mutex<Running>,
    record: &Record,
    liveness: &Arc<dyn Liveness>,
) -> Result<(), LoadError> {
    let prepare = {
        let (config, facts, threads, record) =
            (config.clone(), facts.clone(), threads.clone(), record.clone());
        threads.handle().clone().spawn_blocking(move || prepare(config, facts, threads, record))
    };
    let (prepared, notes) = match prepare.await {
        Ok(prepared) => prepared?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let prepared = Arc::new(prepared);
    let standing = Standing::new(config.lanes, Arc::clone(liveness));
    let start = |place| Lane::start(Arc::clone(&prepared), place, Arc::clone(&standing), control);
    let lanes = Arc::new(Lanes { lanes: (0..config.lanes).map(start).collect(), facts: notes });
    {
        let mut state = lock(state);
        if matches!(*state, Running::Closed) {
            return Ok(());
        }
        *state = Running::Lanes(Arc::clone(&lanes));
    }
    for lane in &lanes.lanes {
        let class = config.class_name.clone();
        lane.started().await.map_err(|cause| LoadError::NotStarted { class, cause })?;
    }
    Ok(())
}

fn prepare(
    config: BackendConfig,
    facts: EngineFacts,
    threads: LaneThreads,
    record: Record,
) -> Result<(Prepared, Vec<(String, String)>), LoadError> {
    let path = &config.module_path;
    let engine = threads.engine();
    let loaded = threads.loader().load(path, config.limits.component_bytes, config.digest.as_ref())?;
    let class = Class::find(engine, &loaded.component, &config.class_name)
        .map_err(|source| LoadError::Class { path: path.clone(), source })?;
    let unlinkable = |error: wasmtime::Error| ComponentError::unlinkable(path, &error);
    let component_type = loaded.component.component_type();
    if let Some((import, _)) = component_type.imports(engine).find(|(import, _)| !offers(import)) {
        return Err(LoadError::NotOffered { path: path.clone(), import: import.to_owned() });
    }
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(unlinkable)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker).map_err(unlinkable)?;
    grants::add_to_linker(&mut linker).map_err(unlinkable)?;
    host::add_to_linker(&mut linker).map_err(unlinkable)?;
    let pre = linker.instantiate_pre(&loaded.component).map_err(unlinkable)?;
    let mut settings = config.config.clone();
    for (key, source) in &config.secrets {
        let secret = source.resolve().map_err(|source| LoadError::Secret { key: key.clone(), source })?;
        let text = secret.expose_text().ok_or_else(|| LoadError::SecretNotText(key.clone()))?;
        settings.push((key.clone(), text.to_owned()));
    }
    let secrets = settings[config.config.len()..].iter().map(|(_, secret)| secret.as_str()).collect();
    let notes = vec![
        ("digest".to_owned(), loaded.digest.to_string()),
        ("code".to_owned(), loaded.origin.to_string()),
        ("style".to_owned(), if class.blocking { "blocking" } else { "async" }.to_owned()),
    ];
    let limits = LaneLimits {
        calls_in_flight_max: config.limits.calls_in_flight_max,
        abandoned_calls_max: config.limits.abandoned_calls_max,
        lane_stall: config.limits.lane_stall,
        open_timeout: config.limits.open_timeout,
    };
    let net = NetPolicy::resolve(&config.allow.net)?;
    let lanes = threads.handle().clone();
    let name = config.name.clone();
    Ok((
        Prepared { name, config, class, pre, limits, net, record, secrets, facts, settings, threads, lanes },
        notes,
    ))
}

impl Tier for WasmTier {
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        pinning: Pinning,
        deadline: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>> {
        let n_keys = keys.len();
        Box::pin(self.count(n_keys, Call::Contains(keys, pinning == Pinning::Pin), deadline))
    }

    fn put(
        &self,
        keys: Arc<[ChunkKey]>,
        data: Sources,
        deadline: Instant,
    ) -> TierFuture<'_, Result<Vec<Result<(), TierError>>, TierError>> {
        Box::pin(async move {
            let n_keys = keys.len();
            match self.call(data.total_bytes(), Call::Put(keys, data), deadline).await? {
                Answer::Put(results) if results.len() == n_keys => Ok(results),
                Answer::Put(results) => Err(wrong_length(results.len(), n_keys)),
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
            let n_keys = keys.len();
            match self.call(into.total_bytes(), Call::Get(keys, into), deadline).await? {
                Answer::Get(results) if results.len() == n_keys => Ok(results),
                Answer::Get(results) => Err(wrong_length(results.len(), n_keys)),
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
            let running = std::mem::replace(&mut *lock(&self.state), Running::Closed);
            let Running::Lanes(lanes) = running else { return Ok(()) };
            let deadline = deadline.min(Instant::now() + self.config.limits.close_timeout);
            lanes.lanes.iter().for_each(Lane::close_after_this);
            let closing = lanes.lanes.iter().map(|lane| lane.call(Call::Close, deadline));
            let closed = futures::future::join_all(closing).await;
            for lane in &lanes.lanes {
                lane.end();
            }
            closed.into_iter().try_for_each(|answer| match answer {
                // Without an instance there is nothing to close.
                Ok(_) | Err(TierError::Down(_)) => Ok(()),
                Err(error) => Err(error),
            })
        })
    }

    fn health(&self) -> TierHealth {
        let mut health = TierHealth {
            instances: self.record.stores.load(Ordering::Acquire),
            log_lines_dropped: self.record.log.n_dropped(),
            ..TierHealth::default()
        };
        match &*lock(&self.state) {
            Running::Closed => health.down = Some("closed".into()),
            Running::Down(cause) => health.down = Some(cause.clone()),
            Running::Lanes(lanes) => {
                let mut n_down = 0;
                for lane in &lanes.lanes {
                    let lane = lane.health();
                    if lane.down.is_some() {
                        n_down += 1;
                        health.down = lane.down;
                    }
                    health.lane_restarts += lane.restarts;
                    health.last_restart = lane.last_restart.or(health.last_restart);
                    health.abandoned_calls += lane.abandoned;
                    health.guest_memory_bytes += lane.guest_memory_bytes;
                }
                if n_down < lanes.lanes.len() {
                    health.down = None;
                }
                health.notes.clone_from(&lanes.facts);
            }
        }
        health.denials = self.record.denials.count();
        health.last_denial = self.record.denials.last();
        health
    }

    fn batch_chunks_max(&self) -> usize {
        self.config.limits.batch_chunks_max
    }

    fn call_limit(&self, bytes: usize) -> Duration {
        self.config.limits.call_timeout_for(bytes as u64)
    }
}

impl std::fmt::Debug for WasmTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmTier").field("name", &self.config.name).finish_non_exhaustive()
    }
}

fn wrong_length(found: usize, expected: usize) -> TierError {
    TierError::BadAnswer(format!("{found} results for {expected} keys"))
}

/// Methods and answers are paired in one place, in `lane`.
fn mismatch(answer: &Answer) -> TierError {
    TierError::BadAnswer(format!("the answer of another method: {answer:?}"))
}

fn set_down(state: &Mutex<Running>, error: &LoadError, liveness: &dyn Liveness, retry_in: Duration) {
    let mut state = lock(state);
    if !matches!(*state, Running::Closed) {
        let cause = error.to_string();
        liveness.down(&cause, retry_in);
        *state = Running::Down(cause);
    }
}
