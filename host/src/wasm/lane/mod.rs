//! Lanes: one wasmtime `Store` with one instance, and the one task that drives it.
//!
//! The task ([`serve`]) takes calls from a bounded queue and keeps them in flight in one `run_concurrent`. A
//! lane is never stopped gently: whoever finds it trapped, stalled or overfull retires it, its task is
//! dropped with the store and everything in it, and [`supervise`] starts a new [`generation`]. Callers wait
//! for their reply or their deadline, whichever comes first, on threads that run no guest.
//!
//! Invariant: a caller never waits for a lane longer than its own deadline, and memory lent to a call is
//! revoked when its caller leaves.

mod balance;
mod generation;
mod lanes_max;
mod serve;
mod supervise;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use self::generation::{Generation, Reply, Ticket};
pub(super) use self::lanes_max::lanes_max;
use super::load::{LaneLimits, Prepared};
use crate::key::ChunkKey;
use crate::runtime::Control;
use crate::sync::lock;
use crate::tier::{Liveness, Pinning, TierError};
use crate::transfer::{Sinks, Sources};

/// One call of a method.
pub(super) enum Call {
    Contains(Arc<[ChunkKey]>, Pinning),
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
    /// As many results as keys, as with `Get`.
    Put(Vec<Result<(), TierError>>),
    Get(Vec<Result<Option<u64>, TierError>>),
}

struct Job {
    call: Call,
    reply: Reply,
    ticket: Arc<Ticket>,
}

/// A lane over its generations. Dropping it ends it.
pub(super) struct Lane {
    jobs: async_channel::Sender<Job>,
    shared: Arc<Shared>,
    control: Control,
}

struct Shared {
    /// Its place among the backend's lanes.
    place: usize,
    standing: Arc<Standing>,
    limits: LaneLimits,
    /// Whether the class is in blocking style: one call at a time.
    blocking: bool,
    current: Mutex<Arc<Generation>>,
    /// Tells the watchdog that a call waits or has gone in.
    busy: Notify,
    /// Tells the supervisor that the current generation, or the lane, is to end.
    retiring: Notify,
    /// The owner is gone: the current generation is ended.
    ending: AtomicBool,
    /// `close` is being called: no further generation is started.
    closing: AtomicBool,
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
enum Phase {
    /// Being constructed and opened; calls queue.
    #[default]
    Starting,
    Ready,
    /// Could not be started; calls fail at once until another try succeeds.
    Down(String),
    Closed,
}

/// Which of a backend's lanes can serve. Tells the chain when none can, and when one can again.
pub(super) struct Standing {
    hears: Arc<dyn Liveness>,
    /// By place. A lane that is being replaced after it has served can, its calls wait; one that has yet to be
    /// opened for the first time cannot.
    can_serve: Mutex<Vec<bool>>,
}

impl Standing {
    pub(super) fn new(n_lanes: usize, hears: Arc<dyn Liveness>) -> Arc<Self> {
        Arc::new(Self { hears, can_serve: Mutex::new(vec![false; n_lanes]) })
    }

    fn ready(&self, place: usize) {
        let mut can_serve = lock(&self.can_serve);
        can_serve[place] = true;
        // Under the lock, so that it is heard in the order in which it happens.
        self.hears.up();
    }

    fn can_serve(&self, place: usize) -> bool {
        lock(&self.can_serve)[place]
    }

    fn down(&self, place: usize, cause: &str, retry_in: Duration) {
        let mut can_serve = lock(&self.can_serve);
        can_serve[place] = false;
        if !can_serve.contains(&true) {
            self.hears.down(cause, retry_in);
        }
    }
}

/// What `status()` says of a lane.
pub(super) struct LaneHealth {
    /// Why it cannot serve.
    pub(super) down: Option<String>,
    pub(super) restarts: u64,
    pub(super) last_restart: Option<String>,
    pub(super) abandoned: usize,
    pub(super) guest_memory_bytes: u64,
}

impl Lane {
    /// Starts a lane; its first generation is being constructed when this returns.
    pub(super) fn start(
        prepared: Arc<Prepared>,
        place: usize,
        standing: Arc<Standing>,
        control: &Control,
    ) -> Self {
        let limits = prepared.limits;
        let (sender, receiver) = async_channel::bounded(limits.calls_in_flight_max);
        let shared = Arc::new(Shared {
            place,
            standing,
            limits,
            blocking: prepared.class.blocking,
            current: Mutex::default(),
            busy: Notify::new(),
            retiring: Notify::new(),
            ending: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            condition: Mutex::default(),
            changed: Notify::new(),
        });
        control.handle().spawn(supervise::watch(receiver.clone(), Arc::clone(&shared)));
        control.handle().spawn(supervise::supervise(prepared, receiver, Arc::clone(&shared)));
        Self { jobs: sender, shared, control: control.clone() }
    }

    /// Calls a method and waits for its answer until `deadline`.
    pub(super) async fn call(&self, call: Call, deadline: Instant) -> Result<Answer, TierError> {
        let started = Instant::now();
        if let Phase::Down(cause) = &self.shared.lock_condition().phase {
            return Err(TierError::Down(cause.clone()));
        }
        let ticket = Arc::new(Ticket::default());
        let lent = call.lent();
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Job { call, reply, ticket: Arc::clone(&ticket) }) {
            // The lane's task may never take it.
            Ok(()) => self.shared.busy.notify_one(),
            Err(async_channel::TrySendError::Full(_)) => return Err(TierError::Busy),
            Err(async_channel::TrySendError::Closed(_)) => return Err(TierError::Down("closed".into())),
        }
        let mut leave = Leave { shared: &self.shared, ticket: &ticket, lent, answered: false };
        match self.control.until(deadline, answer).await {
            Ok(Ok(answer)) => {
                leave.answered = true;
                answer
            }
            // Only the end of the threads drops a call without a word.
            Ok(Err(_dropped)) => Err(TierError::Down("closed".into())),
            Err(_elapsed) => Err(TierError::Timeout(deadline.saturating_duration_since(started))),
        }
    }

