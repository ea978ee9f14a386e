//! Operations on whole tiers: flush, bypass, recreate, close.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::backend::Backend;
use super::{RecreateError, StorageManager, TierIndex, UnknownBackend};
use crate::cpu::HotCache;
use crate::runtime::unbudgeted;
use crate::tier::TierError;

impl StorageManager {
    /// Waits until every queued put has been stored or has failed.
    ///
    /// # Errors
    /// [`FlushError`] if the deadline passes first.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.flush_until(self.deadline()).await
    }

    /// Like [`StorageManager::flush`], with its own deadline.
    ///
    /// # Errors
    /// [`FlushError`]
    pub async fn flush_until(&self, deadline: Instant) -> Result<(), FlushError> {
        let mut pending = Vec::new();
        for backend in &self.0.backends {
            if !unbudgeted(backend.drained(None, deadline)).await {
                let (n_chunks, _) = backend.queue.pending();
                pending.push(PendingPuts { backend: backend.name.clone(), n_chunks });
            }
        }
        if pending.is_empty() { Ok(()) } else { Err(FlushError { pending }) }
    }

    /// Turns the hot cache on or off. Off empties it; chunks in use leave it when they are released.
    pub fn set_hot_cache(&self, hot_cache: HotCache) {
        self.0.cpu.set_hot_cache(hot_cache);
    }

    /// Takes a backend out of the chain until [`StorageManager::restore`]: no put, get or lookup reaches it. Puts that
    /// are queued already are still stored.
    ///
    /// # Errors
    /// [`UnknownBackend`]
    pub fn bypass(&self, name: &str) -> Result<(), UnknownBackend> {
        self.backend(name)?.set_bypassed(true);
        Ok(())
    }

    /// Puts a bypassed backend back into the chain.
    ///
    /// # Errors
    /// [`UnknownBackend`]
    pub fn restore(&self, name: &str) -> Result<(), UnknownBackend> {
        self.backend(name)?.set_bypassed(false);
        Ok(())
    }

    /// Closes a backend and creates it again from its configuration, in the same place of the chain.
    ///
    /// # Cancellation
    /// The work continues.
    ///
    /// # Errors
    /// [`RecreateError`]
    pub async fn recreate(&self, name: &str) -> Result<(), RecreateError> {
        let backend = self.backend(name)?;
        if self.0.closed.load(Ordering::Acquire) {
            return Err(RecreateError::Closed);
        }
        if self.is_forked_child() {
            return Err(RecreateError::Forked);
        }
        if backend.can_be_recreated() {
            // The pins go with the old instance.
            self.ledger().forget(TierIndex(backend.place + 1), None);
        }
        let (backend, limit) = (Arc::clone(backend), self.0.options.close_timeout);
        let recreating = self.0.control.handle().spawn(async move { backend.recreate(limit).await });
        unbudgeted(recreating).await.unwrap_or(Err(RecreateError::Interrupted))
    }

    /// Runs a future on kvtier's control threads: for completions that signal an event loop, a file descriptor or a
    /// callback. The future must not block, since deadlines fire on the same threads. It ends with the chain at the
    /// latest: when the last handle of it is gone, a future that is not ready is dropped. In a forked child, where the
    /// threads do not exist, the future is leaked: its destructor might wait for something that the parent has.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if self.is_forked_child() {
            return std::mem::forget(future);
        }
        self.0.control.handle().spawn(future);
    }

    /// Gives up the chain in a child process after a `fork`: see [`Engine::abandon`](crate::Engine::abandon).
    pub fn abandon(self) {
        if self.is_forked_child() {
            std::mem::forget(self);
        }
    }

    /// Stores queued puts and closes the backends, the last of the chain first, each within the close limit; then
    /// closes the CPU tier. A backend that fails or hangs does not stop the others.
    ///
    /// # Errors
    /// [`CloseError`] names the backends that did not close cleanly. The chain is closed nevertheless.
    ///
    /// # Cancellation
    /// Closing continues. A second call waits for its end and returns its outcome.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.0.closed.store(true, Ordering::Release);
        if self.is_forked_child() {
            self.0.cpu.close();
            let fail = |backend: &Arc<Backend>| FailedClose {
                backend: backend.name.clone(),
                error: TierError::Forked,
            };
            let failed: Vec<_> = self.0.backends.iter().map(fail).collect();
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
        unbudgeted(closing.wait_for(Option::is_some))
            .await
            .map_or(Ok(()), |outcome| outcome.clone().unwrap_or(Ok(())))
    }

    async fn close_tiers(&self) -> Result<(), CloseError> {
        drop(self.ledger().drain());
        let mut failed = Vec::new();
        for backend in self.0.backends.iter().rev() {
            let limit = self.0.options.close_timeout;
            let closed = self.0.control.until(Instant::now() + limit * 2, backend.close(limit)).await;
            if let Err(error) = closed.unwrap_or(Err(TierError::Timeout(limit * 2))) {
                failed.push(FailedClose { backend: backend.name.clone(), error });
            }
        }
        self.0.cpu.close();
        if failed.is_empty() { Ok(()) } else { Err(CloseError { failed }) }
    }
}

/// Puts were still pending at the deadline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("puts are still pending: {}", joined(pending))]
#[non_exhaustive]
pub struct FlushError {
    /// The backends that have pending puts.
    pub pending: Vec<PendingPuts>,
}

/// A backend that has pending puts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingPuts {
    /// The backend's name.
    pub backend: String,
    /// Chunks queued or being stored.
    pub n_chunks: usize,
}

/// Backends did not close cleanly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not closed cleanly: {}", joined(failed))]
#[non_exhaustive]
pub struct CloseError {
    /// The backends that did not close cleanly, in the order in which they were closed.
    pub failed: Vec<FailedClose>,
}

/// A backend that did not close cleanly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedClose {
    /// The backend's name.
    pub backend: String,
    /// Its error.
    pub error: TierError,
}

impl fmt::Display for PendingPuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} chunks for `{}`", self.n_chunks, self.backend)
    }
}

impl fmt::Display for FailedClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.backend, self.error)
    }
}

fn joined(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
