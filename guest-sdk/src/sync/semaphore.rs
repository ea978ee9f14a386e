//! A bound on how much goes on at once in all calls of an instance.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Gives out a number of permits, first come, first served, so that no call starves.
///
/// Calls wake each other here, which needs the feature `inter-task-wakeup`.
///
/// ```
/// # use kvtier_guest::sync::Semaphore;
/// # futures::executor::block_on(async {
/// let connections = Semaphore::new(2);
/// let permit = connections.acquire().await;
/// // At most two calls are here.
/// drop(permit);
/// # });
/// ```
#[derive(Debug)]
pub struct Semaphore(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    /// 0 while a call waits.
    n_free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Waiting>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    has_permit: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A place in the queue for a permit, as of the call of [`Semaphore::acquire`]. Dropping it passes the place, or the
/// permit, on to the next.
#[derive(Debug)]
pub struct Acquire {
    shared: Rc<Shared>,
    waiting: Rc<Waiting>,
}

/// A permit, given back when it is dropped.
#[derive(Debug)]
pub struct Permit(Rc<Shared>);

impl Semaphore {
    /// Makes `n` permits.
    pub fn new(n: usize) -> Self {
        Self(Rc::new(Shared { n_free: Cell::new(n), waiting: RefCell::default() }))
    }

    /// Waits for a permit.
    pub fn acquire(&self) -> Acquire {
        let (shared, waiting) = (Rc::clone(&self.0), Rc::new(Waiting::default()));
        if let Some(n_free) = shared.n_free.get().checked_sub(1) {
            shared.n_free.set(n_free);
            waiting.has_permit.set(true);
        } else {
            shared.waiting.borrow_mut().push_back(Rc::clone(&waiting));
        }
        Acquire { shared, waiting }
    }
}

impl Shared {
    fn give_back(&self) {
        let next = self.waiting.borrow_mut().pop_front();
        let Some(next) = next else { return self.n_free.set(self.n_free.get() + 1) };
        next.has_permit.set(true);
        next.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        if self.waiting.has_permit.take() {
            return Poll::Ready(Permit(Rc::clone(&self.shared)));
        }
        self.waiting.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if self.waiting.has_permit.get() {
            self.shared.give_back();
        } else {
            self.shared.waiting.borrow_mut().retain(|waiting| !Rc::ptr_eq(waiting, &self.waiting));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::{Acquire, Permit, Semaphore};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(acquire: Pin<&mut Acquire>) -> Option<Permit> {
        match acquire.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn permits_come_in_order_and_come_back() {
        let permits = Semaphore::new(1);
        let (mut a, mut b, mut c) =
            (pin!(permits.acquire()), pin!(permits.acquire()), pin!(permits.acquire()));
        let first = poll(a.as_mut()).expect("it is free");
        assert!(poll(c.as_mut()).is_none() && poll(b.as_mut()).is_none());
        drop(first);
        assert!(poll(c.as_mut()).is_none(), "another came before, though it was asked later");
        let second = poll(b.as_mut()).expect("it is the next");
        assert!(poll(pin!(permits.acquire())).is_none(), "nothing overtakes");
        drop(second);
        assert!(poll(c.as_mut()).is_some());
        assert!(poll(pin!(permits.acquire())).is_some(), "it has come back");
    }

    #[test]
    fn no_more_than_so_many_are_out_and_one_that_waits_is_woken_once() {
        let permits = Semaphore::new(2);
        let first = poll(pin!(permits.acquire())).expect("two are free");
        let _second = poll(pin!(permits.acquire())).expect("one is free");
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut third = pin!(permits.acquire());
        assert!(third.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(first);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(poll(third).is_some());
    }

    #[test]
    fn a_wait_that_is_given_up_passes_its_permit_or_its_place_on() {
        let permits = Semaphore::new(1);
        let only = poll(pin!(permits.acquire())).expect("one is free");
        let (has_place, has_permit, mut next) =
            (permits.acquire(), permits.acquire(), pin!(permits.acquire()));
        drop(has_place);
        drop(only);
        assert!(poll(next.as_mut()).is_none());
        drop(has_permit);
        assert!(poll(next).is_some());
        assert!(poll(pin!(permits.acquire())).is_some());
    }
}
