//! Receipts of puts: what became of each chunk in each backend.
//!
//! Invariant: every slot of a receipt gets exactly one outcome. One that is dropped without an outcome belonged to a
//! chain that was dropped without `close`.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::metrics::DropReason;
use crate::runtime::{OwnerProcess, unbudgeted};
use crate::sync::lock;
use crate::tier::TierError;

/// What became of a chunk in one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutOutcome {
    /// The backend has it: it has stored it now, or had it.
    Stored,
    /// The backend refused it, or its call failed.
    Failed(TierError),
    /// It was given up before the backend was asked, for this reason.
    Dropped(DropReason),
}

/// What became of the chunks of one put in one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendReceipt {
    /// The backend's name.
    pub backend: String,
    /// One outcome for each chunk, in the order of the put.
    pub outcomes: Vec<PutOutcome>,
}

/// The receipt of a put: resolves when every chunk has been stored, refused or given up in every backend. Cloning
/// shares it. Dropping it does not cancel the put.
#[derive(Clone, Debug)]
pub struct Receipt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    complete: Notify,
    owner: OwnerProcess,
}

#[derive(Debug)]
struct State {
    backends: Vec<(String, Vec<Option<PutOutcome>>)>,
    n_open: usize,
}

/// The place of one outcome.
#[derive(Debug)]
pub(in crate::manager) struct ReceiptSlot {
    receipt: Arc<Shared>,
    backend: usize,
    chunk: usize,
}

impl Receipt {
    /// Makes a receipt without outcomes.
    pub(in crate::manager) fn new(backends: impl IntoIterator<Item = String>, n_chunks: usize) -> Self {
        let backends: Vec<_> = backends.into_iter().map(|name| (name, vec![None; n_chunks])).collect();
        let state = State { n_open: backends.len() * n_chunks, backends };
        let owner = OwnerProcess::current();
        Self(Arc::new(Shared { state: Mutex::new(state), complete: Notify::new(), owner }))
    }

    /// Returns the slot for the outcome of a chunk in a backend, by their positions in the put.
    pub(in crate::manager) fn slot(&self, backend: usize, chunk: usize) -> ReceiptSlot {
        ReceiptSlot { receipt: Arc::clone(&self.0), backend, chunk }
    }

    /// Reports whether every outcome is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        lock(&self.0.state).n_open == 0
    }

    /// Waits until every outcome is known, and returns them: one entry for each backend, in the chain's order. There is
    /// no entry if no backend was chosen or nothing is to be stored ([`Config::skip_save`](crate::Config::skip_save)).
    ///
    /// The wait ends by itself, at the latest when the backends' calls have reached their limits. In a forked child,
    /// what was open at the fork counts as dropped.
    pub async fn outcomes(&self) -> Vec<BackendReceipt> {
        unbudgeted(async {
            loop {
                let complete = self.0.complete.notified();
                if let Some(outcomes) = self.try_outcomes() {
                    return outcomes;
                }
                complete.await;
            }
        })
        .await
    }

    /// Returns the outcomes, as [`Receipt::outcomes`], if all are known.
    #[must_use]
    pub fn try_outcomes(&self) -> Option<Vec<BackendReceipt>> {
        let mut state = lock(&self.0.state);
        if state.n_open > 0 && self.0.owner.is_parent() {
            let open = state
                .backends
                .iter_mut()
                .flat_map(|(_, outcomes)| outcomes)
                .filter(|outcome| outcome.is_none());
            open.for_each(|outcome| *outcome = Some(PutOutcome::Dropped(DropReason::Forked)));
            state.n_open = 0;
        }
        let receipt = |(backend, outcomes): &(String, Vec<Option<PutOutcome>>)| {
            let outcomes: Option<Vec<PutOutcome>> = outcomes.iter().cloned().collect();
            Some(BackendReceipt { backend: backend.clone(), outcomes: outcomes? })
        };
        state.backends.iter().map(receipt).collect()
    }
}

impl ReceiptSlot {
    /// Notes the outcome.
    pub(in crate::manager) fn note(self, outcome: PutOutcome) {
        self.note_once(outcome);
    }

    fn note_once(&self, outcome: PutOutcome) {
        let mut state = lock(&self.receipt.state);
        let State { backends, n_open } = &mut *state;
        let Some(place) =
            backends.get_mut(self.backend).and_then(|(_, outcomes)| outcomes.get_mut(self.chunk))
        else {
            return;
        };
        if place.is_none() {
            *place = Some(outcome);
            *n_open -= 1;
        }
        let is_complete = *n_open == 0;
        drop(state);
        if is_complete {
            self.receipt.complete.notify_waiters();
        }
    }
}

impl Drop for ReceiptSlot {
    fn drop(&mut self) {
        self.note_once(PutOutcome::Dropped(DropReason::Closed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::block_on;

    #[test]
    fn a_receipt_is_complete_with_its_last_outcome_and_the_first_one_of_a_slot_stays() {
        let receipt = Receipt::new(["a".into(), "b".into()], 2);
        receipt.slot(0, 0).note(PutOutcome::Stored);
        receipt.slot(0, 1).note(PutOutcome::Failed(TierError::NoSpace));
        receipt.slot(1, 1).note(PutOutcome::Dropped(DropReason::QueueFull));
        assert!(!receipt.is_complete() && receipt.try_outcomes().is_none());
        let waiting = {
            let receipt = receipt.clone();
            std::thread::spawn(move || block_on(receipt.outcomes()))
        };
        // Dropped without an outcome.
        drop(receipt.slot(1, 0));
        let outcomes = waiting.join().unwrap();
        assert_eq!(outcomes[0].outcomes, [PutOutcome::Stored, PutOutcome::Failed(TierError::NoSpace)]);
        let closed = PutOutcome::Dropped(DropReason::Closed);
        assert_eq!(outcomes[1].outcomes, [closed, PutOutcome::Dropped(DropReason::QueueFull)]);
        receipt.slot(1, 0).note(PutOutcome::Stored);
        assert_eq!(receipt.try_outcomes(), Some(outcomes), "the first outcome stays");
    }

    #[test]
    fn a_receipt_of_nothing_is_complete() {
        assert_eq!(Receipt::new([], 3).try_outcomes(), Some(Vec::new()));
        assert!(Receipt::new(["a".into()], 0).is_complete());
    }
}
