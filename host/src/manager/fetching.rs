//! One tier's part of a retrieval: batches of chunks, several of them in flight at a time.
//!
//! Invariant: no more batches and bytes are lent to the tier than this retrieval may lend and the tier takes; one
//! batch always is. Memory is handed out in the order of the request, so that what runs out is missing at its end.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};

use super::backend::Backend;
use super::breaker::Direction;
use super::fetched::Fetched;
use super::{Miss, StorageManager};
use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::TRAILER_BYTES;
use crate::key::ChunkSpec;
use crate::limits::{BATCH_BYTES_MAX, GET_BATCHES_IN_FLIGHT, GET_BYTES_IN_FLIGHT_MAX};
use crate::tier::TierError;

/// A chunk that is still to be fetched.
pub(super) struct Wanted {
    pub(super) index: usize,
    pub(super) spec: ChunkSpec,
    /// A buffer that a failed fetch has given back.
    pub(super) writer: Option<ChunkWriter>,
}

/// What a tier has made of what it was asked for.
#[derive(Default)]
pub(super) struct Delivered {
    pub(super) chunks: Vec<(usize, Chunk)>,
    /// What it did not deliver, in the order of the request.
    pub(super) misses: Vec<(usize, Miss)>,
    /// The same, to be asked of the next tier.
    pub(super) left: Vec<Wanted>,
    /// There was no memory for a chunk: what is behind it is of no use.
    pub(super) out_of_memory: bool,
}

/// A chunk's position in the request, and the chunk.
type Place = (usize, ChunkSpec);

pub(super) struct Fetching<'a> {
    manager: &'a StorageManager,
    backend: &'a Arc<Backend>,
    deadline: Instant,
    asked: VecDeque<Wanted>,
    flying: FuturesUnordered<BoxFuture<'a, (usize, Vec<Fetched>)>>,
    /// What is in flight, by the batch's number.
    lent: BTreeMap<usize, Vec<Place>>,
    n_bytes_lent: usize,
    n_batches: usize,
    limits: Limits,
    /// The tier has let a call expire.
    silence: Option<Miss>,
    delivered: Delivered,
}

struct Limits {
    batch_chunks: usize,
    batches: usize,
    bytes: usize,
}

impl<'a> Fetching<'a> {
    pub(super) fn new(
        manager: &'a StorageManager,
        backend: &'a Arc<Backend>,
        asked: Vec<Wanted>,
        deadline: Instant,
    ) -> Self {
        let tier = backend.tier();
        let limits = Limits {
            batch_chunks: tier.batch_chunks_max(),
            batches: GET_BATCHES_IN_FLIGHT.min(tier.calls_at_once()),
            bytes: GET_BYTES_IN_FLIGHT_MAX.min(tier.bytes_in_flight_max()),
        };
        Self {
            manager,
            backend,
            deadline,
            asked: asked.into(),
            flying: FuturesUnordered::new(),
            lent: BTreeMap::new(),
            n_bytes_lent: 0,
            n_batches: 0,
            limits,
            silence: None,
            delivered: Delivered::default(),
        }
    }

    /// Fetches and verifies what is asked for, as far as the tier delivers it.
    ///
    /// # Cancellation
    /// What is lent is taken back, as the calls end.
    pub(super) async fn run(mut self) -> Delivered {
        loop {
            while let Some(n_chunks) = self.next_batch() {
                if !self.lend(n_chunks).await {
                    break;
                }
            }
            if let Some(miss) = self.silence.take() {
                self.give_up(&miss);
                break;
            }
            let Some((number, fetched)) = self.flying.next().await else { break };
            self.take_back(number, fetched);
        }
        self.delivered.misses.sort_by_key(|(index, _)| *index);
        self.delivered
    }

    /// Returns how many chunks the next batch has, if it may be lent now.
    fn next_batch(&self) -> Option<usize> {
        if self.asked.is_empty() || self.silence.is_some() || self.delivered.out_of_memory {
            return None;
        }
        let (n_chunks, n_bytes) = cut(&self.asked, self.limits.batch_chunks);
        let has_room =
            self.lent.len() < self.limits.batches && self.n_bytes_lent + n_bytes <= self.limits.bytes;
        (self.lent.is_empty() || has_room).then_some(n_chunks)
    }

