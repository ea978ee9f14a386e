//! Silent connections are closed, without a timer for each wait: the next call looks after those that are waiting.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

/// Watches the connections to one server.
#[derive(Default)]
pub(crate) struct Watch {
    waits: RefCell<Vec<Weak<Wait>>>,
}

/// One connection's side of it.
#[derive(Default)]
pub(crate) struct Wait {
    /// Since when it has been waiting, in nanoseconds; `None` if that began after the last look.
    since: Cell<Option<u64>>,
    /// Is there as long as it waits.
    waker: RefCell<Option<Waker>>,
    is_given_up: Cell<bool>,
}

impl Watch {
    /// Watches a connection as long as it lives.
    pub(crate) fn add(&self) -> Rc<Wait> {
        let wait = Rc::new(Wait::default());
        self.waits.borrow_mut().push(Rc::downgrade(&wait));
        wait
    }

    /// Ends the waits that began at least `timeout_ns` before `now_ns`, according to earlier checks.
    pub(crate) fn look(&self, now_ns: u64, timeout_ns: u64) {
        self.waits.borrow_mut().retain(|wait| {
            let Some(wait) = wait.upgrade() else { return false };
            if wait.waker.borrow().is_some() {
                let since = wait.since.get().unwrap_or(now_ns);
                wait.since.set(Some(since));
                if now_ns - since >= timeout_ns {
                    wait.is_given_up.set(true);
                    wait.waker.take().into_iter().for_each(Waker::wake);
                }
            }
            true
        });
    }
}

impl Wait {
    /// Waits for `work`, which is one step. `None` if it has been given up.
    pub(crate) async fn step<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        self.since.set(None);
        // The step before may have been done in the moment in which it was given up.
        self.is_given_up.set(false);
        let done = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.is_given_up.get() => Poll::Ready(None),
            Poll::Pending => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        });
        let done = done.await;
        self.waker.take();
        done
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::Watch;

    #[test]
    fn only_those_that_wait_too_long_are_given_up() {
        let watch = Watch::default();
        let (a, b) = (watch.add(), watch.add());
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = pin!(a.step(pending::<()>()));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        watch.look(1_000, 100);
        watch.look(1_099, 100);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        let mut later = pin!(b.step(pending::<()>()));
        assert!(later.as_mut().poll(&mut cx).is_pending());
        watch.look(1_100, 100);
        assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(None));
        assert!(later.as_mut().poll(&mut cx).is_pending());
    }

    #[test]
    fn a_step_that_is_done_in_the_moment_in_which_it_is_given_up_does_not_harm_the_next() {
        let watch = Watch::default();
        let wait = watch.add();
        let mut cx = Context::from_waker(Waker::noop());
        let is_done = std::cell::Cell::new(false);
        {
            let mut waiting = pin!(wait.step(std::future::poll_fn(|_| {
                if is_done.get() { Poll::Ready(()) } else { Poll::Pending }
            })));
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            watch.look(1_000, 100);
            watch.look(1_100, 100);
            is_done.set(true);
            assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(Some(())));
        }
        assert!(pin!(wait.step(pending::<()>())).poll(&mut cx).is_pending());
    }

    #[test]
    fn a_step_that_is_done_starts_the_clock_anew() {
        let watch = Watch::default();
        let wait = watch.add();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            {
                let mut waiting = pin!(wait.step(pending::<()>()));
                assert!(waiting.as_mut().poll(&mut cx).is_pending());
                watch.look(1_000, 100);
            }
            assert_eq!(pin!(wait.step(ready(7))).poll(&mut cx), Poll::Ready(Some(7)));
            watch.look(1_200, 100);
        }
        assert_eq!(pin!(wait.step(ready(7))).poll(&mut cx), Poll::Ready(Some(7)));
        drop(wait);
        watch.look(2_000, 100);
        assert!(watch.waits.borrow().is_empty());
    }
}
