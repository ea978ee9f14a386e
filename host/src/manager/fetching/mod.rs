//! One tier's part of a retrieval: a subscription in the flight of each chunk, and calls for those that nobody fetches yet, several
//! of them in flight at a time.
//!
//! Calls run on the control threads under a limit of their own; what a retrieval waits for is the end of flights, its own calls'
//! and others', until its deadline. See [`flights`](super::flights).
//!
//! Invariant: no more batches and bytes are own_calls to the tier than this retrieval may lend and the tier takes; one
//! batch always is. Memory is handed out in the order of the request, so that what runs out is missing at its end.
//!
//! What the tier's own lookup has promised a moment before, or has pinned, binds it: a tier that then delivers not one
//! chunk of the retrieval has failed at reading, whatever it answers. One chunk clears it, since stores evict. Whoever
//! began a call judges it.

mod promises;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, select};

use self::promises::Promises;
use super::backend::Backend;
use super::breaker::{Direction, Health, OwnedPermit};
use super::flights::{
    Call, CallGroup, Claims, Departure, Flight, FlightKey, Flights, Notifications, Progress, Subscription,
};
use super::{Lookup, Miss, StorageManager, TierIndex};
use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::TRAILER_BYTES;
use crate::key::{ChunkKey, ChunkSpec};
use crate::limits::{BATCH_BYTES_MAX, GET_BATCHES_IN_FLIGHT, GET_BYTES_IN_FLIGHT_MAX};
use crate::metrics::Operation;
use crate::tier::TierError;

/// A chunk that is still to be fetched.
pub(super) struct Wanted {
    pub(super) index: usize,
    pub(super) spec: ChunkSpec,
    /// The flight in which it did not come from the tier before.
    pub(super) after: Option<Arc<Flight>>,
}

/// What a tier has made of what it was asked for.
#[derive(Default)]
pub(super) struct Delivered {
    pub(super) chunks: Vec<(usize, Chunk)>,
    /// What the CPU tier had by the time that the tier would have been asked.
    pub(super) promoted: Vec<(usize, Chunk)>,
    /// The subscriptions in the chunks' flights: kept until the chunks can be found elsewhere.
    pub(super) subscriptions: Vec<Subscription>,
    /// What it did not deliver, in the order of the request.
    pub(super) misses: Vec<(usize, Miss)>,
    /// The same, to be asked of the next tier.
    pub(super) left: Vec<Wanted>,
    /// There was no memory for a chunk: what is behind it is of no use.
    pub(super) out_of_memory: bool,
}

