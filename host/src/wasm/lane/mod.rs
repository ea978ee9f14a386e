//! Lanes: one wasmtime `Store` with one instance, and the one task that drives it.
//!
//! The task ([`serve`]) takes calls from a bounded queue and keeps them in flight in one `run_concurrent`. A lane is
//! never stopped gently: when it has trapped, stalled or is overfull it is retired, its task is dropped with the store
//! and everything in it, and [`supervise`] starts a new [`generation`]. Callers wait for their reply or their deadline,
//! whichever comes first, on threads that do not run guests.
//!
//! Invariant: a caller never waits for a lane longer than its own deadline, and memory lent to a call is
//! revoked when its caller leaves.

mod abort;
mod availability;
mod balance;
mod call;
mod generation;
mod lanes_max;
mod serve;
mod shared;
mod supervise;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

pub(super) use self::availability::Availability;
use self::call::LentMemory;
pub(super) use self::call::{Answer, Call};
use self::generation::{Job, Ticket};
pub(super) use self::lanes_max::{NoAnswer, lanes_max};
use self::shared::{LaneShared, LaneState, LaneStatus};
use super::prepared::Prepared;
use crate::runtime::Control;
use crate::tier::TierError;

/// A lane over its generations. Dropping it ends it.
pub(super) struct Lane {
    jobs: async_channel::Sender<Job>,
    shared: Arc<LaneShared>,
    control: Control,
}

/// The health of a lane, for `status()`.
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
        availability: Arc<Availability>,
        control: &Control,
    ) -> Self {
        let limits = prepared.limits;
        let (sender, receiver) = async_channel::bounded(limits.calls_in_flight_max);
        let shared = Arc::new(LaneShared {
            place,
            availability,
            limits,
            blocking: prepared.class.blocking,
            current: Mutex::default(),
            busy: Notify::new(),
            retiring: Notify::new(),
            ending: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            status: Mutex::default(),
            changed: Notify::new(),
        });
        control.handle().spawn(supervise::watch(receiver.clone(), Arc::clone(&shared)));
        control.handle().spawn(supervise::supervise(prepared, receiver, Arc::clone(&shared)));
        Self { jobs: sender, shared, control: control.clone() }
    }

    /// Calls a method and waits for its answer until `deadline`.
    pub(super) async fn call(&self, call: Call, deadline: Instant) -> Result<Answer, TierError> {
        let started = Instant::now();
        if let LaneState::Down(cause) = &self.shared.lock_status().state {
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
        let mut guard = CallerGuard { shared: &self.shared, ticket: &ticket, lent, answered: false };
        match self.control.until(deadline, answer).await {
            Ok(Ok(answer)) => {
                guard.answered = true;
                answer
            }
            // Only the end of the threads drops a call without a reply.
            Ok(Err(_dropped)) => Err(TierError::Down("closed".into())),
            Err(_elapsed) => Err(TierError::Timeout(deadline.saturating_duration_since(started))),
        }
    }

    /// Returns how many calls it has inside at a time.
    pub(super) fn calls_in_flight_max(&self) -> usize {
        self.shared.calls_in_flight_max()
    }

    /// Returns true if the lane is down, and how many calls are in flight and queued. The lane with the smallest value
    /// is the best one. A lane that is down has no calls, so without the first part it would always be chosen.
    pub(super) fn load(&self) -> (bool, usize) {
        let is_down = matches!(self.shared.lock_status().state, LaneState::Down(_));
        (is_down, self.jobs.len() + self.shared.current().in_flight())
    }

    /// Waits until the first generation is ready or has failed.
    pub(super) async fn started(&self) -> Result<(), String> {
        loop {
            let changed = self.shared.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            match self.shared.status().state {
                LaneState::Starting => changed.await,
                LaneState::Down(cause) => return Err(cause),
                LaneState::Ready | LaneState::Closed => return Ok(()),
            }
        }
    }

    /// Makes the current generation the last.
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
        let (LaneStatus { state, last_restart }, restarts) = {
            let status = self.shared.lock_status();
            (status.clone(), self.shared.restarts.load(Ordering::Relaxed))
        };
        let generation = self.shared.current();
        let down = match state {
            _ if self.shared.availability.can_serve(self.shared.place) => None,
            LaneState::Down(cause) => Some(cause),
            LaneState::Closed => Some("closed".into()),
            LaneState::Starting | LaneState::Ready => Some("being started".into()),
        };
        LaneHealth {
            down,
            restarts,
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

/// Runs when a caller leaves, with or without an answer.
struct CallerGuard<'a> {
    shared: &'a LaneShared,
    ticket: &'a Ticket,
    lent: LentMemory,
    answered: bool,
}

impl Drop for CallerGuard<'_> {
    fn drop(&mut self) {
        match &self.lent {
            LentMemory::Sources(sources) => sources.revoke(),
            // A caller with an answer takes its buffers back itself. Without an answer they go back now, wherever the
            // call is: a queued call may wait, and a guest may keep the handle of a call that has just returned.
            LentMemory::Sinks(sinks) if !self.answered => drop(sinks.revoke()),
            LentMemory::Sinks(_) | LentMemory::Nothing => {}
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
