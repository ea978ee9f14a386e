//! Waiting for memory, with or without an async executor.

use std::time::Instant;

use crate::sync::{AtomicUsize, Condvar, Mutex, Notify, Ordering, lock, wait_timeout};

/// Notifies waiters that memory may have become available: a buffer returned to its provider, or a held chunk became
/// evictable.
///
/// A caller makes a [`Waiter`], tries to allocate, waits, and tries again. It never misses a release that happens after
/// the waiter was made. Every release wakes all waiters. Without waiters it costs one load.
#[derive(Debug, Default)]
pub struct ReleaseSignal {
    n_waiters: AtomicUsize,
    /// Counts the releases at which there were waiters.
    epoch: Mutex<u64>,
    blocking: Condvar,
    asynchronous: Notify,
}

impl ReleaseSignal {
    /// Makes a signal without waiters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a waiter.
    pub fn waiter(&self) -> Waiter<'_> {
        self.n_waiters.fetch_add(1, Ordering::SeqCst);
        Waiter { signal: self, epoch_seen: *lock(&self.epoch) }
    }

    /// Wakes all waiters. Call it after the memory has become available, outside any lock.
    pub fn notify(&self) {
        // A waiter registers before it looks for memory under the provider's or the index's lock, and the caller took
        // the same lock to make memory available. So a waiter that found none is visible here, and a waiter that is not
        // yet visible will find the memory.
        if self.n_waiters.load(Ordering::SeqCst) == 0 {
            return;
        }
        *lock(&self.epoch) += 1;
        self.blocking.notify_all();
        self.asynchronous.notify_waiters();
    }
}

/// One registered wait; see [`ReleaseSignal`].
#[derive(Debug)]
pub struct Waiter<'a> {
    signal: &'a ReleaseSignal,
    epoch_seen: u64,
}

impl Waiter<'_> {
    /// Waits until a release after this waiter was made, or after its last wait ended. Needs no particular executor and
    /// has no time limit: the caller sets a deadline.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn released(&mut self) {
        loop {
            // Made before the epoch is read, so that it gets every `notify_waiters` from here on.
            let notified = self.signal.asynchronous.notified();
            if self.take_news() {
                return;
            }
            notified.await;
        }
    }

    /// Blocks the thread until a release after this waiter was made, or after its last wait ended, or until `deadline`.
    /// Reports whether there was a release.
    pub fn wait_until(&mut self, deadline: Instant) -> bool {
        let mut epoch = lock(&self.signal.epoch);
        while *epoch == self.epoch_seen {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            epoch = wait_timeout(&self.signal.blocking, epoch, left);
        }
        self.epoch_seen = *epoch;
        true
    }

    fn take_news(&mut self) -> bool {
        let epoch = *lock(&self.signal.epoch);
        let is_news = epoch != self.epoch_seen;
        self.epoch_seen = epoch;
        is_news
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.signal.n_waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Wake};
    use std::time::{Duration, Instant};

    use super::ReleaseSignal;

    #[derive(Default)]
    struct CountingWake(AtomicU32);

    impl Wake for CountingWake {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_async_waiter_is_woken_by_a_release_and_only_by_one() {
        let signal = ReleaseSignal::new();
        let count = Arc::new(CountingWake::default());
        let waker = Arc::clone(&count).into();
        let mut context = Context::from_waker(&waker);
        let mut waiter = signal.waiter();
        {
            let mut released = pin!(waiter.released());
            assert_eq!(released.as_mut().poll(&mut context), Poll::Pending);
            assert_eq!(count.0.load(Ordering::SeqCst), 0);
            signal.notify();
            assert_eq!(count.0.load(Ordering::SeqCst), 1);
            assert_eq!(released.as_mut().poll(&mut context), Poll::Ready(()));
        }
        assert_eq!(pin!(waiter.released()).poll(&mut context), Poll::Pending);
    }

    #[test]
    fn a_release_between_the_attempt_and_the_wait_is_not_missed() {
        let signal = ReleaseSignal::new();
        let mut waiter = signal.waiter();
        signal.notify();
        assert!(waiter.wait_until(Instant::now()));
        assert!(!waiter.wait_until(Instant::now()));
        signal.notify();
        let waker = Arc::new(CountingWake::default()).into();
        let mut context = Context::from_waker(&waker);
        assert_eq!(pin!(waiter.released()).poll(&mut context), Poll::Ready(()));
    }

    #[test]
    fn a_blocked_thread_is_woken_by_a_release() {
        let signal = ReleaseSignal::new();
        let mut waiter = signal.waiter();
        std::thread::scope(|scope| {
            let blocked = scope.spawn(move || waiter.wait_until(Instant::now() + Duration::from_mins(1)));
            signal.notify();
            assert!(blocked.join().unwrap());
        });
    }
}
