//! Lanes: one wasmtime `Store` with one instance, and the one task that drives it.
//!
//! The task takes calls from a bounded queue and keeps them in flight in one `run_concurrent`. A lane is
//! never stopped gently: whoever finds it trapped, stalled or overfull retires it, its task is dropped
//! with the store and everything in it, and a new generation is started. Callers wait for their reply or
//! their deadline, whichever comes first, on threads that run no guest.
//!
//! Invariant: a caller never waits for a lane longer than its own deadline, and memory lent to a call is
//! revoked when its caller leaves.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, oneshot};
use wasmtime::component::{Accessor, ResourceAny};

use super::contract::{self, Bound};
use super::sandbox::{State, Stderr};
use super::{LaneLimits, Prepared};
use crate::key::ChunkKey;
use crate::limits::{RESTART_PAUSE_MAX, RESTART_PAUSE_MIN};
use crate::runtime::Control;
use crate::tier::TierError;
use crate::transfer::{Sinks, Sources};

/// One call of a method.
pub(super) enum Call {
    Contains(Arc<[ChunkKey]>, bool),
    Put(Arc<[ChunkKey]>, Sources),
    Get(Arc<[ChunkKey]>, Sinks),
    Pin(Arc<[ChunkKey]>),
    Unpin(Arc<[ChunkKey]>),
    Remove(Arc<[ChunkKey]>),
    Close,
}

impl Call {
    /// The memory lent to the call, to be revoked when its caller leaves.
    fn lent(&self) -> Lent {
        match self {
            Self::Put(_, sources) => Lent::Sources(sources.clone()),
            Self::Get(_, sinks) => Lent::Sinks(sinks.clone()),
            _ => Lent::Nothing,
        }
    }
}

enum Lent {
    Nothing,
    Sources(Sources),
    Sinks(Sinks),
}

/// What a method answered.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Count(u32),
    Put(Vec<Result<(), TierError>>),
    Get(Vec<Result<Option<u64>, TierError>>),
}

type Reply = oneshot::Sender<Result<Answer, TierError>>;

struct Job {
    call: Call,
    reply: Reply,
    ticket: Arc<Ticket>,
}

/// Where a call is: shared by its caller and the lane.
struct Ticket {
    state: AtomicU8,
    /// The generation that runs the call, once it runs.
    generation: AtomicU64,
}

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const FINISHED: u8 = 2;
const LEFT: u8 = 3;

/// A lane over its generations. Dropping it ends it.
pub(super) struct Lane {
    jobs: async_channel::Sender<Job>,
    shared: Arc<Shared>,
    control: Control,
}

struct Shared {
    limits: LaneLimits,
    blocking: AtomicBool,
    generation: AtomicU64,
    /// Calls of the current generation inside the guest, and those among them whose callers left.
    in_flight: AtomicUsize,
    abandoned: AtomicUsize,
    /// Moves whenever the lane's task runs.
    progress: AtomicU64,
    /// Asks the lane's task to show that it runs.
    ping: Notify,
    /// Tells the watchdog that a call has gone in.
    busy: Notify,
    /// Why a generation is to be retired, and which.
    retire: Mutex<Option<(u64, String)>>,
    retiring: Notify,
    /// The owner is gone: no further generation is started.
    ending: AtomicBool,
    guest_memory_bytes: Arc<AtomicU64>,
    restarts: AtomicU64,
    condition: Mutex<Condition>,
    changed: Notify,
}

#[derive(Clone, Debug, Default)]
struct Condition {
    phase: Phase,
    last_restart: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Being constructed and opened; calls queue.
    #[default]
    Starting,
    Ready,
    /// Could not be started; calls fail at once until another try succeeds.
    Down(String),
    Closed,
}

/// What `status()` says of a lane.
pub(super) struct LaneHealth {
    pub(super) phase: Phase,
    pub(super) restarts: u64,
    pub(super) last_restart: Option<String>,
    pub(super) abandoned: usize,
    pub(super) guest_memory_bytes: u64,
}

