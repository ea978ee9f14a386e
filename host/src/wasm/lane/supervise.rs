//! Keeps a lane alive, and detects when it stalls. Runs on threads that do not run guests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::abort::AbortOnDrop;
use super::balance::{SystemClocks, weighed};
use super::generation::Generation;
use super::serve::{TaskEnd, run};
use super::{Job, LaneShared, LaneState, LaneStatus, Prepared};
use crate::backoff::Backoff;
use crate::limits::{RESTART_HEALTHY, RESTART_PAUSE_MAX, RESTART_PAUSE_MIN};
use crate::tier::TierError;
use crate::wasm::cpu_time::{pause_after, pause_after_serving};
use crate::wasm::policy::external::InstanceInputs;
use crate::wasm::threads::backend::within;

/// Why a generation ended.
enum LaneEnd {
    /// `close` was called, or the lane's owner is gone.
    Closed,
    /// It never served: it was not constructed or opened, or it ended before its first call.
    NotStarted(String),
    Trapped(String),
    Retired(String),
    /// The backend's secrets have changed.
    Outdated,
}

/// Keeps a lane alive: starts a generation, waits for its end or its retirement, starts the next.
pub(super) async fn supervise(
    prepared: Arc<Prepared>,
    jobs: async_channel::Receiver<Job>,
    shared: Arc<LaneShared>,
) {
    let mut backoff = Backoff::new(RESTART_PAUSE_MIN, RESTART_PAUSE_MAX);
    // The code that started the backend gets the first failure.
    let mut is_first = true;
    loop {
        // Before anything is made with the present inputs.
        let mut changes = prepared.external.changes();
        let generation = shared.next_generation();
        let started = Instant::now();
        let ended = live(&prepared, &jobs, &shared, &generation, &mut changes).await;
        let was_first = std::mem::take(&mut is_first);
        let is_outdated = matches!(ended, LaneEnd::Outdated);
        // Health and load no longer count the calls that the old generation leaves behind.
        let gone = shared.next_generation();
        let (reason, error) = match ended {
            LaneEnd::Closed => {
                generation.fail(&TierError::Down("closed".into()));
                break;
            }
            LaneEnd::NotStarted(cause) => {
                let error = TierError::Down(cause.clone());
                let pause = backoff.pause().max(pause_after(generation.start.total(), prepared.config.lanes));
                shared.set_down(cause.clone(), pause);
                generation.fail(&error);
                refuse_queued(&jobs, &error);
                if !was_first || generation.is_open() {
                    tracing::warn!(backend = %prepared.name, cause, retry_in = ?pause, "backend could not be started");
                }
                // The cause of the failure may have changed outside.
                prepared.external.read_again_later(pause);
                let paused = async {
                    tokio::select! {
                        biased;
                        reason = shared.retired(&gone) => reason.is_none(),
                        Ok(()) = changes.changed() => false,
                    }
                };
                if let Ok(true) = tokio::time::timeout(pause, paused).await {
                    break;
                }
                continue;
            }
            LaneEnd::Outdated => {
                let reason = "secrets have changed".to_owned();
                (reason.clone(), TierError::Lost(reason))
            }
            LaneEnd::Trapped(trap) => (format!("trapped: {trap}"), TierError::Trap(trap)),
            LaneEnd::Retired(reason) => (reason.clone(), TierError::Lost(reason)),
        };
        // Restarted immediately, so that callers that were being served are served again. If the instance dies in every
        // call, the breaker keeps calls away; if it soon fails to start, its pauses go on growing.
        if started.elapsed() >= RESTART_HEALTHY {
            backoff.reset();
        }
        tracing::warn!(backend = %prepared.name, reason, "lane retired");
        // A costly start must be paid for by the time that it served, or an instance that dies after each start would
        // use up the processor.
        let pause = match generation.start.total() {
            _ if is_outdated => Duration::ZERO,
            cpu_time => pause_after_serving(cpu_time, started.elapsed(), prepared.config.lanes),
        };
        let down = format!("{reason}; starting it is costly, so the next start waits");
        {
            // Together, so that no reader finds the restart without its reason.
            let mut status = shared.lock_status();
            *status = LaneStatus { state: LaneState::Starting, last_restart: Some(reason) };
            shared.restarts.fetch_add(1, Ordering::Relaxed);
        }
        if !pause.is_zero() {
            shared.set_down(down.clone(), pause);
        }
        // Last, so that a caller that gets the error finds the restart in the status.
        generation.fail(&error);
        if shared.closing.load(Ordering::Acquire) {
            break;
        }
        if !pause.is_zero() {
            refuse_queued(&jobs, &TierError::Down(down));
            if let Ok(None) = tokio::time::timeout(pause, shared.retired(&gone)).await {
                break;
            }
        }
    }
    jobs.close();
    refuse_queued(&jobs, &TierError::Down("closed".into()));
    shared.set_state(LaneState::Closed);
    shared.busy.notify_one();
}

