//! Notifications about changes of flights, for the retrievals that subscribe to them.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures::task::AtomicWaker;

use crate::sync::lock;

/// The changes that a retrieval has not seen yet: one queue for all of its flights.
#[derive(Default)]
pub(in crate::manager) struct Notifications {
    changed: Mutex<Vec<usize>>,
    waker: AtomicWaker,
}

impl Notifications {
    /// Notes a change of the flight at this position of the request.
    pub(super) fn note(&self, index: usize) {
        lock(&self.changed).push(index);
    }

    /// Returns the positions of flights that have changed since the last call, without waiting.
    pub(in crate::manager) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut lock(&self.changed))
    }

    /// Waits for a change, and returns the positions of all flights that have changed.
    pub(in crate::manager) async fn next(&self) -> Vec<usize> {
        poll_fn(|context| {
            self.waker.register(context.waker());
            match self.take() {
                none if none.is_empty() => Poll::Pending,
                some => Poll::Ready(some),
            }
        })
        .await
    }
}

/// A retrieval that wants a flight's chunk.
pub(super) struct Subscriber {
    pub(super) notifications: Arc<Notifications>,
    /// The chunk's position in its request.
    pub(super) index: usize,
}

/// Retrievals to wake once the table is unlocked.
#[derive(Default)]
pub(super) struct ToWake(Vec<Arc<Notifications>>);

impl ToWake {
    /// Notifies the subscribers of a flight. They wake later.
    pub(super) fn notify(&mut self, subscribers: &[Subscriber]) {
        for subscriber in subscribers {
            subscriber.notifications.note(subscriber.index);
            if !self.0.iter().any(|notifications| Arc::ptr_eq(notifications, &subscriber.notifications)) {
                self.0.push(Arc::clone(&subscriber.notifications));
            }
        }
    }

    pub(super) fn wake(self) {
        self.0.iter().for_each(|notifications| notifications.waker.wake());
    }
}
