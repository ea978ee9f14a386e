//! How a retrieval hears of its flights: it waits for one bell, whichever of them changes.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures::task::AtomicWaker;

use super::State;
use crate::sync::lock;

/// Tells a retrieval which of its flights have changed.
#[derive(Default)]
pub(in crate::manager) struct Bell {
    rung_for: Mutex<Vec<usize>>,
    waker: AtomicWaker,
}

impl Bell {
    pub(super) fn note(&self, index: usize) {
        lock(&self.rung_for).push(index);
    }

    /// Returns the positions of flights that have changed since the last time, without waiting.
    pub(in crate::manager) fn take(&self) -> Vec<usize> {
        std::mem::take(&mut lock(&self.rung_for))
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
pub(super) struct ToWake(Vec<Arc<Bell>>);

impl ToWake {
    pub(super) fn tell(&mut self, state: &State) {
        for passenger in &state.passengers {
            passenger.bell.note(passenger.index);
            if !self.0.iter().any(|bell| Arc::ptr_eq(bell, &passenger.bell)) {
                self.0.push(Arc::clone(&passenger.bell));
            }
        }
    }

    pub(super) fn wake(self) {
        self.0.iter().for_each(|bell| bell.waker.wake());
    }
}
