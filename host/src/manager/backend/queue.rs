//! Background puts: one bounded queue per backend.
//!
//! Invariant: every chunk that is offered is either stored, or refused, dropped or failed and counted; the
//! bytes that a queue holds never exceed its budget, except that one chunk is always accepted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::chunk::Chunk;
use crate::key::ChunkKey;
use crate::limits::BATCH_BYTES_MAX;
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

#[derive(Default)]
struct QueueState {
    queue: VecDeque<Chunk>,
    /// Keys that are queued (`false`) or in flight (`true`).
    keys: HashMap<ChunkKey, bool>,
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
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // A task that is notified of a settled put may count on its memory, so the memory is released first.
        let chunks = std::mem::take(&mut self.chunks);
        let places: Vec<_> = chunks.iter().map(|chunk| (chunk.key(), chunk.footprint_bytes())).collect();
        drop(chunks);
        let mut state = self.queue.lock();
        for (key, n_bytes) in places {
            state.keys.remove(&key);
            state.n_bytes -= n_bytes;
        }
        drop(state);
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

    pub(in crate::manager) fn offer(&self, chunk: &Chunk) -> Offered {
        let mut state = self.lock();
        if state.closed {
            return Offered::Closed;
        }
        if state.keys.contains_key(&chunk.key()) {
            return Offered::Pending;
        }
        if !state.keys.is_empty() && state.n_bytes + chunk.footprint_bytes() > self.budget_bytes {
            return Offered::Full;
        }
        state.keys.insert(chunk.key(), false);
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
                    return Some(Batch { queue: self, chunks: batch });
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

    /// Removes `keys` from the queue, and returns which of them are in flight. `None` means every key.
    pub(in crate::manager) fn cancel(&self, keys: Option<&[ChunkKey]>) -> Cancelled {
        let mut state = self.lock();
        // Far fewer than `keys`, and looked up for each chunk.
        let meant: Option<HashSet<ChunkKey>> =
            keys.map(|keys| keys.iter().filter(|key| state.keys.contains_key(key)).copied().collect());
        let concerns = |key: ChunkKey| meant.as_ref().is_none_or(|meant| meant.contains(&key));
        let (cancelled, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.queue).into_iter().partition(|chunk| concerns(chunk.key()));
        state.queue = kept.into();
        for chunk in &cancelled {
            state.keys.remove(&chunk.key());
            state.n_bytes -= chunk.footprint_bytes();
        }
        let in_flight = state.keys.iter().filter(|(key, is_in_flight)| **is_in_flight && concerns(**key));
        let in_flight = in_flight.map(|(key, _)| *key).collect();
        drop(state);
        let n_chunks = cancelled.len();
        drop(cancelled);
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
        !self.lock().keys.values().any(|is_in_flight| *is_in_flight)
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
            state.keys.insert(chunk.key(), true);
            batch.push(chunk);
        }
    }
    batch
}
