//! A bound on how much goes on at once in all calls of an instance.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A number of permits.
pub(crate) struct Permits {
    free: Cell<usize>,
    tickets: Cell<u64>,
    /// Those who wait, by ticket: who came first is woken first.
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

impl Permits {
    pub(crate) fn new(n: usize) -> Self {
        Self { free: Cell::new(n), tickets: Cell::new(0), waiting: RefCell::default() }
    }

    /// Waits until a permit is free, and holds it until the guard is dropped.
    pub(crate) fn take(&self) -> Take<'_> {
        let ticket = self.tickets.replace(self.tickets.get() + 1);
        Take { permits: self, ticket }
    }

    fn wake_next(&self) {
        let next = self.waiting.borrow_mut().pop_first();
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }
}

/// Waits for a permit.
pub(crate) struct Take<'a> {
    permits: &'a Permits,
    ticket: u64,
}

impl<'a> Future for Take<'a> {
    type Output = Permit<'a>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit<'a>> {
        let (permits, ticket) = (self.permits, self.ticket);
        match permits.free.get() {
            0 => {
                permits.waiting.borrow_mut().insert(ticket, cx.waker().clone());
                Poll::Pending
            }
            n => {
                permits.free.set(n - 1);
                permits.waiting.borrow_mut().remove(&ticket);
                Poll::Ready(Permit(permits))
            }
        }
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        self.permits.waiting.borrow_mut().remove(&self.ticket);
        // It may be the one that was woken for what is free now.
        if self.permits.free.get() > 0 {
            self.permits.wake_next();
        }
    }
}

/// One permit.
pub(crate) struct Permit<'a>(&'a Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.wake_next();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::Permits;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn no_more_than_so_many_are_out_and_who_waits_is_woken() {
        let permits = Permits::new(2);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(permits.take()).poll(&mut cx) else { panic!("two are free") };
        let Poll::Ready(_second) = pin!(permits.take()).poll(&mut cx) else { panic!("one is free") };
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut third = pin!(permits.take());
        assert!(third.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(first);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(third.poll(&mut cx).is_ready());
    }

    #[test]
    fn who_gives_up_passes_the_permit_on() {
        let permits = Permits::new(1);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(only) = pin!(permits.take()).poll(&mut cx) else { panic!("one is free") };
        let mut gives_up = Box::pin(permits.take());
        assert!(gives_up.as_mut().poll(&mut cx).is_pending());
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut patient = pin!(permits.take());
        assert!(patient.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(only);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        drop(gives_up);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(patient.poll(&mut cx).is_ready());
    }
}
