//! Closing a backend's tier: to create it again in the same place, or for good.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Backend;
use crate::manager::select::UnknownBackend;
use crate::metrics::DropReason;
use crate::sync::write;
use crate::tier::{Tier, TierError};

impl Backend {
    pub(in crate::manager) fn can_be_recreated(&self) -> bool {
        self.factory.is_some()
    }

    /// Closes the tier and installs a new one in its place.
    pub(in crate::manager) async fn recreate(&self, close_limit: Duration) -> Result<(), RecreateError> {
        let Some(factory) = &self.factory else { return Err(RecreateError::NotConfigured) };
        if self.recreating.swap(true, Ordering::AcqRel) {
            return Err(RecreateError::Busy);
        }
        let resume = Resume(self);
        if self.closed.load(Ordering::Acquire) {
            return Err(RecreateError::Closed);
        }
        self.queue.pause();
        let deadline = Instant::now() + close_limit;
        self.wait_for(|| self.queue.is_quiet(), deadline).await;
        if let Err(error) = self.tier().close(deadline).await {
            tracing::warn!(backend = %self.name, %error, "backend did not close cleanly");
        }
        let (tier, started) = factory(self.breakers.attach()).await;
        if let Err(unwanted) = self.install(tier) {
            if let Err(error) = unwanted.close(Instant::now() + close_limit).await {
                tracing::warn!(backend = %self.name, %error, "backend did not close cleanly");
            }
            return Err(RecreateError::Closed);
        }
        // The pins of the old instance are gone, and its chunks may be.
        self.removal_generation.fetch_add(1, Ordering::AcqRel);
        self.invalidate_in_flight(None);
        self.lock_pins().clear();
        self.has_no_pins.store(false, Ordering::Relaxed);
        self.has_no_presence.store(false, Ordering::Relaxed);
        drop(resume);
        started.map_err(RecreateError::NotStarted)
    }

    /// Installs a new tier, or gives it back if the backend has been closed.
    fn install(&self, tier: Arc<dyn Tier>) -> Result<(), Arc<dyn Tier>> {
        let mut place = write(&self.tier);
        if self.closed.load(Ordering::Acquire) {
            return Err(tier);
        }
        *place = tier;
        Ok(())
    }

    /// Stores queued puts, as far as there is time, then closes the tier. If the tier is being created again, waits for
    /// that first, within the same time.
    pub(in crate::manager) async fn close(&self, limit: Duration) -> Result<(), TierError> {
        let deadline = Instant::now() + limit;
        {
            let _place = write(&self.tier);
            self.closed.store(true, Ordering::Release);
        }
        self.wait_for(|| !self.recreating.load(Ordering::Acquire), deadline).await;
        if !self.drained(None, deadline).await {
            let left = self.queue.cancel(None, DropReason::Closed);
            self.metrics.drop_puts(DropReason::Closed, left.n_chunks as u64);
        }
        self.queue.close();
        // A tier that hangs while it drains still gets some time to close.
        self.tier().close(deadline.max(Instant::now() + limit / 4)).await
    }
}

/// Puts a backend back to work, even if its creation was interrupted.
struct Resume<'a>(&'a Backend);

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        self.0.recreating.store(false, Ordering::Release);
        // This also wakes a task that waits to close the backend.
        self.0.queue.resume();
    }
}

/// The reason why a backend could not be created again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecreateError {
    /// Another call is creating it.
    #[error("the backend is already being created again")]
    Busy,
    /// The engine is closed, and its backends with it.
    #[error("the engine is closed; build another")]
    Closed,
    /// The process is a fork of the one that has the backend.
    #[error(
        "unavailable after fork: the backends run in the process that built the engine; call `Engine::abandon` and build another"
    )]
    Forked,
    /// The engine's threads are gone.
    #[error("the engine was closed in the meantime")]
    Interrupted,
    /// No backend has that name.
    #[error(transparent)]
    Unknown(#[from] UnknownBackend),
    /// The program supplied the tier, and only the program can create another.
    #[error("the backend was supplied by the program, not configured, and cannot be created again")]
    NotConfigured,
    /// The new tier did not start. The start is retried in the background.
    #[error("the new instance did not start and is retried in the background: {0}")]
    NotStarted(String),
}
