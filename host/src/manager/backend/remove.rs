//! Removing chunks from a backend, even from one that cannot be called at the moment.
//!
//! A removal is never skipped: a removed chunk must not come back. While the breaker of writing is open, the caller
//! gets an error immediately. The backend then owes the removal ([`Owed`](super::owed::Owed)) and gets it in the
//! background. Until it has answered, it is not asked for these keys, and a put of them comes after the removal.
//!
//! One delivery runs at a time, with the time limit of one call. Later operations wait for it to end, or until their
//! own deadline.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::queue::Cancelled;
use super::{Backend, within};
use crate::key::ChunkKey;
use crate::manager::breaker::CallOutcome;
use crate::metrics::Operation;
use crate::sync::lock;
use crate::tier::TierError;

/// Marks a background delivery as ended, even if its task was dropped.
struct Delivery(Arc<Backend>);

impl Drop for Delivery {
    fn drop(&mut self) {
        self.0.owed.under_way.store(false, Ordering::Release);
        self.0.owed.ended.notify_waiters();
    }
}

impl Backend {
    /// Removes `keys`, whose queued puts were `cancelled`, after their puts in flight. Does not wait while the breaker
    /// of writing is not closed.
    pub(in crate::manager) async fn remove(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        cancelled: Cancelled,
        deadline: Instant,
    ) -> Result<usize, TierError> {
        let started = Instant::now();
        {
            let mut pins = self.lock_pins();
            for key in keys {
                pins.remove(key);
            }
        }
        if self.breakers.writing.is_closed() {
            if self.control.until(deadline, self.deliver_removals()).await.is_err() {
                self.owe(keys, cancelled.in_flight, deadline);
                return Err(TierError::Timeout(deadline.saturating_duration_since(started)));
            }
            self.drained(Some(&cancelled.in_flight), deadline).await;
            let permit = self.breakers.writing.admit();
            let outcome = self.call_remove(keys, deadline).await;
            if let Some(permit) = permit {
                self.report(permit, CallOutcome::of(&outcome));
            }
            return outcome;
        }
        self.owe(keys, cancelled.in_flight, deadline);
        Err(self.breakers.down_cause().map_or(TierError::BreakerOpen, TierError::Down))
    }

    /// Leaves the removal of `keys` to the background. Keys that are being stored now are removed after that, perhaps
    /// for the second time.
    fn owe(self: &Arc<Self>, keys: &[ChunkKey], in_flight: Vec<ChunkKey>, deadline: Instant) {
        let n_refused = self.owed.add(keys);
        if n_refused > 0
            && let Some(n_more) = self.forgotten.due()
        {
            tracing::warn!(
                backend = %self.name, n_refused, n_more,
                "too many removals are owed; these are not remembered"
            );
        }
        if !in_flight.is_empty() {
            let backend = Arc::clone(self);
            self.control.handle().spawn(async move {
                backend.drained(Some(&in_flight), deadline).await;
                backend.owed.add(&in_flight);
                backend.deliver_removals_later();
            });
        }
        self.deliver_removals_later();
    }

    /// Makes one call that removes `keys`, and counts it.
    pub(super) async fn call_remove(&self, keys: &[ChunkKey], deadline: Instant) -> Result<usize, TierError> {
        let tier = self.tier();
        let limit = deadline.saturating_duration_since(Instant::now());
        let call = async {
            // Enforced even if the tier does not keep its deadline, because other operations wait for the end of the
            // call.
            let answer = self.control.until(deadline, tier.remove(keys.into(), deadline)).await;
            within("remove", answer.unwrap_or(Err(TierError::Timeout(limit)))?, keys)
        };
        // Before the call, for lookups and retrievals that it overtakes. After it, for chunks that were stored in
        // between and may also have been removed.
        self.removal_generation.fetch_add(1, Ordering::AcqRel);
        let outcome = self.counted(Operation::Remove, call).await;
        self.removal_generation.fetch_add(1, Ordering::AcqRel);
        self.invalidate_in_flight(Some(keys));
        outcome
    }

    /// Starts to deliver owed removals in the background, unless a delivery is under way. Reports whether there is one
    /// to wait for.
    pub(super) fn deliver_removals_later(self: &Arc<Self>) -> bool {
        if self.breakers.down_cause().is_some() {
            return false;
        }
        if !self.owed.under_way.swap(true, Ordering::AcqRel) {
            let delivery = Delivery(Arc::clone(self));
            self.control.handle().spawn(async move { while delivery.0.deliver_owed().await {} });
        }
        true
    }

    /// Waits until owed removals have been delivered, or their delivery has failed.
    pub(super) async fn deliver_removals(self: &Arc<Self>) {
        if self.owed.len() == 0 {
            return;
        }
        let mut ended = pin!(self.owed.ended.notified());
        ended.as_mut().enable();
        if self.deliver_removals_later() {
            ended.await;
        }
    }

    /// Delivers the removals that are owed now. Reports whether that worked, so that there may be more by now.
    async fn deliver_owed(&self) -> bool {
        let keys: Vec<ChunkKey> = lock(&self.owed.keys).keys.iter().copied().collect();
        if keys.is_empty() {
            return false;
        }
        // This is the probe if it is time for one. If not, the delivery is tried nevertheless: no caller waits for it,
        // and a backend whose other methods fail may still remove. Such a try does not count towards giving up, because
        // there is one for each caller; an admitted one counts.
        let permit = self.breakers.writing.admit();
        let deadline = Instant::now() + self.tier().call_limit(0);
        let outcome = self.call_remove(&keys, deadline).await;
        let call_outcome = CallOutcome::of(&outcome);
        let is_answered = matches!(call_outcome, CallOutcome::Worked | CallOutcome::Declined);
        match &call_outcome {
            CallOutcome::Worked | CallOutcome::Declined => {
                self.owed.take_off(&keys);
                tracing::debug!(backend = %self.name, n_keys = keys.len(), "owed removals delivered");
            }
            CallOutcome::Failed(_) | CallOutcome::Unknown if permit.is_some() => {
                let n_given_up = self.owed.failed();
                if n_given_up > 0 {
                    tracing::warn!(backend = %self.name, n_given_up, ?outcome, "owed removals are given up");
                }
            }
            CallOutcome::Failed(_) | CallOutcome::Unknown => {}
        }
        if let Some(permit) = permit {
            self.report(permit, call_outcome);
        }
        is_answered
    }
}
