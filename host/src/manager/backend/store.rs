//! Putting chunks into one backend: through its queue, stored in the background.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Backend;
use super::queue::Offered;
use crate::chunk::Chunk;
use crate::key::ChunkKey;
use crate::manager::breaker::{CallOutcome, Direction};
use crate::manager::receipt::{PutOutcome, ReceiptSlot};
use crate::metrics::{DropReason, Operation};
use crate::tier::TierError;
use crate::transfer::Sources;

impl Backend {
    /// Queues chunks to be stored, except larger ones than `chunk_bytes_max`, and waits for room until `wait_until`, if
    /// given. `slot` returns the place for the outcome of the chunk at a position, if the caller has a receipt.
    pub(in crate::manager) async fn offer(
        &self,
        chunks: &[Chunk],
        chunk_bytes_max: usize,
        wait_until: Option<Instant>,
        slot: impl Fn(usize) -> Option<ReceiptSlot>,
    ) -> Offer {
        let mut offer = Offer { backend: self.name.clone(), n_queued: 0, n_present: 0, n_dropped: 0 };
        let refused = if !self.breakers.writing.is_ready() {
            self.breakers.writing.skip();
            Some(DropReason::BreakerOpen)
        } else if self.control.is_forked_child() {
            Some(DropReason::Forked)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.metrics.drop_puts(reason, chunks.len() as u64);
            offer.n_dropped = chunks.len();
            let slots = (0..chunks.len()).filter_map(slot);
            slots.for_each(|slot| slot.note(PutOutcome::Dropped(reason)));
            return offer;
        }
        let removals = self.removal_generation.load(Ordering::Acquire);
        for (index, chunk) in chunks.iter().enumerate() {
            let mut slot = slot(index);
            if chunk.is_stored_in(self.place, removals) {
                offer.n_present += 1;
                note(slot, PutOutcome::Stored);
                continue;
            }
            if chunk.len() > chunk_bytes_max {
                offer.n_dropped += 1;
                self.metrics.drop_puts(DropReason::TooLarge, 1);
                note(slot, PutOutcome::Dropped(DropReason::TooLarge));
                continue;
            }
            let outcome = loop {
                let settled = self.queue.settled();
                let mut settled = pin!(settled);
                settled.as_mut().enable();
                match (self.queue.offer(chunk, &mut slot), wait_until) {
                    (Offered::Full, Some(deadline)) => {
                        if self.control.until(deadline, settled).await.is_err() {
                            break Offered::Full;
                        }
                    }
                    (outcome, _) => break outcome,
                }
            };
            let reason = match outcome {
                Offered::Queued | Offered::Pending => {
                    offer.n_queued += 1;
                    continue;
                }
                Offered::Full => DropReason::QueueFull,
                Offered::Closed => DropReason::Closed,
            };
            offer.n_dropped += 1;
            self.metrics.drop_puts(reason, 1);
            note(slot, PutOutcome::Dropped(reason));
        }
        offer
    }

    /// Counts puts that are dropped because the breaker is open, and returns their outcomes.
    fn drop_skipped(&self, n_chunks: usize) -> Vec<PutOutcome> {
        self.metrics.drop_puts(DropReason::BreakerOpen, n_chunks as u64);
        vec![PutOutcome::Dropped(DropReason::BreakerOpen); n_chunks]
    }

    /// Stores queued chunks until the queue closes. Several tasks per backend run this.
    pub(in crate::manager) async fn store_queued(self: &Arc<Self>) {
        while let Some(mut batch) = self.queue.next(self.tier().batch_chunks_max()).await {
            batch.outcomes = self.store(&batch.chunks).await;
        }
    }

    /// Stores the chunks of one call, and returns what became of each.
    async fn store(self: &Arc<Self>, chunks: &[Chunk]) -> Vec<PutOutcome> {
        if self.breakers.writing.is_ready() {
            // A put comes after the removals that were requested before it.
            self.deliver_removals().await;
        }
        self.damaged.ended().await;
        let Some(permit) = self.admit(Direction::Writing, chunks.iter().map(Chunk::key)) else {
            return self.drop_skipped(chunks.len());
        };
        let n_bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let keys: Arc<[ChunkKey]> = chunks.iter().map(Chunk::key).collect();
        let sources = Sources::new(chunks.to_vec(), &self.sealer);
        let tier = self.tier();
        // Batches share the store's bandwidth.
        let (_, n_bytes_pending) = self.queue.pending();
        let deadline = Instant::now() + tier.call_limit(n_bytes.max(n_bytes_pending));
        let removals = self.removal_generation.load(Ordering::Acquire);
        let answer = self.counted(Operation::Put, tier.put(keys, sources.clone(), deadline)).await;
        sources.revoke();
        let answer = answer.and_then(|results| match results.len() {
            n if n == chunks.len() => Ok(results),
            // Of a native tier; a component's have been counted.
            n => {
                let error = TierError::wrong_number_of_results("put", n, chunks.len());
                self.metrics.error(Operation::Put, &error);
                Err(error)
            }
        });
        self.report(
            permit,
            match &answer {
                Ok(results) => CallOutcome::of_chunks(results.iter().map(CallOutcome::of)),
                Err(error) => CallOutcome::of_error(error),
            },
        );
        // Even if the call failed, since it may have stored something.
        let keys: Vec<ChunkKey> = chunks.iter().map(Chunk::key).collect();
        self.invalidate_in_flight(Some(&keys));
        let results = match answer {
            Ok(results) => results,
            Err(error) => {
                self.metrics.drop_puts(DropReason::CallFailed, chunks.len() as u64);
                return vec![PutOutcome::Failed(error); chunks.len()];
            }
        };
        let outcome = |(result, chunk): (Result<(), TierError>, &Chunk)| match result {
            Ok(()) => {
                chunk.note_stored_in(self.place, removals);
                self.metrics.stored(1, chunk.len() as u64);
                PutOutcome::Stored
            }
            Err(error) => {
                self.metrics.error(Operation::Put, &error);
                tracing::debug!(backend = %self.name, key = %chunk.key(), %error, "put failed");
                PutOutcome::Failed(error)
            }
        };
        results.into_iter().zip(chunks).map(outcome).collect()
    }
}

fn note(slot: Option<ReceiptSlot>, outcome: PutOutcome) {
    if let Some(slot) = slot {
        slot.note(outcome);
    }
}

/// The outcome of the chunks that were offered to one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// The backend's name.
    pub backend: String,
    /// Chunks that were queued for the backend.
    pub n_queued: usize,
    /// Chunks that the backend is known to have.
    pub n_present: usize,
    /// Chunks that were dropped: the queue was full, the breaker open, or the chunk too large.
    pub n_dropped: usize,
}