    /// Returns how many calls it has inside at a time.
    pub(super) fn calls_at_once(&self) -> usize {
        self.shared.calls_at_once()
    }

    /// Whether it can serve and how many calls are in flight and queued, to choose the best lane by: the
    /// smallest. A lane that is down has no calls, and would be chosen every time.
    pub(super) fn load(&self) -> (bool, usize) {
        let is_down = matches!(self.shared.lock_condition().phase, Phase::Down(_));
        (is_down, self.jobs.len() + self.shared.current().in_flight())
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

    /// Has the current generation be the last.
    pub(super) fn close_after_this(&self) {
        self.shared.closing.store(true, Ordering::Release);
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
        let generation = self.shared.current();
        let down = match phase {
            _ if self.shared.standing.can_serve(self.shared.place) => None,
            Phase::Down(cause) => Some(cause),
            Phase::Closed => Some("closed".into()),
            Phase::Starting | Phase::Ready => Some("being started".into()),
        };
        LaneHealth {
            down,
            restarts: self.shared.restarts.load(Ordering::Relaxed),
            last_restart,
            abandoned: generation.abandoned(),
            guest_memory_bytes: generation.guest_memory_bytes.load(Ordering::Relaxed),
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
    shared: &'a Shared,
    ticket: &'a Ticket,
    lent: Lent,
    answered: bool,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        match &self.lent {
            Lent::Sources(sources) => sources.revoke(),
            // An answered caller takes its buffers back itself. Without an answer they go back at once,
            // wherever the call is: a queued call may wait, and a guest may keep the handle of one that
            // has just come out.
            Lent::Sinks(sinks) if !self.answered => drop(sinks.revoke()),
            Lent::Sinks(_) | Lent::Nothing => {}
        }
        let Some((generation, n_abandoned)) = self.ticket.abandon() else { return };
        if self.shared.blocking {
            self.shared.retire(&generation, "a call expired inside a class in blocking style".into());
        } else if n_abandoned > self.shared.limits.abandoned_calls_max {
            let reason = format!("{n_abandoned} expired calls were still inside the guest");
            self.shared.retire(&generation, reason);
        }
    }
}

impl Shared {
    fn calls_at_once(&self) -> usize {
        if self.blocking { 1 } else { self.limits.calls_in_flight_max }
    }

    fn condition(&self) -> Condition {
        self.lock_condition().clone()
    }

    fn lock_condition(&self) -> MutexGuard<'_, Condition> {
        lock(&self.condition)
    }

    fn set_phase(&self, phase: Phase) {
        self.lock_condition().phase = phase;
        self.changed.notify_waiters();
    }

    fn stand_ready(&self) {
        // In one step for whoever looks at the phase: who finds the lane ready finds the backend in the chain, and
        // who finds the backend in the chain is not told that the lane is down.
        let mut condition = self.lock_condition();
        condition.phase = Phase::Ready;
        self.standing.ready(self.place);
        drop(condition);
        self.changed.notify_waiters();
    }

    fn stand_down(&self, cause: String, retry_in: Duration) {
        self.standing.down(self.place, &cause, retry_in);
        self.set_phase(Phase::Down(cause));
    }

    fn current(&self) -> Arc<Generation> {
        Arc::clone(&lock(&self.current))
    }

    /// Puts a fresh generation into the place of the current one, and returns it.
    fn next_generation(&self) -> Arc<Generation> {
        let next = Arc::new(Generation::default());
        *lock(&self.current) = Arc::clone(&next);
        next
    }

    /// Asks for the end of `generation`; one that has ended already is left in peace.
    fn retire(&self, generation: &Generation, reason: String) {
        generation.retire(reason);
        self.retiring.notify_one();
    }

    /// Waits until `generation` is to be retired, and returns why; `None` if the owner is gone.
    async fn retired(&self, generation: &Generation) -> Option<String> {
        loop {
            if self.ending.load(Ordering::Acquire) {
                return None;
            }
            match generation.retirement() {
                Some(reason) => return Some(reason),
                None => self.retiring.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Option<String>>>);

    impl Liveness for Heard {
        fn down(&self, cause: &str, _retry_in: Duration) {
            lock(&self.0).push(Some(cause.to_owned()));
        }

        fn up(&self) {
            lock(&self.0).push(None);
        }
    }

    #[test]
    fn a_backend_is_down_only_while_no_lane_can_serve() {
        let heard = Arc::new(Heard::default());
        let standing = Standing::new(3, Arc::clone(&heard) as Arc<dyn Liveness>);
        let down = |place, cause| standing.down(place, cause, Duration::ZERO);
        let last = || lock(&heard.0).last().cloned().flatten();
        down(0, "first");
        assert_eq!(last().as_deref(), Some("first"), "nothing serves yet");
        standing.ready(2);
        assert_eq!(last(), None);
        standing.ready(1);
        down(2, "second");
        down(0, "first again");
        assert_eq!(last(), None, "one is left");
        down(1, "third");
        assert_eq!(last().as_deref(), Some("third"));
        standing.ready(0);
        assert_eq!(last(), None);
    }
}
