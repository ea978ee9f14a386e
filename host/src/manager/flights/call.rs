//! A call that fetches chunks: from claimed flights to the call, and from its end to their outcomes.
//!
//! A call knows its flights, and a [`Flight`] the call that fetches it: two halves of one idea.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::task::AbortHandle;

use super::Flights;
use super::flight::{Flight, Phase};
use crate::chunk::Chunk;
use crate::manager::breaker::OwnedPermit;
use crate::manager::fetched::Miss;
use crate::sync::lock;
use crate::tier::TierError;

/// The calls that one retrieval has in flight. They begin together, so they time out together: that is one failure.
#[derive(Default)]
pub(in crate::manager) struct CallGroup {
    has_timed_out: AtomicBool,
}

/// A call that fetches some flights' chunks.
pub(in crate::manager) struct Call {
    pub(in crate::manager) started: Instant,
    permit: Mutex<Option<OwnedPermit>>,
    /// Until the call has ended. Changed under the table's lock.
    pub(super) flights: Mutex<Vec<Arc<Flight>>>,
    group: Arc<CallGroup>,
    /// The number of flights that have subscribers. Changed under the table's lock.
    pub(super) n_wanted: Mutex<usize>,
    task: Mutex<Option<AbortHandle>>,
}

impl Call {
    /// Makes a call that fetches for one caller only: nobody can join it.
    pub(in crate::manager) fn alone(permit: OwnedPermit, group: &Arc<CallGroup>) -> Self {
        Self {
            started: Instant::now(),
            permit: Mutex::new(Some(permit)),
            flights: Mutex::default(),
            group: Arc::clone(group),
            n_wanted: Mutex::new(1),
            task: Mutex::default(),
        }
    }

    /// Takes the permit through which the breaker learns of the outcome. Only the first caller gets it.
    pub(in crate::manager) fn take_permit(&self) -> Option<OwnedPermit> {
        lock(&self.permit).take()
    }

    /// Reports whether the breaker does not know the outcome yet.
    pub(in crate::manager) fn is_undecided(&self) -> bool {
        lock(&self.permit).is_some()
    }

    /// Notes that the call has timed out, and reports whether another call of the same retrieval has before.
    pub(in crate::manager) fn note_timeout(&self) -> bool {
        self.group.has_timed_out.swap(true, Ordering::AcqRel)
    }

    /// Notes the task that runs the call.
    pub(in crate::manager) fn runs_as(&self, task: AbortHandle) {
        *lock(&self.task) = Some(task);
    }

    /// Ends the call as if it had timed out. Its buffers are released when its transfers end.
    pub(in crate::manager) fn abort(&self) {
        let task = lock(&self.task).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// Flights that one retrieval is about to begin. If it does not begin them, other retrievals can.
pub(in crate::manager) struct Claims {
    pub(super) flights: Arc<Flights>,
    pub(super) claimed: Vec<(usize, Arc<Flight>)>,
}

impl Claims {
    /// Returns the positions of the chunks in the request.
    pub(in crate::manager) fn indices(&self) -> Vec<usize> {
        self.claimed.iter().map(|(index, _)| *index).collect()
    }

    pub(in crate::manager) fn is_empty(&self) -> bool {
        self.claimed.is_empty()
    }

    /// Releases all but the first `n`.
    pub(in crate::manager) fn truncate(&mut self, n: usize) {
        let rest = self.claimed.split_off(n.min(self.claimed.len()));
        self.flights.release(&rest);
    }

    /// Begins one call for the claimed flights. The caller runs it and finishes it.
    pub(in crate::manager) fn begin(mut self, permit: OwnedPermit, group: &Arc<CallGroup>) -> RunningCall {
        let claimed = std::mem::take(&mut self.claimed);
        let flights: Vec<_> = claimed.into_iter().map(|(_, flight)| flight).collect();
        let call = Arc::new(Call {
            started: Instant::now(),
            permit: Mutex::new(Some(permit)),
            n_wanted: Mutex::new(flights.len()),
            flights: Mutex::new(flights.clone()),
            group: Arc::clone(group),
            task: Mutex::default(),
        });
        let table = lock(&self.flights.0);
        for flight in &flights {
            flight.lock().phase = Phase::InCall(Arc::clone(&call));
        }
        drop(table);
        RunningCall { flights: Arc::clone(&self.flights), call }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.flights.release(&self.claimed);
    }
}

/// A call under way. If it is dropped unfinished, its flights end without their chunks.
pub(in crate::manager) struct RunningCall {
    flights: Arc<Flights>,
    pub(in crate::manager) call: Arc<Call>,
}

impl RunningCall {
    /// Ends the flights with their outcomes, in the order in which they were claimed.
    pub(in crate::manager) fn finish(self, outcomes: impl IntoIterator<Item = Result<Chunk, Miss>>) {
        self.flights.finish(&self.call, outcomes);
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        let ended = Miss::Error(TierError::Down("the call that fetched it ended without an answer".into()));
        self.flights.finish(&self.call, std::iter::repeat(Err(ended)));
    }
}
