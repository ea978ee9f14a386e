//! The part of one tier in a retrieval: it subscribes to the flight of each chunk, and begins calls for flights that
//! are not under way, several calls at a time.
//!
//! Calls run on the control threads, under their own limit. The retrieval waits, until its deadline, for flights to
//! end, whichever retrieval began their calls. See [`flights`](super::flights).
//!
//! Invariant: the calls of a retrieval in flight stay within its own limits and the tier's in number and bytes; one
//! call is always allowed. Memory is handed out in the order of the request, so that only the end of the request can
//! lack it.
//!
//! A tier is expected to deliver chunks that its own recent lookup counted or pinned. If it delivers none of them, that
//! is one read failure; a single delivered chunk is enough. The retrieval that began a call decides.

mod begin;
mod finish;
mod promises;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::finish::EndedBy;
use self::promises::Promises;
use super::backend::Backend;
use super::flights::{Call, CallGroup, Flight, FlightKey, Flights, Notifications, Subscription};
use super::{Lookup, Miss, StorageManager, TierIndex};
use crate::chunk::Chunk;
use crate::key::{ChunkKey, ChunkSpec};
use crate::limits::{GET_BATCHES_IN_FLIGHT, GET_BYTES_IN_FLIGHT_MAX};
use crate::tier::TierError;

/// A chunk that is still to be fetched.
pub(super) struct ChunkToFetch {
    pub(super) index: usize,
    pub(super) spec: ChunkSpec,
    /// The flight in which the previous tier did not deliver it.
    pub(super) after: Option<Arc<Flight>>,
}

/// What came of the chunks that were requested from a tier.
#[derive(Default)]
pub(super) struct Delivered {
    pub(super) chunks: Vec<(usize, Chunk)>,
    /// Chunks that the CPU tier got before they were requested from the tier.
    pub(super) promoted: Vec<(usize, Chunk)>,
    /// Subscriptions to the chunks' flights, kept until the chunks can be found elsewhere.
    pub(super) subscriptions: Vec<Subscription>,
    /// Undelivered chunks, in the order of the request.
    pub(super) misses: Vec<(usize, Miss)>,
    /// The same chunks, for the next tier.
    pub(super) left: Vec<ChunkToFetch>,
    /// There was no memory for a chunk, so the chunks after it are useless.
    pub(super) out_of_memory: bool,
}

/// A chunk whose flight has not ended.
struct Pending {
    spec: ChunkSpec,
    subscription: Subscription,
    /// The tier's own lookup has promised it.
    is_promised: bool,
    /// The call of this retrieval that fetches it.
    call: Option<usize>,
}

/// A call of this retrieval that is in flight.
struct OwnCall {
    call: Arc<Call>,
    n_chunks_left: usize,
    n_bytes: usize,
}

/// The chunks that a retrieval wants from one tier, on their way.
pub(super) struct Fetching<'a> {
    manager: &'a StorageManager,
    backend: &'a Arc<Backend>,
    deadline: Instant,
    flights: &'a Arc<Flights>,
    notifications: Arc<Notifications>,
    /// By position in the request.
    pending: BTreeMap<usize, Pending>,
    /// By number.
    own_calls: BTreeMap<usize, OwnCall>,
    n_bytes_in_calls: usize,
    n_calls: usize,
    group: Arc<CallGroup>,
    /// Chunks that were promised and declined, with whether this retrieval counts them.
    broken_promises: Vec<(usize, Miss, bool)>,
    /// Calls of this retrieval that moved no chunk for that reason.
    undecided: Vec<Arc<Call>>,
    limits: Limits,
    /// A call to the tier has timed out.
    timed_out: Option<Miss>,
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
        chunks: &[ChunkToFetch],
        deadline: Instant,
    ) -> Self {
        let served = backend.tier();
        let limits = Limits {
            batch_chunks: served.batch_chunks_max().max(1),
            batches: GET_BATCHES_IN_FLIGHT.min(served.calls_in_flight_max()),
            bytes: GET_BYTES_IN_FLIGHT_MAX.min(served.bytes_in_flight_max()),
        };
        let (flights, notifications) = (&manager.0.flights, Arc::<Notifications>::default());
        let flight_key = |chunk: &ChunkToFetch| FlightKey {
            place: backend.place,
            key: chunk.spec.key,
            size_bytes: chunk.spec.size_bytes,
        };
        let flight_keys = chunks.iter().map(|chunk| (chunk.index, flight_key(chunk), chunk.after.as_ref()));
        let subscriptions = flights.subscribe(flight_keys, &notifications);
        let promises = Promises { manager, backend, tier, plan };
        let pending = chunks.iter().zip(subscriptions).map(|(chunk, subscription)| {
            let is_promised = promises.bind(chunk.index, chunk.spec.key);
            (chunk.index, Pending { spec: chunk.spec, subscription, is_promised, call: None })
        });
        Self {
            manager,
            backend,
            deadline,
            flights,
            notifications,
            pending: pending.collect(),
            own_calls: BTreeMap::new(),
            n_bytes_in_calls: 0,
            n_calls: 0,
            group: Arc::default(),
            broken_promises: Vec::new(),
            undecided: Vec::new(),
            limits,
            timed_out: None,
            delivered: Delivered::default(),
        }
    }

    /// Takes chunks that the CPU tier has by now, because another retrieval has promoted them and left their flights.
    pub(super) fn take_promoted(&mut self) {
        let keys: Vec<ChunkKey> = self.pending.values().map(|pending| pending.spec.key).collect();
        let mut found = Vec::with_capacity(keys.len());
        self.manager.0.cpu.get(&keys, &mut found);
        let indices: Vec<usize> = self.pending.keys().copied().collect();
        for (index, chunk) in indices.into_iter().zip(found) {
            if let Some(chunk) = chunk {
                self.pending.remove(&index);
                self.delivered.promoted.push((index, chunk));
            }
        }
    }

    /// Fetches and verifies the chunks, as far as the tier delivers them in time.
    ///
    /// # Cancellation
    /// The flights are left. Calls without subscribers end, and their buffers are taken back.
    pub(super) async fn run(mut self) -> Delivered {
        if self.backend.control.is_forked_child() {
            self.leave_all(&Miss::Error(TierError::Forked), EndedBy::Tier);
        }
        self.take_finished(self.notifications.take());
        if Instant::now() >= self.deadline {
            // The previous tiers have used all of the time.
            self.leave_all(&Miss::Error(TierError::Timeout(Duration::ZERO)), EndedBy::Tier);
        }
        while !self.pending.is_empty() {
            while self.timed_out.is_none() && self.begin_call().await {}
            if let Some(miss) = self.timed_out.take() {
                self.leave_all(&miss, EndedBy::Tier);
                break;
            }
            if self.pending.is_empty() {
                break;
            }
            let notifications = Arc::clone(&self.notifications);
            let started = Instant::now();
            let changed =
                self.backend.control.until(self.deadline, async move { notifications.next().await }).await;
            match changed {
                Ok(indices) => self.take_finished(indices),
                Err(_elapsed) => {
                    let given = self.deadline.saturating_duration_since(started);
                    self.leave_all(&Miss::Error(TierError::Timeout(given)), EndedBy::Deadline);
                }
            }
        }
        self.judge_promises();
        self.delivered.misses.sort_by_key(|(index, _)| *index);
        self.delivered
    }
}