impl Lane {
    /// Starts a lane; its first generation is being constructed when this returns.
    pub(super) fn start(prepared: Arc<Prepared>, control: &Control) -> Self {
        let limits = prepared.limits;
        let (sender, receiver) = async_channel::bounded(limits.calls_in_flight_max);
        let shared = Arc::new(Shared {
            limits,
            blocking: AtomicBool::new(prepared.class.blocking),
            generation: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            ping: Notify::new(),
            busy: Notify::new(),
            retire: Mutex::default(),
            retiring: Notify::new(),
            ending: AtomicBool::new(false),
            guest_memory_bytes: Arc::default(),
            restarts: AtomicU64::new(0),
            condition: Mutex::default(),
            changed: Notify::new(),
        });
        control.handle().spawn(supervise(prepared, receiver, Arc::clone(&shared)));
        control.handle().spawn(watch(Arc::clone(&shared)));
        Self { jobs: sender, shared, control: control.clone() }
    }

    /// Calls a method and waits for its answer until `deadline`.
    pub(super) async fn call(&self, call: Call, deadline: Instant) -> Result<Answer, TierError> {
        let started = Instant::now();
        if let Phase::Down(cause) = self.shared.condition().phase {
            return Err(TierError::Down(cause));
        }
        let ticket = Arc::new(Ticket { state: AtomicU8::new(QUEUED), generation: AtomicU64::new(0) });
        let lent = call.lent();
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Job { call, reply, ticket: Arc::clone(&ticket) }) {
            Ok(()) => {}
            Err(async_channel::TrySendError::Full(_)) => return Err(TierError::Busy),
            Err(async_channel::TrySendError::Closed(_)) => return Err(TierError::Down("closed".into())),
        }
        let _leave = Leave { shared: &self.shared, ticket: &ticket, lent };
        match self.control.until(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_dropped)) => Err(self.shared.loss()),
            Err(_elapsed) => Err(TierError::Timeout(deadline.saturating_duration_since(started))),
        }
    }

    /// Calls in flight and queued, to choose the least busy lane by.
    pub(super) fn load(&self) -> usize {
        self.jobs.len() + self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Waits until the first generation is ready or has failed.
    pub(super) async fn started(&self) -> Result<(), String> {
        loop {
            let changed = self.shared.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            match self.shared.condition().phase {
                Phase::Starting => changed.await,
                Phase::Down(cause) => return Err(cause),
                Phase::Ready | Phase::Closed => return Ok(()),
            }
        }
    }

    /// Ends the lane without waiting for the guest.
    pub(super) fn end(&self) {
        self.jobs.close();
        self.shared.ending.store(true, Ordering::Release);
        self.shared.retiring.notify_one();
        self.shared.busy.notify_one();
    }

    pub(super) fn health(&self) -> LaneHealth {
        let Condition { phase, last_restart } = self.shared.condition();
        LaneHealth {
            phase,
            restarts: self.shared.restarts.load(Ordering::Relaxed),
            last_restart,
            abandoned: self.shared.abandoned.load(Ordering::Relaxed),
            guest_memory_bytes: self.shared.guest_memory_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs when a caller leaves, with an answer or without.
struct Leave<'a> {
    shared: &'a Arc<Shared>,
    ticket: &'a Ticket,
    lent: Lent,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Lent::Sources(sources) = &self.lent {
            sources.revoke();
        }
        if self.ticket.state.swap(LEFT, Ordering::AcqRel) != RUNNING {
            return;
        }
        if let Lent::Sinks(sinks) = &self.lent {
            drop(sinks.revoke());
        }
        let shared = self.shared;
        let generation = self.ticket.generation.load(Ordering::Acquire);
        if generation != shared.generation.load(Ordering::Acquire) {
            return;
        }
        let abandoned = shared.abandoned.fetch_add(1, Ordering::AcqRel) + 1;
        if shared.blocking.load(Ordering::Relaxed) {
            shared.retire(generation, "a call expired inside a class in blocking style".into());
        } else if abandoned > shared.limits.abandoned_calls_max {
            shared.retire(generation, format!("{abandoned} expired calls were still inside the guest"));
        }
    }
}

impl Shared {
    fn condition(&self) -> Condition {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_phase(&self, phase: Phase) {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).phase = phase;
        self.changed.notify_waiters();
    }

    /// Asks for the end of `generation`; a generation that has ended already is left in peace.
    fn retire(&self, generation: u64, reason: String) {
        let mut slot = self.retire.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*slot, Some((waiting, _)) if waiting == generation) {
            *slot = Some((generation, reason));
        }
        self.retiring.notify_one();
    }

    /// Waits until `generation` is to be retired, and returns why; `None` if the owner is gone.
    async fn retired(&self, generation: u64) -> Option<String> {
        loop {
            if self.ending.load(Ordering::Acquire) {
                return None;
            }
            let slot = self.retire.lock().unwrap_or_else(PoisonError::into_inner).take();
            match slot {
                Some((retired, reason)) if retired == generation => return Some(reason),
                _ => self.retiring.notified().await,
            }
        }
    }

    /// What a caller is told whose call was inside a generation that ended.
    fn loss(&self) -> TierError {
        let condition = self.condition();
        match (condition.phase, condition.last_restart) {
            (Phase::Down(cause), _) => TierError::Down(cause),
            (_, Some(reason)) => match reason.strip_prefix(TRAPPED) {
                Some(trap) => TierError::Trap(trap.to_owned()),
                None => TierError::Lost(reason),
            },
            (_, None) => TierError::Lost("closed".into()),
        }
    }

    /// Starts counting anew for the next generation.
    fn next_generation(&self) -> u64 {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.in_flight.store(0, Ordering::Release);
        self.abandoned.store(0, Ordering::Release);
        self.guest_memory_bytes.store(0, Ordering::Release);
        generation
    }
}