/// A chunk of which it is not known yet whether it comes.
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
    /// What was promised and declined, with whether it is this retrieval that counts it.
    unkept: Vec<(usize, Miss, bool)>,
    /// Calls of this retrieval that moved nothing because of these.
    undecided: Vec<Arc<Call>>,
    limits: Limits,
    /// The tier has let a call expire.
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
        asked: &[Wanted],
        deadline: Instant,
    ) -> Self {
        let served = backend.tier();
        let limits = Limits {
            batch_chunks: served.batch_chunks_max().max(1),
            batches: GET_BATCHES_IN_FLIGHT.min(served.calls_at_once()),
            bytes: GET_BYTES_IN_FLIGHT_MAX.min(served.bytes_in_flight_max()),
        };
        let (flights, notifications) = (&manager.0.flights, Arc::<Notifications>::default());
        let flight_key = |wanted: &Wanted| FlightKey {
            place: backend.place,
            key: wanted.spec.key,
            size_bytes: wanted.spec.size_bytes,
        };
        let wanted = asked.iter().map(|wanted| (wanted.index, flight_key(wanted), wanted.after.as_ref()));
        let subscriptions = flights.subscribe(wanted, &notifications);
        let promises = Promises { manager, backend, tier, plan };
        let pending = asked.iter().zip(subscriptions).map(|(wanted, subscription)| {
            let is_promised = promises.bind(wanted.index, wanted.spec.key);
            (wanted.index, Pending { spec: wanted.spec, subscription, is_promised, call: None })
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
            unkept: Vec::new(),
            undecided: Vec::new(),
            limits,
            timed_out: None,
            delivered: Delivered::default(),
        }
    }

    /// Takes what the CPU tier has by now: who fetched it has left its flight after promoting it.
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

    /// Fetches and verifies what is asked for, as far as the tier delivers it in time.
    ///
    /// # Cancellation
    /// The subscriptions are left; calls for which nobody waits any more end, and what they were own_calls is taken back.
    pub(super) async fn run(mut self) -> Delivered {
        if self.backend.control.is_left_behind() {
            self.leave_all(&Miss::Error(TierError::Forked), false);
        }
        self.look(self.notifications.take());
        if Instant::now() >= self.deadline {
            // The tiers before have taken it all.
            self.leave_all(&Miss::Error(TierError::Timeout(Duration::ZERO)), false);
        }
        while !self.pending.is_empty() {
            while self.timed_out.is_none() && self.lend().await {}
            if let Some(miss) = self.timed_out.take() {
                self.leave_all(&miss, false);
                break;
            }
            if self.pending.is_empty() {
                break;
            }
            let notifications = Arc::clone(&self.notifications);
            let started = Instant::now();
            let heard =
                self.backend.control.until(self.deadline, async move { notifications.heard().await }).await;
            match heard {
                Ok(indices) => self.look(indices),
                Err(_elapsed) => {
                    let given = self.deadline.saturating_duration_since(started);
                    self.leave_all(&Miss::Error(TierError::Timeout(given)), true);
                }
            }
        }
        self.judge_promises();
        self.delivered.misses.sort_by_key(|(index, _)| *index);
        self.delivered
    }

    /// Begins the next call, if one may be begun now, and says whether it did.
    async fn lend(&mut self) -> bool {
        let Some(mut claims) = self.claim() else { return false };
        let backend = self.backend;
        let indices = claims.indices();
        let specs: Vec<ChunkSpec> = indices.iter().map(|index| self.pending[index].spec).collect();
        let Some(permit) = backend.admit(Direction::Reading, specs.iter().map(|spec| spec.key)) else {
            drop(claims);
            self.skip(&Miss::Error(TierError::BreakerOpen));
            return false;
        };
        let permit = OwnedPermit::new(&backend.breakers, Direction::Reading, permit);
        let writers = self.buffers_for(&specs).await;
        if self.timed_out.is_some() {
            // While there was no memory.
            return false;
        }
        let n_ready = writers.len();
        if n_ready < indices.len() {
            claims.truncate(n_ready);
            self.miss_memory_for(&indices[n_ready..]);
        }
        if writers.is_empty() {
            return false;
        }
        self.begin(claims, permit, writers, &indices[..n_ready]);
        true
    }

    /// Claims the next batch, as far as it may be own_calls now.
    fn claim(&self) -> Option<Claims> {
        let (own_calls, limits) = (&self.own_calls, &self.limits);
        let cut = |flight_keys: &[FlightKey], n_under_way: usize| {
            if n_under_way > 0 && !self.backend.breakers.reading.is_ready() {
                // What is in flight decides; it may be the probe.
                return 0;
            }
            let (n_chunks, n_bytes) = cut(flight_keys);
            let has_room =
                own_calls.len() < limits.batches && self.n_bytes_in_calls + n_bytes <= limits.bytes;
            if own_calls.is_empty() || has_room { n_chunks } else { 0 }
        };
        let subscriptions = self.pending.values().map(|pending| &pending.subscription);
        let claims = self.flights.claim(subscriptions, limits.batch_chunks, cut);
        (!claims.is_empty()).then_some(claims)
    }

    /// Finds a buffer for each chunk, as far as there is memory before the deadline; hears meanwhile what has landed.
    async fn buffers_for(&mut self, specs: &[ChunkSpec]) -> Vec<ChunkWriter> {
        let (manager, notifications) = (self.manager, Arc::clone(&self.notifications));
        let mut buffers = pin!(manager.buffers_for(specs, self.deadline));
        loop {
            match select(buffers.as_mut(), pin!(notifications.heard())).await {
                Either::Left((writers, _)) => return writers,
                Either::Right((indices, _)) => self.look(indices),
            }
            if self.timed_out.is_some() {
                return Vec::new();
            }
        }
    }

    /// Notes that there was no memory for some chunks. What is behind them is of no use.
    fn miss_memory_for(&mut self, indices: &[usize]) {
        for index in indices {
            self.delivered.misses.push((*index, Miss::NoMemory));
            self.manager.count_no_memory();
        }
        self.delivered.out_of_memory = true;
        let Some(first) = indices.first() else { return };
        for (_, pending) in self.pending.split_off(first) {
            if let Some(number) = pending.call {
                self.take_back(number);
            }
        }
    }

    /// Begins a call for what is claimed.
    fn begin(&mut self, claims: Claims, permit: OwnedPermit, writers: Vec<ChunkWriter>, indices: &[usize]) {
        let number = self.n_calls;
        self.n_calls += 1;
        let mut promised = Vec::with_capacity(indices.len());
        let mut n_bytes = 0;
        for index in indices {
            if let Some(pending) = self.pending.get_mut(index) {
                pending.call = Some(number);
                promised.push(pending.is_promised);
                n_bytes += pending.spec.size_bytes + TRAILER_BYTES;
            }
        }
        let running = claims.begin(permit, &self.group);
        let call = Arc::clone(&running.call);
        let backend = Arc::clone(self.backend);
        let soon = self.pending.values().map(|pending| pending.spec.size_bytes).sum::<usize>();
        let moving = backend.move_bytes(n_bytes, soon.min(self.limits.bytes));
        let task = self.backend.control.handle().spawn(async move {
            let deadline = moving.deadline;
            let outcomes = backend.fetch(&running.call, writers, &promised, deadline).await;
            drop(moving);
            running.finish(outcomes);
        });
        call.runs_as(task.abort_handle());
        self.n_bytes_in_calls += n_bytes;
        self.own_calls.insert(number, OwnCall { call, n_chunks_left: indices.len(), n_bytes });
    }

    /// Takes what has landed.
    fn look(&mut self, indices: Vec<usize>) {
        for index in indices {
            let Some(pending) = self.pending.get(&index) else { continue };
            let Progress::Done(outcome) = self.flights.progress(&pending.subscription) else { continue };
            let Some(Pending { spec, subscription, is_promised, call }) = self.pending.remove(&index) else {
                continue;
            };
            let is_own = call.is_some();
            if let Some(number) = call {
                self.take_back(number);
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
                        self.unkept.push((index, miss, is_own));
                    } else {
                        self.delivered.misses.push((index, miss));
                    }
                    let after = Some(Arc::clone(&subscription.flight));
                    self.delivered.left.push(Wanted { index, spec, after });
                }
            }
        }
    }

    /// Notes that one chunk of a call has landed.
    fn take_back(&mut self, number: usize) {
        let Some(own_calls) = self.own_calls.get_mut(&number) else { return };
        own_calls.n_chunks_left -= 1;
        if own_calls.n_chunks_left == 0
            && let Some(own_calls) = self.own_calls.remove(&number)
        {
            self.n_bytes_in_calls -= own_calls.n_bytes;
            if own_calls.call.is_undecided() {
                self.undecided.push(own_calls.call);
            }
        }
    }

    /// Leaves all flights, and their chunks to the next tier. Calls for which nobody waits any more end unheard: those that
    /// one retrieval has in flight began together, and would be four failures for one. If it was this retrieval's own
    /// time that was over, the first of them has expired.
    fn leave_all(&mut self, miss: &Miss, is_expired: bool) {
        // What has landed by now is not left.
        self.look(self.notifications.take());
        self.leave(miss, is_expired);
    }

    fn leave(&mut self, miss: &Miss, is_expired: bool) {
        let mut n_over = 0;
        let mut expired = is_expired;
        for (index, Pending { spec, subscription, .. }) in std::mem::take(&mut self.pending) {
            let after = Some(Arc::clone(&subscription.flight));
            match subscription.leave() {
                Departure::OthersRemain | Departure::AlreadyLeft => {}
                Departure::NobodyRemains => n_over += 1,
                Departure::CallAbandoned(call) => {
                    n_over += 1;
                    if std::mem::take(&mut expired) {
                        let error = TierError::Timeout(self.deadline.saturating_duration_since(call.started));
                        self.backend.metrics.error(Operation::Get, error.kind());
                        self.backend.settle_owned(call.take_permit(), Health::of_error(&error));
                    }
                    call.abort();
                }
            }
            self.delivered.misses.push((index, miss.clone()));
            self.delivered.left.push(Wanted { index, spec, after });
        }
        self.backend.metrics.miss(miss.reason(), n_over);
    }

    /// Leaves what is not in flight to the next tier.
    fn skip(&mut self, miss: &Miss) {
        let waits =
            |pending: &Pending| matches!(self.flights.progress(&pending.subscription), Progress::Waiting);
        let (leave, stay): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(_, pending)| waits(pending));
        self.pending = leave;
        self.leave(miss, false);
        self.pending = stay;
    }

    /// Counts what was promised and declined. If the tier has delivered nothing that is one failure of reading, and what
    /// it does not have were phantom hits.
    fn judge_promises(&mut self) {
        let has_delivered = !self.delivered.chunks.is_empty();
        let n_unkept = self.unkept.len();
        for (index, miss, is_own) in self.unkept.drain(..) {
            let miss = if has_delivered || miss != Miss::NotFound { miss } else { Miss::PhantomHit };
            if is_own {
                self.backend.metrics.miss(miss.reason(), 1);
            }
            self.delivered.misses.push((index, miss));
        }
        for (n, call) in self.undecided.drain(..).enumerate() {
            self.backend.settle_owned(
                call.take_permit(),
                match n {
                    _ if has_delivered => Health::Declines,
                    // The calls of one retrieval are one failure.
                    0 => Health::Fails(format!(
                        "delivered none of {n_unkept} chunks that its own lookup had promised"
                    )),
                    _ => Health::Unknown,
                },
            );
        }
    }
}

/// Returns how many chunks the next call carries, one at least if there is any, and the bytes of their buffers.
fn cut(flight_keys: &[FlightKey]) -> (usize, usize) {
    let (mut n_chunks, mut n_bytes) = (0, 0);
    for flight_key in flight_keys {
        let more = n_bytes + flight_key.size_bytes;
        if n_chunks > 0 && more > BATCH_BYTES_MAX {
            break;
        }
        (n_chunks, n_bytes) = (n_chunks + 1, more);
    }
    (n_chunks, n_bytes + n_chunks * TRAILER_BYTES)
}
