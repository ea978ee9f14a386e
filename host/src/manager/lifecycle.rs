//! What happens to whole tiers: flush, bypass, recreate, close.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{RecreateError, StorageManager, TierIndex};
use crate::runtime::anywhere;
use crate::tier::TierError;

impl StorageManager {
    /// Waits until every queued put has been stored or has failed.
    ///
    /// # Errors
    /// [`FlushError`] when the deadline passes first.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.flush_until(self.deadline()).await
    }

    /// As [`StorageManager::flush`], until `deadline`.
    ///
    /// # Errors
    /// [`FlushError`]
    pub async fn flush_until(&self, deadline: Instant) -> Result<(), FlushError> {
        let mut pending = Vec::new();
        for backend in &self.0.backends {
            if !anywhere(backend.drained(None, deadline)).await {
                let (n_chunks, _) = backend.queue.pending();
                pending.push((backend.name.clone(), n_chunks));
            }
        }
        if pending.is_empty() { Ok(()) } else { Err(FlushError { pending }) }
    }

    /// Turns the hot cache on or off. Off empties it; chunks in use leave it when they are released.
    pub fn set_hot_cache(&self, on: bool) {
        self.0.cpu.set_hot_cache(on);
    }

    /// Takes a backend out of the chain, or puts it back in. While it is out no put, get or lookup reaches
    /// it; its queued puts go on.
    ///
    /// # Errors
    /// [`RecreateError::Unknown`]
    pub fn bypass(&self, name: &str, bypassed: bool) -> Result<(), RecreateError> {
        let backend = self.backend(name).ok_or_else(|| RecreateError::Unknown(name.into()))?;
        backend.set_bypassed(bypassed);
        Ok(())
    }

    /// Closes a backend and makes it anew from its configuration, in the same place of the chain.
    ///
    /// # Cancellation
    /// The backend is made anew all the same.
    ///
    /// # Errors
    /// [`RecreateError`]
    pub async fn recreate(&self, name: &str) -> Result<(), RecreateError> {
        let place = self.0.backends.iter().position(|backend| backend.name == name);
        let place = place.ok_or_else(|| RecreateError::Unknown(name.into()))?;
        if self.0.closed.load(Ordering::Acquire) {
            return Err(RecreateError::Closed);
        }
        if self.is_left_behind() {
            return Err(RecreateError::Forked);
        }
        let backend = &self.0.backends[place];
        if backend.can_be_recreated() {
            // The pins go with the old instance.
            self.ledger().forget(TierIndex(place + 1), None);
        }
        let (backend, limit) = (Arc::clone(backend), self.0.options.close_timeout);
        let recreating = self.0.control.handle().spawn(async move { backend.recreate(limit).await });
        anywhere(recreating).await.unwrap_or(Err(RecreateError::Interrupted))
    }

    /// Stores what is queued and closes the backends, the last of the chain first, each within the close
    /// limit; then the CPU tier. A backend that fails or hangs does not stop the others.
    ///
    /// # Errors
    /// [`CloseError`] names those that did not close cleanly. The chain is closed all the same.
    ///
    /// # Cancellation
    /// Closing goes on; calling it again waits for its end and gives its outcome.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.0.closed.store(true, Ordering::Release);
        if self.is_left_behind() {
            self.0.cpu.close();
            let failed = self.0.backends.iter().map(|backend| (backend.name.clone(), TierError::Forked));
            let failed: Vec<_> = failed.collect();
            return if failed.is_empty() { Ok(()) } else { Err(CloseError { failed }) };
        }
        let closing = self.0.closing.get_or_init(|| {
            let this = self.clone();
            let (done, outcome) = tokio::sync::watch::channel(None);
            self.0.control.handle().spawn(async move {
                let closed = this.close_tiers().await;
                done.send_replace(Some(closed));
            });
            outcome
        });
        let mut closing = closing.clone();
        // The sender is dropped unsent only if the threads are gone, and the tiers with them.
        anywhere(closing.wait_for(Option::is_some))
            .await
            .map_or(Ok(()), |outcome| outcome.clone().unwrap_or(Ok(())))
    }

    async fn close_tiers(&self) -> Result<(), CloseError> {
        drop(self.ledger().drain());
        let mut failed = Vec::new();
        for backend in self.0.backends.iter().rev() {
            let limit = self.0.options.close_timeout;
            let closed = self.0.control.until(Instant::now() + limit * 2, backend.close(limit)).await;
            match closed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push((backend.name.clone(), error)),
                Err(_) => failed.push((backend.name.clone(), TierError::Timeout(limit * 2))),
            }
        }
        self.0.cpu.close();
        if failed.is_empty() { Ok(()) } else { Err(CloseError { failed }) }
    }
}

/// Puts were still pending when the time was over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("puts are still pending: {}", pending.iter().map(|(name, n)| format!("{n} chunks for `{name}`")).collect::<Vec<_>>().join(", "))]
#[non_exhaustive]
pub struct FlushError {
    /// Backends with the number of their pending chunks.
    pub pending: Vec<(String, usize)>,
}

/// Backends did not close cleanly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not closed cleanly: {}", failed.iter().map(|(name, error)| format!("`{name}`: {error}")).collect::<Vec<_>>().join(", "))]
#[non_exhaustive]
pub struct CloseError {
    /// Backends with their errors.
    pub failed: Vec<(String, TierError)>,
}
