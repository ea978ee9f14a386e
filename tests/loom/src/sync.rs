//! Replaces `host/src/sync.rs`.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use std::sync::PoisonError;
use std::time::Duration;

pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}

/// What tokio guarantees for its `Notify`: a future receives every `notify_waiters` after its creation.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    state: Mutex<(u64, Vec<Waker>)>,
}

impl Notify {
    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, n_seen: lock(&self.state).0 }
    }

    pub(crate) fn notify_waiters(&self) {
        let mut state = lock(&self.state);
        state.0 += 1;
        let wakers = std::mem::take(&mut state.1);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    n_seen: u64,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.notify.state);
        if state.0 != self.n_seen {
            return Poll::Ready(());
        }
        state.1.push(context.waker().clone());
        Poll::Pending
    }
}
