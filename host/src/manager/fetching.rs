//! One tier's part of a retrieval: batches of chunks, several of them in flight at a time.
//!
//! Invariant: no more batches and bytes are lent to the tier than this retrieval may lend and the tier takes; one
//! batch always is. Memory is handed out in the order of the request, so that what runs out is missing at its end.
//!
//! What the tier's own lookup has promised a moment before, or has pinned, binds it: a tier that then delivers not one
//! chunk of the retrieval has failed at reading, whatever it answers. One chunk clears it, since stores evict.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};

use super::backend::Backend;
use super::breaker::{Direction, Permit, Verdict};
use super::fetched::Fetched;
use super::{Lookup, Miss, StorageManager, TierIndex};
use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::TRAILER_BYTES;
use crate::key::ChunkSpec;
use crate::limits::{BATCH_BYTES_MAX, GET_BATCHES_IN_FLIGHT, GET_BYTES_IN_FLIGHT_MAX, PROMISE_AGE_MAX};
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

/// A batch that has come back: its number, its chunks, and the call's permit if it is still to be settled.
type Returned<'a> = (usize, Vec<Fetched>, Option<Permit<'a>>);

/// A chunk that is lent.
struct LentChunk {
    place: Place,
    /// The tier's own lookup has promised it.
    is_promised: bool,
}

pub(super) struct Fetching<'a> {
    manager: &'a StorageManager,
    backend: &'a Arc<Backend>,
    tier: TierIndex,
    /// What was found before.
    plan: &'a Lookup,
    deadline: Instant,
    asked: VecDeque<Wanted>,
    flying: FuturesUnordered<BoxFuture<'a, Returned<'a>>>,
    /// What is in flight, by the batch's number.
    lent: BTreeMap<usize, Vec<LentChunk>>,
    /// What was promised and declined, not counted yet.
    unkept: Vec<(usize, Miss)>,
    /// The permits of calls that moved nothing because of these.
    undecided: Vec<Permit<'a>>,
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
        (tier, backend): (TierIndex, &'a Arc<Backend>),
        plan: &'a Lookup,
        asked: Vec<Wanted>,
        deadline: Instant,
    ) -> Self {
        let served = backend.tier();
        let limits = Limits {
            batch_chunks: served.batch_chunks_max(),
            batches: GET_BATCHES_IN_FLIGHT.min(served.calls_at_once()),
            bytes: GET_BYTES_IN_FLIGHT_MAX.min(served.bytes_in_flight_max()),
        };
        Self {
            manager,
            backend,
            tier,
            plan,
            deadline,
            asked: asked.into(),
            flying: FuturesUnordered::new(),
            lent: BTreeMap::new(),
            unkept: Vec::new(),
            undecided: Vec::new(),
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
            let Some(returned) = self.flying.next().await else { break };
            self.take_back(returned);
        }
        self.judge_promises();
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
        if backend.control.is_left_behind() {
            self.skip(&Miss::Error(TierError::Forked));
            return false;
        }
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
        let promised: Vec<bool> = places.iter().map(|place| self.is_promised(place)).collect();
        let pairs = places.into_iter().zip(&promised);
        let lent = pairs.map(|(place, &is_promised)| LentChunk { place, is_promised }).collect::<Vec<_>>();
        self.n_bytes_lent += lent_bytes(&lent);
        self.lent.insert(number, lent);
        self.flying.push(Box::pin(async move {
            let (fetched, undecided) = backend.fetch(permit, writers, &promised, deadline).await;
            (number, fetched, undecided)
        }));
        true
    }

    /// Reports whether the tier's own lookup has promised a chunk and still binds it: the lookup was made a moment ago or
    /// has pinned the chunk, and nothing was removed since.
    fn is_promised(&self, (index, spec): &Place) -> bool {
        let Some(asked) = self.plan.asked else { return false };
        let (manager, backend) = (&self.manager.0, self.backend);
        let age = manager.options.clock.now().saturating_sub(asked.at);
        self.plan.tier_of(*index) == Some(self.tier)
            && manager.removals.load(Ordering::Acquire) == asked.n_removals
            && (age <= PROMISE_AGE_MAX || backend.protects(spec.key))
    }

    /// Counts what was promised and declined. If the tier has delivered nothing that is one failure of reading, and what
    /// it does not have were phantom hits.
    fn judge_promises(&mut self) {
        let has_delivered = !self.delivered.chunks.is_empty();
        let n_unkept = self.unkept.len();
        for (index, miss) in self.unkept.drain(..) {
            let miss = if has_delivered || miss != Miss::NotFound { miss } else { Miss::PhantomHit };
            self.backend.metrics.miss(miss.reason(), 1);
            self.delivered.misses.push((index, miss));
        }
        for (n, permit) in self.undecided.drain(..).enumerate() {
            self.backend.settle(
                permit,
                match n {
                    _ if has_delivered => Verdict::Declines,
                    // The calls of one retrieval are one failure.
                    0 => Verdict::Fails(format!(
                        "delivered none of {n_unkept} chunks that its own lookup had promised"
                    )),
                    _ => Verdict::Silent,
                },
            );
        }
    }

    /// Finds a buffer for each chunk, as far as there is memory before the deadline; takes back meanwhile what
    /// comes back.
    async fn buffers_for(&mut self, batch: Vec<Wanted>) -> (Vec<(Place, ChunkWriter)>, Vec<Wanted>) {
        let mut buffers = pin!(self.manager.buffers_for(batch, self.deadline));
        loop {
            tokio::select! {
                biased;
                found = &mut buffers => return found,
                Some(returned) = self.flying.next(), if !self.lent.is_empty() => self.take_back(returned),
            }
        }
    }

    fn take_back(&mut self, (number, fetched, undecided): Returned<'a>) {
        self.undecided.extend(undecided);
        let lent = self.lent.remove(&number).unwrap_or_default();
        self.n_bytes_lent -= lent_bytes(&lent);
        for (LentChunk { place: (index, spec), is_promised }, outcome) in lent.into_iter().zip(fetched) {
            match outcome {
                Ok(chunk) => self.delivered.chunks.push((index, chunk)),
                Err((writer, miss)) => {
                    if matches!(miss, Miss::Error(TierError::Timeout(_))) {
                        self.silence = Some(miss.clone());
                    }
                    if is_promised && miss.is_declined() {
                        self.unkept.push((index, miss));
                    } else {
                        self.delivered.misses.push((index, miss));
                    }
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
        let given_up: Vec<LentChunk> = std::mem::take(&mut self.lent).into_values().flatten().collect();
        for LentChunk { place: (index, spec), .. } in given_up.into_iter().rev() {
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

fn lent_bytes(lent: &[LentChunk]) -> usize {
    lent.iter().map(|lent| lent.place.1.size_bytes + TRAILER_BYTES).sum()
}
