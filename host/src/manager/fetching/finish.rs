//! Ends of flights: the delivered chunks, the rest for the next tier, and the verdict on this tier.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ChunkToFetch, Fetching, Pending};
use crate::manager::breaker::CallOutcome;
use crate::manager::fetched::Miss;
use crate::manager::flights::{Departure, Progress};
use crate::metrics::Operation;
use crate::tier::TierError;

/// The reason why a retrieval leaves flights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// The retrieval's deadline has passed.
    Deadline,
    /// The tier cannot be asked, or has failed.
    Tier,
}

impl Fetching<'_> {
    /// Takes the chunks and misses of flights that have ended.
    pub(super) fn take_finished(&mut self, indices: Vec<usize>) {
        for index in indices {
            let Some(pending) = self.pending.get(&index) else { continue };
            let Progress::Done(outcome) = self.flights.progress(&pending.subscription) else { continue };
            let Some(Pending { spec, subscription, is_promised, call }) = self.pending.remove(&index) else {
                continue;
            };
            let is_own = call.is_some();
            if let Some(number) = call {
                self.count_down(number);
            }
            match outcome {
                Ok(chunk) => {
                    if !is_own {
                        self.backend.metrics.share(1);
                    }
                    self.delivered.chunks.push((index, chunk));
                    self.delivered.subscriptions.push(subscription);
                }
                Err(miss) => {
                    if matches!(miss, Miss::Error(TierError::Timeout(_))) {
                        self.timed_out = Some(miss.clone());
                    }
                    if is_promised && miss.is_declined() {
                        self.broken_promises.push((index, miss, is_own));
                    } else {
                        self.delivered.misses.push((index, miss));
                    }
                    let after = Some(Arc::clone(&subscription.flight));
                    self.delivered.left.push(ChunkToFetch { index, spec, after });
                }
            }
        }
    }

    /// Notes that one chunk of an own call is done, and the call with its last chunk.
    pub(super) fn count_down(&mut self, number: usize) {
        let Some(own) = self.own_calls.get_mut(&number) else { return };
        own.n_chunks_left -= 1;
        if own.n_chunks_left == 0
            && let Some(own) = self.own_calls.remove(&number)
        {
            self.n_bytes_in_calls -= own.n_bytes;
            if own.call.is_undecided() {
                self.undecided.push(own.call);
            }
        }
    }

    /// Leaves all flights, and their chunks to the next tier. Calls without subscribers end without a report to the
    /// breaker: the calls of one retrieval begin together and would count as four failures instead of one. If the
    /// retrieval's own time is over, the first of them counts as timed out.
    pub(super) fn leave_all(&mut self, miss: &Miss, ended_by: EndedBy) {
        // A flight that has ended by now is not left.
        self.take_finished(self.notifications.take());
        self.leave(miss, ended_by);
    }

    /// Leaves the flights of all pending chunks.
    fn leave(&mut self, miss: &Miss, ended_by: EndedBy) {
        let mut n_over = 0;
        let mut expired = ended_by == EndedBy::Deadline;
        for (index, Pending { spec, subscription, .. }) in std::mem::take(&mut self.pending) {
            let after = Some(Arc::clone(&subscription.flight));
            match subscription.leave() {
                Departure::OthersRemain | Departure::AlreadyLeft => {}
                Departure::NobodyRemains => n_over += 1,
                Departure::CallAbandoned(call) => {
                    n_over += 1;
                    if std::mem::take(&mut expired) {
                        let error = TierError::Timeout(self.deadline.saturating_duration_since(call.started));
                        self.backend.metrics.error(Operation::Get, &error);
                        self.backend.report_owned(call.take_permit(), CallOutcome::of_error(&error));
                    }
                    call.abort();
                }
            }
            self.delivered.misses.push((index, miss.clone()));
            self.delivered.left.push(ChunkToFetch { index, spec, after });
        }
        self.backend.metrics.miss(miss.reason(), n_over);
    }

    /// Leaves the chunks that no call fetches to the next tier.
    pub(super) fn skip(&mut self, miss: &Miss) {
        let waits =
            |pending: &Pending| matches!(self.flights.progress(&pending.subscription), Progress::Waiting);
        let (leave, stay): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(_, pending)| waits(pending));
        self.pending = leave;
        self.leave(miss, EndedBy::Tier);
        self.pending = stay;
    }

    /// Counts the chunks that were promised and declined. If the tier has delivered no chunk, that is one failure of
    /// reading, and the chunks that it does not have were phantom hits.
    pub(super) fn judge_promises(&mut self) {
        let has_delivered = !self.delivered.chunks.is_empty();
        let n_broken = self.broken_promises.len();
        for (index, miss, is_own) in self.broken_promises.drain(..) {
            let miss = if has_delivered || miss != Miss::NotFound { miss } else { Miss::PhantomHit };
            if is_own {
                self.backend.metrics.miss(miss.reason(), 1);
            }
            self.delivered.misses.push((index, miss));
        }
        for (n, call) in self.undecided.drain(..).enumerate() {
            self.backend.report_owned(
                call.take_permit(),
                match n {
                    _ if has_delivered => CallOutcome::Declined,
                    // The calls of one retrieval are one failure.
                    0 => CallOutcome::Failed(format!(
                        "delivered none of {n_broken} chunks that its own lookup had promised"
                    )),
                    _ => CallOutcome::Unknown,
                },
            );
        }
    }
}
