//! Waiting for a future on the calling thread, for callers without an executor.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::unbudgeted;

/// Runs `future` on the calling thread, for callers without an executor. Inside a task of an executor it blocks the
/// executor's thread, but still makes progress.
pub fn block_on<F: Future>(future: F) -> F::Output {
    with_parker(|parker| parker.drive(future, None)).unwrap_or_else(|| unreachable!("there is no limit"))
}

/// Like [`block_on`], for at most `limit`. Returns `None` if the future is not ready by then; call it again to continue
/// with the same future. Polls the future at least once, also with a limit of zero. A caller that has to look for
/// something else between two waits, such as signals of an interpreter, calls this in a loop.
///
/// ```
/// use std::{future, pin::pin, time::Duration};
/// use kvtier::block_on_for;
///
/// let mut never = pin!(future::pending::<()>());
/// assert_eq!(block_on_for(never.as_mut(), Duration::from_millis(1)), None);
/// let mut ready = pin!(future::ready(7));
/// assert_eq!(block_on_for(ready.as_mut(), Duration::ZERO), Some(7));
/// ```
pub fn block_on_for<F: Future>(future: Pin<&mut F>, limit: Duration) -> Option<F::Output> {
    with_parker(|parker| parker.drive(future, Some(limit)))
}

fn with_parker<T>(wait: impl FnOnce(&Parker) -> T) -> T {
    thread_local! {
        /// Made once per thread: most calls are answered by the CPU tier and take less time than making it.
        static OWN: (Parker, Cell<bool>) = (Parker::new(), Cell::new(false));
    }
    OWN.with(|(own, is_busy)| {
        if is_busy.replace(true) {
            // Called by a future that this thread already blocks on, and whose wake-ups must not be consumed.
            return wait(&Parker::new());
        }
        let _idle = Idle(is_busy);
        wait(own)
    })
}

/// Marks a thread's parker as free again, even if a future panics.
struct Idle<'a>(&'a Cell<bool>);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Drives a future on one thread, which it parks until the future is woken.
struct Parker {
    park_waker: Arc<ParkWaker>,
    waker: Waker,
}

/// Wakes the thread of a [`Parker`].
struct ParkWaker {
    thread: Thread,
    is_woken: AtomicBool,
}

impl Wake for ParkWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Parker {
    fn new() -> Self {
        let park_waker = Arc::new(ParkWaker { thread: thread::current(), is_woken: AtomicBool::new(false) });
        Self { waker: Waker::from(Arc::clone(&park_waker)), park_waker }
    }

    /// Polls a future until it is ready, or until the limit has passed.
    fn drive<F: Future>(&self, future: F, limit: Option<Duration>) -> Option<F::Output> {
        let mut context = Context::from_waker(&self.waker);
        let mut future = pin!(unbudgeted(future));
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            // Most calls end here, and reading the clock would be a good part of their time.
            return Some(value);
        }
        // A limit beyond the clock's end is none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            // Other code that parks this thread may have used up the token.
            while !self.park_waker.is_woken.swap(false, Ordering::Acquire) {
                let Some(deadline) = deadline else {
                    thread::park();
                    continue;
                };
                match deadline.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => return None,
                    left => thread::park_timeout(left),
                }
            }
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return Some(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Pends once, and is woken while the thread sleeps in its own call.
    #[test]
    fn a_blocking_call_inside_a_future_takes_no_wake_up_of_that_future() {
        let mut n_polls = 0;
        let outer = poll_fn(|context| {
            n_polls += 1;
            if n_polls > 1 {
                return Poll::Ready(n_polls);
            }
            let waker = context.waker().clone();
            let (wake, woken) = futures::channel::oneshot::channel();
            // The outer one first; the inner call sleeps for later events.
            let waking = thread::spawn(move || {
                waker.wake();
                wake.send(())
            });
            block_on(woken).ok();
            waking.join().ok();
            Poll::Pending
        });
        assert_eq!(block_on(outer), 2);
        assert_eq!(block_on(async { 3 }), 3, "and the thread's own parker is free again");
    }

    #[test]
    fn a_wait_with_a_limit_ends_at_the_limit_and_loses_no_wake_up() {
        let (send, receive) = futures::channel::oneshot::channel();
        let mut receive = pin!(receive);
        assert!(block_on_for(receive.as_mut(), Duration::ZERO).is_none());
        assert!(block_on_for(receive.as_mut(), Duration::from_millis(1)).is_none());
        let sending = thread::spawn(move || send.send(5));
        assert_eq!(block_on_for(receive.as_mut(), Duration::MAX), Some(Ok(5)));
        sending.join().unwrap().unwrap();
        // Woken between two waits, when nothing is parked.
        let (send, receive) = futures::channel::oneshot::channel();
        let mut receive = pin!(receive);
        assert!(block_on_for(receive.as_mut(), Duration::ZERO).is_none());
        send.send(6).unwrap();
        assert_eq!(block_on_for(receive.as_mut(), Duration::ZERO), Some(Ok(6)));
        // Inside a future that the thread blocks on.
        let outer = async { block_on_for(pin!(std::future::pending::<()>()), Duration::from_millis(1)) };
        assert_eq!(block_on(outer), None);
    }
}
