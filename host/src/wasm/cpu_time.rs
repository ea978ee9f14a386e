//! Processor time that an attempt to start a backend has cost, so that the next attempt can wait in proportion.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::limits::{RESTART_CPU_TIME_FACTOR, RESTART_CPU_TIME_FREE, RESTART_CPU_TIME_PAUSE_MAX};

/// Adds up processor time.
#[derive(Debug, Default)]
pub(super) struct CpuTime {
    nanoseconds: AtomicU64,
}

impl CpuTime {
    pub(super) fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // It would overflow after five hundred years.
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn total(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// Runs `work` and adds the processor time that this thread spends on it.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_cpu_time();
        let outcome = work();
        self.add(thread_cpu_time().saturating_sub(before));
        outcome
    }

    /// Runs a future and adds the processor time of the threads that poll it, while `counts` returns true.
    pub(super) async fn while_running<F: Future>(&self, counts: impl Fn() -> bool, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(
            |cx| {
                if counts() { self.during(|| future.as_mut().poll(cx)) } else { future.as_mut().poll(cx) }
            },
        )
        .await
    }
}

/// Returns the processor time of the calling thread.
pub(super) fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// Returns how long to wait after an attempt that took `cpu_time`. `n_at_once` attempts run side by side, and at most
/// one part in [`RESTART_CPU_TIME_FACTOR`] of the time goes into attempts.
pub(super) fn pause_after(cpu_time: Duration, n_at_once: usize) -> Duration {
    let n_at_once = u32::try_from(n_at_once).unwrap_or(u32::MAX);
    let pause = cpu_time.saturating_mul(RESTART_CPU_TIME_FACTOR).saturating_mul(n_at_once);
    pause.min(RESTART_CPU_TIME_PAUSE_MAX)
}

/// Returns how long to wait after an instance that has served. Its start took `cpu_time` and was `lived` ago. After a
/// costly start the pause is that of [`pause_after`], less `lived`.
pub(super) fn pause_after_serving(cpu_time: Duration, lived: Duration, n_at_once: usize) -> Duration {
    if cpu_time < RESTART_CPU_TIME_FREE {
        return Duration::ZERO;
    }
    pause_after(cpu_time, n_at_once).saturating_sub(lived)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    /// Computes until the thread's clock has moved by `time`.
    fn compute(time: Duration) {
        let end = thread_cpu_time() + time;
        while thread_cpu_time() < end {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_time_of_every_poll_counts_and_that_between_polls_does_not() {
        const SLICE: Duration = Duration::from_millis(1);
        let cpu_time = CpuTime::default();
        let mut n_polls = 0;
        let work = poll_fn(|cx| {
            compute(SLICE);
            n_polls += 1;
            cx.waker().wake_by_ref();
            if n_polls == 3 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut work = Box::pin(cpu_time.while_running(|| true, work));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while work.as_mut().poll(&mut cx).is_pending() {
            compute(100 * SLICE);
        }
        drop(work);
        assert!(cpu_time.total() >= 3 * SLICE, "{:?}", cpu_time.total());
        assert!(cpu_time.total() < 100 * SLICE, "{:?}", cpu_time.total());
    }

    #[test]
    fn what_does_not_count_is_not_added() {
        let cpu_time = CpuTime::default();
        let work = cpu_time.while_running(|| false, async { compute(Duration::from_millis(1)) });
        crate::runtime::block_on(work);
        assert_eq!(cpu_time.total(), Duration::ZERO);
    }

    #[test]
    fn the_pause_is_ten_times_what_all_lanes_spend_and_ten_minutes_at_most() {
        let seconds = Duration::from_secs;
        assert_eq!(pause_after(Duration::ZERO, 1), Duration::ZERO);
        assert_eq!(pause_after(seconds(10), 1), seconds(100));
        assert_eq!(pause_after(seconds(10), 4), seconds(400));
        assert_eq!(pause_after(seconds(10), 64), seconds(600));
        assert_eq!(pause_after(Duration::MAX, usize::MAX), seconds(600));
    }

    #[test]
    fn an_instance_that_has_served_pays_for_a_costly_start_and_for_no_other() {
        let seconds = Duration::from_secs;
        assert_eq!(pause_after_serving(Duration::from_millis(999), Duration::ZERO, 64), Duration::ZERO);
        assert_eq!(pause_after_serving(seconds(9), seconds(10), 1), seconds(80));
        assert_eq!(pause_after_serving(seconds(9), seconds(10), 2), seconds(170));
        assert_eq!(pause_after_serving(seconds(9), seconds(90), 1), Duration::ZERO);
    }
}
