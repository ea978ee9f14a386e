//! The state that a lane shares with its supervisor, its watchdog and its task.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::availability::Availability;
use super::generation::Generation;
use crate::sync::lock;
use crate::wasm::prepared::LaneLimits;

pub(super) struct LaneShared {
    /// Its place among the backend's lanes.
    pub(super) place: usize,
    pub(super) availability: Arc<Availability>,
    pub(super) limits: LaneLimits,
    /// Whether the class is in blocking style: one call at a time.
    pub(super) blocking: bool,
    pub(super) current: Mutex<Arc<Generation>>,
    /// Notifies the watchdog that a call waits or was taken in.
    pub(super) busy: Notify,
    /// Notifies the supervisor that the current generation, or the lane, must end.
    pub(super) retiring: Notify,
    /// The owner is gone: the current generation is ended.
    pub(super) ending: AtomicBool,
    /// `close` is being called: no further generation is started.
    pub(super) closing: AtomicBool,
    pub(super) restarts: AtomicU64,
    pub(super) status: Mutex<LaneStatus>,
    pub(super) changed: Notify,
}

#[derive(Clone, Debug, Default)]
pub(super) struct LaneStatus {
    pub(super) state: LaneState,
    pub(super) last_restart: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum LaneState {
    /// Being constructed and opened; calls queue.
    #[default]
    Starting,
    Ready,
    /// Could not be started; calls fail immediately until another try succeeds.
    Down(String),
    Closed,
}

impl LaneShared {
    pub(super) fn calls_in_flight_max(&self) -> usize {
        if self.blocking { 1 } else { self.limits.calls_in_flight_max }
    }

    pub(super) fn status(&self) -> LaneStatus {
        self.lock_status().clone()
    }

    pub(super) fn lock_status(&self) -> MutexGuard<'_, LaneStatus> {
        lock(&self.status)
    }

    pub(super) fn set_state(&self, state: LaneState) {
        self.lock_status().state = state;
        self.changed.notify_waiters();
    }

    pub(super) fn set_ready(&self) {
        // In one step: a reader that finds the lane ready also finds the backend in the chain, and a caller that finds
        // the backend in the chain does not find the lane down.
        let mut status = self.lock_status();
        status.state = LaneState::Ready;
        self.availability.ready(self.place);
        drop(status);
        self.changed.notify_waiters();
    }

    pub(super) fn set_down(&self, cause: String, retry_in: Duration) {
        self.availability.down(self.place, &cause, retry_in);
        self.set_state(LaneState::Down(cause));
    }

    pub(super) fn current(&self) -> Arc<Generation> {
        Arc::clone(&lock(&self.current))
    }

    /// Replaces the current generation by a new one, and returns that.
    pub(super) fn next_generation(&self) -> Arc<Generation> {
        let next = Arc::new(Generation::default());
        *lock(&self.current) = Arc::clone(&next);
        next
    }

    /// Requests the end of `generation`; has no effect if it has ended.
    pub(super) fn retire(&self, generation: &Generation, reason: String) {
        generation.retire(reason);
        self.retiring.notify_one();
    }

    /// Waits until `generation` must be retired, and returns why; `None` if the owner is gone.
    pub(super) async fn retired(&self, generation: &Generation) -> Option<String> {
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
