//! Background puts: one bounded queue per backend.
//!
//! Invariant: every chunk that is offered is either stored, or refused, dropped or failed and counted; the
//! bytes that a queue holds never exceed its budget, except that one chunk is always accepted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::chunk::Chunk;
use crate::key::ChunkKey;
use crate::limits::{BATCH_BYTES_MAX, RECEIPTS_OF_A_CHUNK_MAX};
use crate::manager::receipt::{PutOutcome, ReceiptSlot};
use crate::metrics::DropReason;
use crate::sync::lock;

/// The outcome of offering a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::manager) enum Offered {
    Queued,
    /// The same key is queued or in flight; its bytes stay.
    Pending,
    Full,
    Closed,
}

/// A chunk that is queued or in flight.
#[derive(Default)]
struct PendingPut {
    is_in_flight: bool,
    /// Where the outcome is to be noted, at most [`RECEIPTS_OF_A_CHUNK_MAX`] places.
    receipts: Vec<ReceiptSlot>,
}

#[derive(Default)]
struct QueueState {
    queue: VecDeque<Chunk>,
    /// Keys that are queued or in flight.
    keys: HashMap<ChunkKey, PendingPut>,
    /// The memory that these chunks hold.
    n_bytes: usize,
    closed: bool,
    /// While set, workers get no chunks.
    paused: bool,
}

pub(in crate::manager) struct PutQueue {
    state: Mutex<QueueState>,
    budget_bytes: usize,
    /// Notified when chunks were queued, and when the queue opened or closed.
    work: Notify,
    /// Notified when a chunk has left the queue for good.
    settled: Notify,
}

/// Chunks that one call stores. Dropping it settles them: they leave the queue.
pub(in crate::manager) struct Batch<'a> {
    queue: &'a PutQueue,
    pub(in crate::manager) chunks: Vec<Chunk>,
    /// What became of each chunk. Until that is known, empty.
    pub(in crate::manager) outcomes: Vec<PutOutcome>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // A task that is notified of a settled put may count on its memory, so the memory is released first.
        let chunks = std::mem::take(&mut self.chunks);
        let places: Vec<_> = chunks.iter().map(|chunk| (chunk.key(), chunk.footprint_bytes())).collect();
        drop(chunks);
        let mut receipts = Vec::new();
        let mut state = self.queue.lock();
        for (index, (key, n_bytes)) in places.into_iter().enumerate() {
            let pending = state.keys.remove(&key).unwrap_or_default();
            receipts.extend(pending.receipts.into_iter().map(|slot| (index, slot)));
            state.n_bytes -= n_bytes;
        }
        drop(state);
        for (index, slot) in receipts {
            if let Some(outcome) = self.outcomes.get(index) {
                slot.note(outcome.clone());
            }
        }
        self.queue.settled.notify_waiters();
    }
}

impl PutQueue {
    pub(in crate::manager) fn new(budget_bytes: usize) -> Self {
        Self { state: Mutex::default(), budget_bytes, work: Notify::new(), settled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        lock(&self.state)
    }

    /// Offers a chunk. Takes the receipt's slot if the queue has the chunk now, and notes the outcome there once it is
    /// known.
    pub(in crate::manager) fn offer(&self, chunk: &Chunk, receipt: &mut Option<ReceiptSlot>) -> Offered {
        let mut state = self.lock();
        if state.closed {
            return Offered::Closed;
        }
        if let Some(pending) = state.keys.get_mut(&chunk.key()) {
            if receipt.is_some() && pending.receipts.len() >= RECEIPTS_OF_A_CHUNK_MAX {
                return Offered::Full;
            }
            pending.receipts.extend(receipt.take());
            return Offered::Pending;
        }
        if !state.keys.is_empty() && state.n_bytes + chunk.footprint_bytes() > self.budget_bytes {
            return Offered::Full;
        }
        let receipts = receipt.take().into_iter().collect();
        state.keys.insert(chunk.key(), PendingPut { is_in_flight: false, receipts });
        state.n_bytes += chunk.footprint_bytes();
        state.queue.push_back(chunk.clone());
        drop(state);
        self.work.notify_one();
        Offered::Queued
    }

    /// Returns a wait for the next chunk that leaves the queue. Create it before the attempt that may fail.
    pub(in crate::manager) fn settled(&self) -> tokio::sync::futures::Notified<'_> {
        self.settled.notified()
    }