const TRAPPED: &str = "trapped: ";

/// How a generation ended.
enum End {
    /// `close` was called, or the lane's owner is gone.
    Closed,
    /// The class could not be constructed or opened.
    NotStarted(String),
    /// The guest trapped, or an answer could not be read.
    Trapped(String),
}

/// Keeps a lane alive: starts a generation, waits for its end or its retirement, starts the next. Runs
/// on a thread that runs no guest.
async fn supervise(prepared: Arc<Prepared>, jobs: async_channel::Receiver<Job>, shared: Arc<Shared>) {
    let mut pause = RESTART_PAUSE_MIN;
    // Replies of calls that are inside: kept here so that they hear why their generation ended.
    let inside = Arc::new(Inside::default());
    loop {
        let generation = shared.next_generation();
        let (ready, is_ready) = oneshot::channel();
        let task = prepared.lanes.spawn(run(
            Arc::clone(&prepared),
            jobs.clone(),
            Arc::clone(&shared),
            Arc::clone(&inside),
            generation,
            ready,
        ));
        let abort = task.abort_handle();
        let ended = async {
            let limit = prepared.limits.open_timeout;
            match tokio::time::timeout(limit, is_ready).await {
                Ok(Ok(())) => {
                    pause = RESTART_PAUSE_MIN;
                    shared.set_phase(Phase::Ready);
                }
                // The task has ended; it says why.
                Ok(Err(_)) => {}
                Err(_) => {
                    return End::NotStarted(format!("constructor or open gave no answer within {limit:?}"));
                }
            }
            match task.await {
                Ok(end) => end,
                Err(error) if error.is_panic() => {
                    End::Trapped("the host's side panicked; please report this".into())
                }
                Err(_) => End::Trapped("the lane's thread is gone".into()),
            }
        };
        let end = tokio::select! {
            biased;
            reason = shared.retired(generation) => Err(reason),
            end = ended => Ok(end),
        };
        abort.abort();
        // Callers that now hear of the end must not count themselves as abandoned.
        shared.next_generation();
        let reason = match end {
            Ok(End::Closed) | Err(None) => break,
            Ok(End::NotStarted(cause)) => {
                shared.set_phase(Phase::Down(cause.clone()));
                inside.fail(&TierError::Down(cause.clone()));
                while let Ok(job) = jobs.try_recv() {
                    drop(job.reply.send(Err(TierError::Down(cause.clone()))));
                }
                tracing::warn!(backend = %prepared.name, cause, retry_in = ?pause, "backend could not be started");
                if let Ok(None) = tokio::time::timeout(pause, shared.retired(generation)).await {
                    break;
                }
                pause = (pause * 2).min(RESTART_PAUSE_MAX);
                continue;
            }
            Ok(End::Trapped(message)) => {
                inside.fail(&TierError::Trap(message.clone()));
                format!("{TRAPPED}{message}")
            }
            Err(Some(reason)) => reason,
        };
        tracing::warn!(backend = %prepared.name, reason, "lane retired");
        inside.fail(&TierError::Lost(reason.clone()));
        shared.restarts.fetch_add(1, Ordering::Relaxed);
        let mut condition = shared.condition.lock().unwrap_or_else(PoisonError::into_inner);
        *condition = Condition { phase: Phase::Starting, last_restart: Some(reason) };
    }
    inside.fail(&TierError::Down("closed".into()));
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        drop(job.reply.send(Err(TierError::Down("closed".into()))));
    }
    shared.set_phase(Phase::Closed);
    shared.busy.notify_one();
}

