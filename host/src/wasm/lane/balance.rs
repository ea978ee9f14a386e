//! Compares how long a lane's task computes while no caller waits for it with how long it rests.
//!
//! Computing is the processor time of the thread that polls the task, host functions included, so other load on the
//! machine does not count. Rest is the time from the end of such a turn to the next wake-up. So neither a yield counts
//! as rest, nor the time before a woken task is polled. A turn that begins while a caller waits does not count and
//! reads no clock: deadlines and the watchdog cover it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

use crate::wasm::cpu_time::thread_cpu_time;

/// The clocks that measure computing and rest.
pub(super) trait Clocks: Send + Sync + 'static {
    /// Returns the time since the clock was made.
    fn wall(&self) -> Duration;
    /// Returns the processor time of the calling thread.
    fn processor(&self) -> Duration;
}

/// The system's clocks.
pub(super) struct SystemClocks(Instant);

impl SystemClocks {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clocks for SystemClocks {
    fn wall(&self) -> Duration {
        self.0.elapsed()
    }

    fn processor(&self) -> Duration {
        thread_cpu_time()
    }
}

/// Drives a lane's task. Calls `exceeds` after each turn at whose end the task has computed more than `limit` longer
/// than it rested. Only turns that begin while `is_unattended` count.
pub(super) async fn weighed<F: Future>(
    task: F,
    clocks: impl Clocks,
    is_unattended: impl Fn() -> bool + Send + Sync + 'static,
    limit: Duration,
    exceeds: impl Fn(),
) -> F::Output {
    let alarm = Arc::new(Alarm {
        clocks,
        is_unattended,
        task: AtomicWaker::new(),
        is_timed: AtomicBool::new(false),
        woken_ns: AtomicU64::new(NOT_WOKEN),
    });
    let waker = Waker::from(Arc::clone(&alarm));
    let mut balance = Balance::default();
    let mut task = pin!(task);
    poll_fn(|outer| {
        let mut inner = Context::from_waker(&waker);
        alarm.task.register(outer.waker());
        if !(alarm.is_unattended)() {
            alarm.stop_timing();
            return task.as_mut().poll(&mut inner);
        }
        balance.rested_until(alarm.time_turn());
        let before = alarm.clocks.processor();
        let polled = task.as_mut().poll(&mut inner);
        balance.computed(alarm.clocks.processor().saturating_sub(before), alarm.clocks.wall());
        if balance.owed > limit {
            exceeds();
        }
        polled
    })
    .await
}

/// How much longer the task has computed than rested.
#[derive(Default)]
struct Balance {
    owed: Duration,
    /// The end of the last turn that counted.
    rests_since: Duration,
}

impl Balance {
    fn rested_until(&mut self, woken: Duration) {
        self.owed = self.owed.saturating_sub(woken.saturating_sub(self.rests_since));
    }

    fn computed(&mut self, processor_time: Duration, ended: Duration) {
        self.owed += processor_time;
        self.rests_since = ended;
    }
}

const NOT_WOKEN: u64 = 0;

/// Wakes the task, and records when it was first woken since its last turn began.
struct Alarm<C, U> {
    clocks: C,
    is_unattended: U,
    task: AtomicWaker,
    /// Whether the last turn counted: then the rest after it counts too.
    is_timed: AtomicBool,
    /// In nanoseconds of the wall clock, or [`NOT_WOKEN`].
    woken_ns: AtomicU64,
}

impl<C: Clocks, U: Fn() -> bool> Alarm<C, U> {
    /// Begins a turn that counts. Returns when the rest before it ended.
    fn time_turn(&self) -> Duration {
        // Before the turn: a task that is woken in its own turn has no rest.
        self.is_timed.store(true, Ordering::Release);
        match self.woken_ns.swap(NOT_WOKEN, Ordering::AcqRel) {
            NOT_WOKEN => self.clocks.wall(),
            ns => Duration::from_nanos(ns),
        }
    }

    fn stop_timing(&self) {
        self.is_timed.store(false, Ordering::Release);
        self.woken_ns.store(NOT_WOKEN, Ordering::Release);
    }
}

impl<C: Clocks, U: Fn() -> bool + Send + Sync + 'static> Wake for Alarm<C, U> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The turn that a call causes does not count.
        if self.is_timed.load(Ordering::Acquire)
            && self.woken_ns.load(Ordering::Acquire) == NOT_WOKEN
            && (self.is_unattended)()
        {
            let ns = u64::try_from(self.clocks.wall().as_nanos()).unwrap_or(u64::MAX).max(1);
            // If two wake it at the same time, the first counts.
            let _second = self.woken_ns.compare_exchange(NOT_WOKEN, ns, Ordering::AcqRel, Ordering::Acquire);
        }
        self.task.wake();
    }
}

#[cfg(test)]
mod tests;
