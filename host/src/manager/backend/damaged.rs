//! Damaged chunks in a backend: they are removed in the background, and puts wait for the removal.
//!
//! A put of a present key keeps its bytes, so a damaged chunk would stay damaged. A removal would undo a put that
//! overtook it, although the backend has confirmed the chunk.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use super::Backend;
use crate::key::ChunkKey;
use crate::manager::breaker::CallOutcome;

/// Removals of damaged chunks that are under way.
#[derive(Default)]
pub(in crate::manager) struct DamagedRemovals {
    n: AtomicUsize,
    ended: Notify,
}

impl DamagedRemovals {
    /// Waits until none is under way. Costs one load if there is none.
    pub(super) async fn ended(&self) {
        while self.n.load(Ordering::Acquire) > 0 {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.n.load(Ordering::Acquire) > 0 {
                ended.await;
            }
        }
    }
}

/// A removal that is under way until this is dropped.
struct UnderWay(Arc<Backend>);

impl UnderWay {
    fn begin(backend: &Arc<Backend>) -> Self {
        backend.damaged.n.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(backend))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.damaged.n.fetch_sub(1, Ordering::AcqRel);
        self.0.damaged.ended.notify_waiters();
    }
}

impl Backend {
    /// Removes damaged chunks in the background. The call is counted like any other removal.
    pub(super) fn remove_later(self: &Arc<Self>, keys: Vec<ChunkKey>) {
        if keys.is_empty() {
            return;
        }
        // From here on, so that a put after the retrieval that found the damage waits.
        let under_way = UnderWay::begin(self);
        self.control.handle().spawn(async move {
            let backend = &under_way.0;
            // Tried even while the breaker is open, since no caller waits for it, but then without a report to the
            // breaker.
            let permit = backend.breakers.writing.admit();
            let deadline = Instant::now() + backend.tier().call_limit(0);
            let outcome = backend.call_remove(&keys, deadline).await;
            if let Some(permit) = permit {
                backend.report(permit, CallOutcome::of(&outcome));
            }
        });
    }
}