/// Retires a lane whose task does not run though calls are inside. A class in blocking style is judged by
/// its calls' deadlines alone.
async fn watch(shared: Arc<Shared>) {
    let stall = shared.limits.lane_stall;
    loop {
        shared.busy.notified().await;
        while shared.in_flight.load(Ordering::Acquire) > 0 {
            if shared.blocking.load(Ordering::Relaxed) {
                break;
            }
            let before = (shared.generation.load(Ordering::Acquire), shared.progress.load(Ordering::Acquire));
            shared.ping.notify_one();
            tokio::time::sleep(stall).await;
            let after = (shared.generation.load(Ordering::Acquire), shared.progress.load(Ordering::Acquire));
            if before == after && shared.in_flight.load(Ordering::Acquire) > 0 {
                shared.retire(after.0, format!("no progress for {stall:?}: the guest computes or blocks"));
            }
        }
        if shared.condition().phase == Phase::Closed {
            return;
        }
    }
}

/// The replies of calls that are inside the guest.
#[derive(Default)]
struct Inside(Mutex<Vec<Option<Reply>>>);

impl Inside {
    fn enter(&self, reply: Reply) -> usize {
        let mut replies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = replies.iter().position(Option::is_none).unwrap_or(replies.len());
        if free == replies.len() {
            replies.push(None);
        }
        replies[free] = Some(reply);
        free
    }

    fn leave(&self, place: usize) -> Option<Reply> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[place].take()
    }

    fn fail(&self, error: &TierError) {
        let mut replies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for reply in replies.iter_mut().filter_map(Option::take) {
            // The caller may have left.
            drop(reply.send(Err(error.clone())));
        }
    }
}

/// One generation, on a thread that runs guests: instantiates, constructs, opens, then serves calls.
async fn run(
    prepared: Arc<Prepared>,
    jobs: async_channel::Receiver<Job>,
    shared: Arc<Shared>,
    inside: Arc<Inside>,
    generation: u64,
    ready: oneshot::Sender<()>,
) -> End {
    let mut store = match prepared.new_store(Arc::clone(&shared.guest_memory_bytes)) {
        Ok(store) => store,
        Err(error) => return End::NotStarted(error.to_string()),
    };
    let stderr = store.data().stderr();
    let instance = match prepared.pre.instantiate_async(&mut store).await {
        Ok(instance) => instance,
        Err(error) => return End::NotStarted(format!("{error:#}")),
    };
    let bound = match Bound::new(&prepared.class, &mut store, &instance) {
        Ok(bound) => bound,
        Err(error) => return End::NotStarted(format!("{error:#}")),
    };
    let mut opened = false;
    let served = store
        .run_concurrent(async |accessor| -> wasmtime::Result<End> {
            let object = match start(accessor, &bound, &prepared).await? {
                Ok(object) => object,
                Err(error) => return Ok(End::NotStarted(error.to_string())),
            };
            opened = true;
            let _unheard = ready.send(()).is_err();
            serve(accessor, &bound, object, &jobs, &shared, &inside, generation).await
        })
        .await;
    match served.and_then(|end| end) {
        Ok(end) => end,
        Err(error) => {
            let message = describe_trap(&error, &stderr);
            if opened { End::Trapped(message) } else { End::NotStarted(format!("trapped: {message}")) }
        }
    }
}

async fn start(
    accessor: &Accessor<State>,
    bound: &Bound,
    prepared: &Prepared,
) -> wasmtime::Result<Result<ResourceAny, TierError>> {
    let (constructed,) = bound.constructor.call_concurrent(accessor, (prepared.init(),)).await?;
    let object = match constructed {
        Ok(object) => object,
        Err(error) => return Ok(Err(error.into())),
    };
    let (opened,) = bound.open.call_concurrent(accessor, (object,)).await?;
    Ok(opened.map(|()| object).map_err(TierError::from))
}