    /// Lends the next `n_chunks`, and says whether it did.
    async fn lend(&mut self, n_chunks: usize) -> bool {
        let backend = self.backend;
        if !self.lent.is_empty() && !backend.breakers.reading.is_ready() {
            // What is in flight decides; it may be the probe.
            return false;
        }
        let Some(permit) = backend.admit(Direction::Reading, self.asked.iter().map(|wanted| wanted.spec.key))
        else {
            self.skip(&Miss::Error(TierError::BreakerOpen));
            return false;
        };
        let batch = self.asked.drain(..n_chunks).collect();
        let (ready, unserved) = self.buffers_for(batch).await;
        for unserved in unserved {
            self.delivered.misses.push((unserved.index, Miss::NoMemory));
            self.manager.count_no_memory();
            self.delivered.out_of_memory = true;
        }
        if self.silence.is_some() {
            // While there was no memory.
            let back =
                ready.into_iter().map(|((index, spec), writer)| Wanted { index, spec, writer: Some(writer) });
            self.asked = back.chain(std::mem::take(&mut self.asked)).collect();
            return false;
        }
        let (places, writers): (Vec<Place>, Vec<ChunkWriter>) = ready.into_iter().unzip();
        if writers.is_empty() {
            return false;
        }
        let (number, deadline) = (self.n_batches, self.deadline);
        self.n_batches += 1;
        self.n_bytes_lent += lent_bytes(&places);
        self.lent.insert(number, places);
        self.flying.push(Box::pin(async move { (number, backend.fetch(permit, writers, deadline).await) }));
        true
    }

    /// Finds a buffer for each chunk, as far as there is memory before the deadline; takes back meanwhile what
    /// comes back.
    async fn buffers_for(&mut self, batch: Vec<Wanted>) -> (Vec<(Place, ChunkWriter)>, Vec<Wanted>) {
        let mut buffers = pin!(self.manager.buffers_for(batch, self.deadline));
        loop {
            tokio::select! {
                biased;
                found = &mut buffers => return found,
                Some((number, fetched)) = self.flying.next(), if !self.lent.is_empty() => {
                    self.take_back(number, fetched);
                }
            }
        }
    }

    fn take_back(&mut self, number: usize, fetched: Vec<Fetched>) {
        let places = self.lent.remove(&number).unwrap_or_default();
        self.n_bytes_lent -= lent_bytes(&places);
        for ((index, spec), outcome) in places.into_iter().zip(fetched) {
            match outcome {
                Ok(chunk) => self.delivered.chunks.push((index, chunk)),
                Err((writer, miss)) => {
                    if matches!(miss, Miss::Error(TierError::Timeout(_))) {
                        self.silence = Some(miss.clone());
                    }
                    self.delivered.misses.push((index, miss));
                    self.delivered.left.push(Wanted { index, spec, writer });
                }
            }
        }
    }

    /// Leaves a tier that gave no answer: it would take as long again for each batch that is left, and the tiers
    /// behind it would have no time. Those in flight go with it, unheard: they began together, and would be four
    /// failures for one.
    fn give_up(&mut self, miss: &Miss) {
        self.flying.clear();
        let given_up: Vec<Place> = std::mem::take(&mut self.lent).into_values().flatten().collect();
        for (index, spec) in given_up.into_iter().rev() {
            self.asked.push_front(Wanted { index, spec, writer: None });
        }
        self.skip(miss);
    }

    /// Leaves what is not in flight to the next tier.
    fn skip(&mut self, miss: &Miss) {
        self.backend.metrics.miss(miss.reason(), self.asked.len() as u64);
        self.delivered.misses.extend(self.asked.iter().map(|wanted| (wanted.index, miss.clone())));
        self.delivered.left.extend(self.asked.drain(..));
    }
}

/// Returns how many chunks the next call carries, one at least, and the bytes of their buffers.
fn cut(asked: &VecDeque<Wanted>, n_chunks_max: usize) -> (usize, usize) {
    let (mut n_chunks, mut n_bytes) = (0, 0);
    for wanted in asked.iter().take(n_chunks_max.max(1)) {
        let more = n_bytes + wanted.spec.size_bytes;
        if n_chunks > 0 && more > BATCH_BYTES_MAX {
            break;
        }
        (n_chunks, n_bytes) = (n_chunks + 1, more);
    }
    (n_chunks, n_bytes + n_chunks * TRAILER_BYTES)
}

fn lent_bytes(places: &[Place]) -> usize {
    places.iter().map(|(_, spec)| spec.size_bytes + TRAILER_BYTES).sum()
}
