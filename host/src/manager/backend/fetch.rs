//! One call that fetches chunks: it lends buffers, verifies what comes back, and reports to the breaker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Backend;
use crate::chunk::ChunkWriter;
use crate::key::ChunkKey;
use crate::manager::breaker::CallOutcome;
use crate::manager::fetched::{Fetched, Miss, accept, call_outcome};
use crate::manager::flights::Call;
use crate::metrics::Operation;
use crate::tier::TierError;
use crate::transfer::{Sink, Sinks};

impl Backend {
    /// Fetches chunks into the given buffers and verifies them. Returns one outcome per buffer, in order, and with a
    /// miss the buffer, unless a transfer still has it. Where `promised` is set, the retrieval counts a miss or a
    /// refusal. If the call moved nothing for that reason, its report to the breaker waits for the end of the
    /// retrieval.
    ///
    /// # Cancellation
    /// The buffers are taken back, each when the transfer into it has ended.
    pub(in crate::manager) async fn fetch(
        self: &Arc<Self>,
        call: &Call,
        writers: Vec<ChunkWriter>,
        promised: &[bool],
        deadline: Instant,
    ) -> Vec<(Fetched, Option<ChunkWriter>)> {
        let keys: Arc<[ChunkKey]> = writers.iter().map(ChunkWriter::key).collect();
        let sinks = Sinks::new(writers, &self.sealer);
        let _guard = SinksGuard(&sinks);
        let removals = self.removal_generation.load(Ordering::Acquire);
        let tier = self.tier();
        let started = Instant::now();
        let answer = tier.get(Arc::clone(&keys), sinks.clone(), deadline).await;
        self.metrics.took(Operation::Get, started.elapsed());
        let is_repeated_timeout = matches!(answer, Err(TierError::Timeout(_))) && call.note_timeout();
        if let (Err(error), false) = (&answer, is_repeated_timeout) {
            self.metrics.error(Operation::Get, error);
            tracing::debug!(backend = %self.name, %error, "get failed");
        }
        let returned = sinks.revoke();
        // Bytes that were not written in order are not hashed yet.
        let n_bytes =
            returned.iter().flatten().filter(|sink| sink.is_full()).map(Sink::n_unhashed_bytes).sum();
        let answers: Vec<Result<Option<u64>, TierError>> = match answer {
            Ok(answers) if answers.len() == keys.len() => answers,
            // Of a native tier; a component's have been counted.
            Ok(answers) => {
                let error = TierError::wrong_number_of_results("get", answers.len(), keys.len());
                self.metrics.error(Operation::Get, &error);
                vec![Err(error); keys.len()]
            }
            Err(error) => vec![Err(error); keys.len()],
        };
        let fetched = self
            .control
            .compute(n_bytes, move || {
                let pairs = answers.into_iter().zip(returned);
                pairs.map(|(answer, sink)| accept(answer, sink)).collect::<Vec<_>>()
            })
            .await;
        let mut damaged = Vec::new();
        let mut is_undecided = false;
        for (((outcome, _), key), is_promised) in fetched.iter().zip(&*keys).zip(promised) {
            match outcome {
                Ok(chunk) => {
                    chunk.note_stored_in(self.place, removals);
                    self.metrics.hit(1, chunk.len() as u64);
                }
                Err(miss) if *is_promised && miss.is_declined() => is_undecided = true,
                Err(miss) => {
                    self.metrics.miss(miss.reason(), 1);
                    if let Miss::Flaw(_) | Miss::WrongLength { .. } = miss {
                        if let Some(n_more) = self.refusals.due() {
                            tracing::warn!(backend = %self.name, %key, %miss, n_more, "bytes refused");
                        }
                        damaged.push(*key);
                    }
                }
            }
        }
        self.remove_later(damaged);
        match CallOutcome::of_chunks(fetched.iter().map(|(outcome, _)| call_outcome(outcome))) {
            CallOutcome::Declined if is_undecided => {}
            _ if is_repeated_timeout => drop(call.take_permit()),
            outcome => self.report_owned(call.take_permit(), outcome),
        }
        fetched
    }

    /// Counts the bytes of a fetch that is about to begin. `n_bytes_soon` includes the fetches that will follow at
    /// once.
    pub(in crate::manager) fn move_bytes(self: &Arc<Self>, n_bytes: usize, n_bytes_soon: usize) -> Moving {
        self.n_bytes_moving.fetch_add(n_bytes, Ordering::Relaxed);
        Moving { deadline: self.call_deadline(n_bytes_soon), n_bytes, backend: Arc::clone(self) }
    }

    /// Returns the deadline of a call that moves `n_bytes`. It allows for all other bytes in flight, since calls share
    /// the store's bandwidth.
    pub(in crate::manager) fn call_deadline(&self, n_bytes: usize) -> Instant {
        let (_, n_bytes_of_puts) = self.queue.pending();
        let n_bytes_in_all = self.n_bytes_moving.load(Ordering::Relaxed).saturating_add(n_bytes_of_puts);
        Instant::now() + self.tier().call_limit(n_bytes.max(n_bytes_in_all))
    }
}

/// The bytes of a fetch, counted until it is dropped.
pub(in crate::manager) struct Moving {
    backend: Arc<Backend>,
    n_bytes: usize,
    pub(in crate::manager) deadline: Instant,
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.backend.n_bytes_moving.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

/// Takes back the buffers of a call, even if the call is abandoned.
struct SinksGuard<'a>(&'a Sinks);

impl Drop for SinksGuard<'_> {
    fn drop(&mut self) {
        drop(self.0.revoke());
    }
}
