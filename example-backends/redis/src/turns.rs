//! Turns: at most so many at a time, first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Gives out a number of turns. Who waits is served in the order of coming, so nobody starves.
pub(crate) struct Turns {
    /// Not 0 only if nobody waits.
    n_free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Waiting>>>,
}

#[derive(Default)]
struct Waiting {
    has_turn: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A turn, given back when it is dropped.
pub(crate) struct Turn(Rc<Turns>);

impl Turns {
    pub(crate) fn new(n_turns: usize) -> Rc<Self> {
        Rc::new(Self { n_free: Cell::new(n_turns), waiting: RefCell::default() })
    }

    /// Waits for a turn. Must be awaited to its end: a turn that nobody takes is lost.
    pub(crate) async fn next(self: &Rc<Self>) -> Turn {
        match self.n_free.get().checked_sub(1) {
            Some(n_free) => self.n_free.set(n_free),
            None => self.wait().await,
        }
        Turn(Rc::clone(self))
    }

    async fn wait(&self) {
        let waiting = Rc::new(Waiting::default());
        self.waiting.borrow_mut().push_back(Rc::clone(&waiting));
        poll_fn(|cx| {
            if waiting.has_turn.get() {
                return Poll::Ready(());
            }
            waiting.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.0.waiting.borrow_mut().pop_front();
        let Some(next) = next else { return self.0.n_free.set(self.0.n_free.get() + 1) };
        next.has_turn.set(true);
        next.waker.take().into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::Turns;

    #[test]
    fn turns_come_in_order_and_come_back() {
        let turns = Turns::new(1);
        let mut cx = Context::from_waker(Waker::noop());
        let (mut a, mut b, mut c) = (pin!(turns.next()), pin!(turns.next()), pin!(turns.next()));
        let Poll::Ready(first) = a.as_mut().poll(&mut cx) else { panic!("free") };
        assert!(b.as_mut().poll(&mut cx).is_pending() && c.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert!(c.as_mut().poll(&mut cx).is_pending(), "not its turn");
        let Poll::Ready(second) = b.as_mut().poll(&mut cx) else { panic!("its turn") };
        assert!(pin!(turns.next()).poll(&mut cx).is_pending(), "nobody jumps the queue");
        drop(second);
        assert!(c.as_mut().poll(&mut cx).is_ready());
    }
}