    /// Waits for chunks to store. Returns `None` once the queue is closed and empty.
    pub(in crate::manager) async fn next(&self, n_chunks_max: usize) -> Option<Batch<'_>> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.lock();
                if !state.paused && !state.queue.is_empty() {
                    let batch = take(&mut state, n_chunks_max);
                    let more = !state.queue.is_empty();
                    drop(state);
                    if more {
                        self.work.notify_one();
                    }
                    return Some(Batch { queue: self, chunks: batch, outcomes: Vec::new() });
                }
                if state.closed && state.queue.is_empty() {
                    drop(state);
                    self.work.notify_one();
                    return None;
                }
            }
            work.await;
        }
    }

    /// Removes `keys` from the queue for this reason, and returns which of them are in flight. `None` means every key.
    pub(in crate::manager) fn cancel(&self, keys: Option<&[ChunkKey]>, reason: DropReason) -> Cancelled {
        let mut state = self.lock();
        // Far fewer than `keys`, and looked up for each chunk.
        let meant: Option<HashSet<ChunkKey>> =
            keys.map(|keys| keys.iter().filter(|key| state.keys.contains_key(key)).copied().collect());
        let concerns = |key: ChunkKey| meant.as_ref().is_none_or(|meant| meant.contains(&key));
        let (cancelled, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.queue).into_iter().partition(|chunk| concerns(chunk.key()));
        state.queue = kept.into();
        let mut receipts = Vec::new();
        for chunk in &cancelled {
            receipts.extend(state.keys.remove(&chunk.key()).unwrap_or_default().receipts);
            state.n_bytes -= chunk.footprint_bytes();
        }
        let in_flight = state.keys.iter().filter(|(key, put)| put.is_in_flight && concerns(**key));
        let in_flight = in_flight.map(|(key, _)| *key).collect();
        drop(state);
        let n_chunks = cancelled.len();
        drop(cancelled);
        for slot in receipts {
            slot.note(PutOutcome::Dropped(reason));
        }
        self.settled.notify_waiters();
        Cancelled { n_chunks, in_flight }
    }

    /// Reports whether no put, or no put of `keys`, is queued or in flight.
    pub(in crate::manager) fn is_idle(&self, keys: Option<&[ChunkKey]>) -> bool {
        let state = self.lock();
        match keys {
            None => state.keys.is_empty(),
            Some(keys) => !keys.iter().any(|key| state.keys.contains_key(key)),
        }
    }

    /// Reports whether no put is in flight.
    pub(in crate::manager) fn is_quiet(&self) -> bool {
        !self.lock().keys.values().any(|put| put.is_in_flight)
    }

    /// Withholds chunks from workers until [`PutQueue::resume`].
    pub(in crate::manager) fn pause(&self) {
        self.lock().paused = true;
    }

    /// Serves workers again, and wakes the tasks that wait for the queue.
    pub(in crate::manager) fn resume(&self) {
        self.lock().paused = false;
        self.work.notify_one();
        self.settled.notify_waiters();
    }

    /// Accepts nothing more.
    pub(in crate::manager) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    pub(in crate::manager) fn pending(&self) -> (usize, usize) {
        let state = self.lock();
        (state.keys.len(), state.n_bytes)
    }
}

pub(in crate::manager) struct Cancelled {
    pub(in crate::manager) n_chunks: usize,
    pub(in crate::manager) in_flight: Vec<ChunkKey>,
}

fn take(state: &mut QueueState, n_chunks_max: usize) -> Vec<Chunk> {
    let mut batch = Vec::new();
    let mut n_bytes = 0;
    while let Some(chunk) = state.queue.front() {
        n_bytes += chunk.len();
        if !batch.is_empty() && (batch.len() >= n_chunks_max || n_bytes > BATCH_BYTES_MAX) {
            break;
        }
        if let Some(chunk) = state.queue.pop_front() {
            if let Some(put) = state.keys.get_mut(&chunk.key()) {
                put.is_in_flight = true;
            }
            batch.push(chunk);
        }
    }
    batch
}
