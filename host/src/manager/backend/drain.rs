//! Waiting until the put queue of one backend is empty, and cancelling queued puts.

use std::pin::pin;
use std::time::Instant;

use super::Backend;
use super::queue::Cancelled;
use crate::key::ChunkKey;
use crate::metrics::DropReason;

impl Backend {
    /// Waits until no put, or no put of `keys`, is queued or in flight. Reports whether that was before `deadline`.
    pub(in crate::manager) async fn drained(&self, keys: Option<&[ChunkKey]>, deadline: Instant) -> bool {
        self.wait_for(|| self.queue.is_idle(keys), deadline).await
    }

    pub(super) async fn wait_for(&self, done: impl Fn() -> bool, deadline: Instant) -> bool {
        loop {
            let settled = self.queue.settled();
            let mut settled = pin!(settled);
            settled.as_mut().enable();
            if done() {
                return true;
            }
            if self.control.until(deadline, settled).await.is_err() {
                return done();
            }
        }
    }

    /// Cancels the queued puts of `keys`, or of all keys.
    pub(in crate::manager) fn cancel_puts(&self, keys: Option<&[ChunkKey]>) -> Cancelled {
        let cancelled = self.queue.cancel(keys, DropReason::Removed);
        self.metrics.drop_puts(DropReason::Removed, cancelled.n_chunks as u64);
        cancelled
    }
}
