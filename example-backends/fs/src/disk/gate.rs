//! How many operations on files are under way at a time. The host refuses those beyond `limits.file_operations_max`; here
//! they wait.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A quarter of what the host allows by default, for one instance.
const PENDING_MAX: usize = 256;

pub(super) struct Gate {
    n_free: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// An operation that has been let through.
pub(super) struct Pass<'a>(&'a Gate);

impl Default for Gate {
    fn default() -> Self {
        Self { n_free: Cell::new(PENDING_MAX), waiting: RefCell::default() }
    }
}

impl Gate {
    /// Waits until there are few enough, and counts one more until the pass is dropped.
    pub(super) async fn pass(&self) -> Pass<'_> {
        poll_fn(|cx| {
            let Some(n_left) = self.n_free.get().checked_sub(1) else {
                self.waiting.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            };
            self.n_free.set(n_left);
            Poll::Ready(())
        })
        .await;
        Pass(self)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.n_free.set(self.0.n_free.get() + 1);
        // All of them: one that was cancelled would swallow the only call.
        let waiting = self.0.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::{Gate, PENDING_MAX};

    #[test]
    fn one_too_many_waits_until_another_has_ended() {
        let gate = Gate::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut passes: Vec<_> = (0..PENDING_MAX)
            .map(|_| match pin!(gate.pass()).poll(&mut cx) {
                Poll::Ready(pass) => pass,
                Poll::Pending => panic!("there is room"),
            })
            .collect();
        let mut late = pin!(gate.pass());
        assert!(late.as_mut().poll(&mut cx).is_pending());
        passes.pop();
        assert!(gate.waiting.borrow().is_empty(), "it was woken");
        assert!(late.as_mut().poll(&mut cx).is_ready());
    }
}
