//! How a retrieval hears of its flights: it waits for one notifications, whichever of them changes.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures::task::AtomicWaker;

use super::FlightState;
use crate::sync::lock;

/// Tells a retrieval which of its flights have changed.
#[derive(Default)]
pub(in crate::manager) struct Notifications {
    changed: Mutex<Vec<usize>>,
    waker: AtomicWaker,
}

impl Notifications {
    pub(super) fn note(&self, index: usize) {
        lock(&self.changed).push(index);
    }

    /// Returns the positions of flights that have changed since the last time, without waiting.
    pub(in crate::manager) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut lock(&self.changed))
    }

    /// Waits until a flight has changed, and returns the positions of all that have.
    pub(in crate::manager) async fn heard(&self) -> Vec<usize> {
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

/// Whom to wake when the table's lock is free again.
#[derive(Default)]
pub(super) struct ToWake(Vec<Arc<Notifications>>);

impl ToWake {
    pub(super) fn tell(&mut self, state: &FlightState) {
        for subscriber in &state.subscribers {
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