async fn serve(
    accessor: &Accessor<State>,
    bound: &Bound,
    object: ResourceAny,
    jobs: &async_channel::Receiver<Job>,
    shared: &Shared,
    inside: &Inside,
    generation: u64,
) -> wasmtime::Result<End> {
    let n_calls_max =
        if shared.blocking.load(Ordering::Relaxed) { 1 } else { shared.limits.calls_in_flight_max };
    let mut calls = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(finished) = calls.next(), if !calls.is_empty() => {
                shared.in_flight.fetch_sub(1, Ordering::AcqRel);
                let closed: bool = finished?;
                if closed {
                    return Ok(End::Closed);
                }
            }
            job = jobs.recv(), if calls.len() < n_calls_max => {
                let Ok(Job { call, reply, ticket }) = job else { return Ok(End::Closed) };
                ticket.generation.store(generation, Ordering::Release);
                let entered = ticket.state.compare_exchange(QUEUED, RUNNING, Ordering::AcqRel, Ordering::Acquire);
                if entered.is_ok() {
                    shared.in_flight.fetch_add(1, Ordering::AcqRel);
                    shared.busy.notify_one();
                    let place = inside.enter(reply);
                    calls.push(serve_one(accessor, bound, object, call, ticket, place, shared, inside));
                }
            }
            () = shared.ping.notified() => {}
        }
        shared.progress.fetch_add(1, Ordering::AcqRel);
    }
}

/// Serves one call and says whether it was the last.
#[expect(clippy::too_many_arguments, reason = "the parts of one lane, each borrowed")]
async fn serve_one(
    accessor: &Accessor<State>,
    bound: &Bound,
    object: ResourceAny,
    call: Call,
    ticket: Arc<Ticket>,
    place: usize,
    shared: &Shared,
    inside: &Inside,
) -> wasmtime::Result<bool> {
    let last = matches!(call, Call::Close);
    let answer = perform(accessor, bound, object, call).await?;
    if ticket.state.swap(FINISHED, Ordering::AcqRel) == LEFT {
        shared.abandoned.fetch_sub(1, Ordering::AcqRel);
    }
    if let Some(reply) = inside.leave(place) {
        // The caller may have left.
        drop(reply.send(answer));
    }
    Ok(last)
}

async fn perform(
    accessor: &Accessor<State>,
    bound: &Bound,
    object: ResourceAny,
    call: Call,
) -> wasmtime::Result<Result<Answer, TierError>> {
    let count =
        |answer: (Result<u32, contract::types::Error>,)| answer.0.map(Answer::Count).map_err(TierError::from);
    Ok(match call {
        Call::Contains(keys, pin) => {
            let keys = contract::keys(&keys);
            count(bound.contains.call_concurrent(accessor, (object, keys, pin)).await?)
        }
        Call::Put(keys, sources) => {
            let lent = accessor.with(|mut access| access.get().lend(sources.clone()))?;
            let keys = contract::keys(&keys);
            let (answer,) = bound.put.call_concurrent(accessor, (object, keys, lent)).await?;
            sources.revoke();
            Ok(Answer::Put(answer.into_iter().map(|one| one.map_err(TierError::from)).collect()))
        }
        Call::Get(keys, sinks) => {
            let lent = accessor.with(|mut access| access.get().lend(sinks))?;
            let keys = contract::keys(&keys);
            let (answer,) = bound.get.call_concurrent(accessor, (object, keys, lent)).await?;
            Ok(Answer::Get(answer.into_iter().map(|one| one.map_err(TierError::from)).collect()))
        }
        Call::Pin(keys) => count(bound.pin.call_concurrent(accessor, (object, contract::keys(&keys))).await?),
        Call::Unpin(keys) => {
            count(bound.unpin.call_concurrent(accessor, (object, contract::keys(&keys))).await?)
        }
        Call::Remove(keys) => {
            count(bound.remove.call_concurrent(accessor, (object, contract::keys(&keys))).await?)
        }
        Call::Close => {
            let (answer,) = bound.close.call_concurrent(accessor, (object,)).await?;
            answer.map(|()| Answer::Done).map_err(TierError::from)
        }
    })
}

/// Says why a guest died: the trap, and what it wrote to its standard error last, which is where a panic's
/// message goes.
fn describe_trap(error: &wasmtime::Error, stderr: &Stderr) -> String {
    let cause = match error.downcast_ref::<wasmtime::Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    match stderr.last_lines() {
        Some(lines) => format!("{cause}; its last words: {lines}"),
        None => cause,
    }
}