fn refuse_queued(jobs: &async_channel::Receiver<Job>, error: &TierError) {
    while let Ok(job) = jobs.try_recv() {
        // The caller may have left.
        drop(job.reply.send(Err(error.clone())));
    }
}

/// Runs one generation from its construction to its end.
async fn live(
    prepared: &Arc<Prepared>,
    jobs: &async_channel::Receiver<Job>,
    shared: &Arc<LaneShared>,
    generation: &Arc<Generation>,
    changes: &mut watch::Receiver<Arc<InstanceInputs>>,
) -> LaneEnd {
    let (ready, is_ready) = oneshot::channel();
    let task = run(Arc::clone(prepared), jobs.clone(), Arc::clone(shared), Arc::clone(generation), ready);
    let is_unattended = {
        let (generation, jobs) = (Arc::clone(generation), jobs.clone());
        move || generation.is_open() && !generation.has_callers() && jobs.is_empty()
    };
    let stall = shared.limits.lane_stall;
    let exceeds = {
        let (shared, generation) = (Arc::clone(shared), Arc::clone(generation));
        let reason = format!("computed for {stall:?} longer than it rested, while no caller waited for it");
        move || shared.retire(&generation, reason.clone())
    };
    let task = weighed(task, SystemClocks::new(), is_unattended, stall, exceeds);
    let task = Box::pin(within(prepared.own.clone(), task));
    let making = Arc::clone(generation);
    let task = async move { making.start.while_running(|| !making.is_open(), task).await };
    let task = prepared.lanes.spawn(task);
    // Aborts also when the control threads end, or a computing guest would run forever.
    let _abort = AbortOnDrop(task.abort_handle());
    let end = async {
        let limit = prepared.limits.open_timeout;
        let opened = match tokio::time::timeout(limit, is_ready).await {
            Ok(Ok(())) => {
                shared.set_ready();
                true
            }
            // The task has ended; its result has the cause.
            Ok(Err(_)) => false,
            Err(_) => {
                let cause = format!(
                    "constructor or open gave no answer within {limit:?}; raise limits.open_timeout_ms if it needs longer"
                );
                return LaneEnd::NotStarted(cause);
            }
        };
        let dead = match task.await {
            Ok(TaskEnd::Closed) => return LaneEnd::Closed,
            Ok(TaskEnd::NotStarted(cause)) => return LaneEnd::NotStarted(cause),
            Ok(TaskEnd::Trapped(trap)) => trap,
            Err(error) if error.is_panic() => "the host's side panicked; please report this".into(),
            Err(_) => "the lane's thread is gone".into(),
        };
        // Otherwise an instance that dies without a call would be restarted forever, without a pause.
        if opened && generation.was_used() {
            // Of the calls inside, it is not known which one trapped.
            LaneEnd::Trapped(match generation.methods_inside() {
                inside if inside.is_empty() => dead,
                inside => format!("{}: {dead}", inside.trim_start()),
            })
        } else {
            LaneEnd::NotStarted(format!("trapped: {dead}"))
        }
    };
    tokio::select! {
        biased;
        reason = shared.retired(generation) => match reason {
            None => LaneEnd::Closed,
            Some(reason) if generation.was_used() => LaneEnd::Retired(reason),
            Some(reason) => LaneEnd::NotStarted(reason),
        },
        Ok(()) = changes.changed() => LaneEnd::Outdated,
        ended = end => ended,
    }
}

/// Retires a lane whose task does not run although calls are inside or queued. Calls of a class in blocking style may
/// block the task, so only their deadlines limit them.
pub(super) async fn watch(jobs: async_channel::Receiver<Job>, shared: Arc<LaneShared>) {
    let stall = shared.limits.lane_stall;
    loop {
        shared.busy.notified().await;
        if shared.status().state == LaneState::Closed {
            return;
        }
        loop {
            let generation = shared.current();
            if generation.in_flight() == 0 && jobs.is_empty() {
                break;
            }
            let was_open = generation.is_open();
            let before = generation.progress();
            generation.ping.notify_one();
            tokio::time::sleep(stall).await;
            let is_due = match generation.in_flight() {
                0 => was_open && !jobs.is_empty(),
                _ => !shared.blocking,
            };
            if is_due && generation.progress() == before {
                let inside = generation.methods_inside();
                let reason = format!(
                    "no progress for {stall:?}{inside}: the guest computes or blocks; let it await, or split its work"
                );
                shared.retire(&generation, reason);
            }
        }
    }
}
