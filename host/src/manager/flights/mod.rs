//! Chunks on their way from backends: each is fetched once for all retrievals that want it at the time.
//!
//! A retrieval takes a [`Subscription`] in the [`Flight`] of each chunk that it wants from a backend. Whoever has room first
//! claims flights that nobody has begun, finds memory for them, and begins one [`Call`] for them; the others wait for
//! its end.
//! What a claimer cannot begin is free for the next. A flight that landed with its chunk can be joined as long as
//! somebody has a subscription in it; one that landed without is over, and those who were in it ask the next tier together.
//!
//! Nothing here waits, and nothing moves bytes: see `fetching` for a retrieval's part and [`Backend::fetch`] for the call.
//!
//! Invariants: of one chunk from one backend one flight at most can be joined; a call goes on while a subscription in any of
//! its flights is taken and is abandoned with the last; who has a subscription hears of every change.
//!
//! [`Backend::fetch`]: super::backend::Backend::fetch

mod call;
mod notifications;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

pub(super) use self::call::{Call, CallGroup, Claims};
pub(super) use self::notifications::Notifications;
use self::notifications::ToWake;
use super::Miss;
use crate::chunk::Chunk;
use crate::key::ChunkKey;
use crate::sync::lock;

/// A chunk of one size in one backend, which is named by its place in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FlightKey {
    pub(super) place: usize,
    pub(super) key: ChunkKey,
    pub(super) size_bytes: usize,
}

/// All flights of a chain that can be joined.
#[derive(Default)]
pub(super) struct Flights(Mutex<Table>);

#[derive(Default)]
struct Table {
    joinable: HashMap<FlightKey, Arc<Flight>>,
}

/// One chunk on its way, or about to be.
pub(super) struct Flight {
    flight_key: FlightKey,
    /// Locked under the table's lock only.
    state: Mutex<FlightState>,
}

struct FlightState {
    phase: Phase,
    subscribers: Vec<Subscriber>,
    /// Where its chunk was asked for next by those who did not get it here.
    next_flights: Vec<Arc<Flight>>,
    /// A removal has returned since it was begun.
    is_stale: bool,
}

enum Phase {
    /// Nobody fetches it.
    Waiting,
    /// A retrieval is about to, and looks for memory.
    Claimed,
    InCall(Arc<Call>),
    Done(Result<Chunk, Miss>),
    Abandoned,
}

struct Subscriber {
    notifications: Arc<Notifications>,
    index: usize,
}

/// A retrieval's place in one flight. Dropping it leaves the flight.
pub(super) struct Subscription {
    flights: Arc<Flights>,
    pub(super) flight: Arc<Flight>,
    notifications: Arc<Notifications>,
    index: usize,
}

/// What a flight has come to.
pub(super) enum Progress {
    /// Anybody may claim it.
    Waiting,
    UnderWay,
    Done(Result<Chunk, Miss>),
}

impl Flight {
    fn lock(&self) -> MutexGuard<'_, FlightState> {
        lock(&self.state)
    }
}

impl FlightState {
    /// Reports whether somebody who was in the same flight before may go on with this one.
    fn can_be_followed(&self) -> bool {
        !self.is_stale && !matches!(self.phase, Phase::Abandoned)
    }
}

impl Table {
    /// Returns the flight that a chunk is to be had from, one that is there already if there is any.
    fn flight_to(&mut self, flight_key: FlightKey, after: Option<&Arc<Flight>>) -> Arc<Flight> {
        let followed = after.and_then(|after| {
            let state = after.lock();
            let next_flights = state
                .next_flights
                .iter()
                .find(|flight| flight.flight_key == flight_key && flight.lock().can_be_followed());
            next_flights.cloned()
        });
        let flight = followed.or_else(|| self.joinable.get(&flight_key).cloned()).unwrap_or_else(|| {
            let state = FlightState {
                phase: Phase::Waiting,
                subscribers: Vec::new(),
                next_flights: Vec::new(),
                is_stale: false,
            };
            let flight = Arc::new(Flight { flight_key, state: Mutex::new(state) });
            self.joinable.insert(flight_key, Arc::clone(&flight));
            flight
        });
        if let Some(after) = after {
            let mut state = after.lock();
            if !state.next_flights.iter().any(|next_flights| Arc::ptr_eq(next_flights, &flight)) {
                state.next_flights.push(Arc::clone(&flight));
            }
        }
        flight
    }

    /// Has nobody join a flight any more.
    fn close(&mut self, flight: &Arc<Flight>) {
        if self.joinable.get(&flight.flight_key).is_some_and(|joinable| Arc::ptr_eq(joinable, flight)) {
            self.joinable.remove(&flight.flight_key);
        }
    }
}

impl Flights {
    /// Frees claimed flights for others.
    fn release(&self, claimed: &[(usize, Arc<Flight>)]) {
        if claimed.is_empty() {
            return;
        }
        let mut to_wake = ToWake::default();
        let table = lock(&self.0);
        for (_, flight) in claimed {
            let mut state = flight.lock();
            if matches!(state.phase, Phase::Claimed) {
                state.phase = Phase::Waiting;
                to_wake.tell(&state);
            }
        }
        drop(table);
        to_wake.wake();
    }

    /// Takes a subscription in the flight of each chunk of `wanted`: its position in the request, its flight_key, and the flight in
    /// which it did not come from a tier before. A flight that cannot be joined is made.
    pub(super) fn subscribe<'f>(
        self: &Arc<Self>,
        wanted: impl IntoIterator<Item = (usize, FlightKey, Option<&'f Arc<Flight>>)>,
        notifications: &Arc<Notifications>,
    ) -> Vec<Subscription> {
        let mut table = lock(&self.0);
        let subscribe = |(index, flight_key, after): (usize, FlightKey, Option<&Arc<Flight>>)| {
            let flight = table.flight_to(flight_key, after);
            let mut state = flight.lock();
            if let (true, Phase::InCall(call)) = (state.subscribers.is_empty(), &state.phase) {
                *lock(&call.n_wanted) += 1;
            }
            if matches!(state.phase, Phase::Done(_)) {
                notifications.note(index);
            }
            state.subscribers.push(Subscriber { notifications: Arc::clone(notifications), index });
            drop(state);
            Subscription {
                flights: Arc::clone(self),
                flight,
                notifications: Arc::clone(notifications),
                index,
            }
        };
        wanted.into_iter().map(subscribe).collect()
    }

    /// Claims those of `subscriptions` whose flights wait to be begun, in this order, as many as `cut` chooses: it is told the
    /// flight_keys of up to `n_max`, and how many flights before them are under way.
    pub(super) fn claim<'s>(
        self: &Arc<Self>,
        subscriptions: impl IntoIterator<Item = &'s Subscription>,
        n_max: usize,
        cut: impl FnOnce(&[FlightKey], usize) -> usize,
    ) -> Claims {
        let table = lock(&self.0);
        let (mut waiting, mut n_under_way) = (Vec::new(), 0);
        for subscription in subscriptions {
            match subscription.flight.lock().phase {
                Phase::Waiting => waiting.push(subscription),
                Phase::Claimed | Phase::InCall(_) => n_under_way += 1,
                Phase::Done(_) | Phase::Abandoned => {}
            }
            if waiting.len() == n_max {
                break;
            }
        }
        let flight_keys: Vec<FlightKey> =
            waiting.iter().map(|subscription| subscription.flight.flight_key).collect();
        waiting.truncate(cut(&flight_keys, n_under_way));
        let claim = |subscription: &Subscription| {
            let mut state = subscription.flight.lock();
            // A chunk that is asked for twice is claimed once.
            matches!(state.phase, Phase::Waiting).then(|| {
                state.phase = Phase::Claimed;
                (subscription.index, Arc::clone(&subscription.flight))
            })
        };
        let claimed = waiting.into_iter().filter_map(claim).collect();
        drop(table);
        Claims { flights: Arc::clone(self), claimed }
    }

    /// Returns what the flight of a subscription has come to.
    pub(super) fn progress(&self, subscription: &Subscription) -> Progress {
        let _table = lock(&self.0);
        match &subscription.flight.lock().phase {
            Phase::Waiting | Phase::Abandoned => Progress::Waiting,
            Phase::Claimed | Phase::InCall(_) => Progress::UnderWay,
            Phase::Done(outcome) => Progress::Done(outcome.clone()),
        }
    }

    /// Has nobody join what is on its way at this moment from one backend: of some keys, or all of it.
    pub(super) fn forget(&self, place: usize, keys: Option<&[ChunkKey]>) {
        let mut table = lock(&self.0);
        if table.joinable.is_empty() {
            return;
        }
        let keys: Option<HashSet<ChunkKey>> = keys.map(|keys| keys.iter().copied().collect());
        table.joinable.retain(|flight_key, flight| {
            let is_meant =
                flight_key.place == place && keys.as_ref().is_none_or(|keys| keys.contains(&flight_key.key));
            if is_meant {
                flight.lock().is_stale = true;
            }
            !is_meant
        });
    }

    /// Gives every flight of a call its outcome. Those that were abandoned stay so.
    fn finish(&self, call: &Arc<Call>, outcomes: impl IntoIterator<Item = Result<Chunk, Miss>>) {
        let mut to_wake = ToWake::default();
        // Memory goes back outside of the lock.
        let mut unwanted = Vec::new();
        let mut table = lock(&self.0);
        // With the call's own hold on them: who is woken may count on the chunks' memory.
        let flights = std::mem::take(&mut *lock(&call.flights));
        for (flight, outcome) in flights.iter().zip(outcomes) {
            let mut state = flight.lock();
            if !matches!(&state.phase, Phase::InCall(own) if Arc::ptr_eq(own, call)) {
                unwanted.push(outcome);
                continue;
            }
            let is_over = outcome.is_err() || state.subscribers.is_empty();
            state.phase = Phase::Done(outcome);
            to_wake.tell(&state);
            drop(state);
            if is_over {
                table.close(flight);
            }
        }
        drop(table);
        drop((flights, unwanted));
        to_wake.wake();
    }

    /// Takes a subscriber out. Returns what was abandoned with that.
    fn leave(&self, subscription: &Subscription) -> Departure {
        let mut table = lock(&self.0);
        let mut state = subscription.flight.lock();
        let is_own = |subscriber: &Subscriber| {
            subscriber.index == subscription.index
                && Arc::ptr_eq(&subscriber.notifications, &subscription.notifications)
        };
        let Some(position) = state.subscribers.iter().position(is_own) else { return Departure::AlreadyLeft };
        state.subscribers.swap_remove(position);
        if !state.subscribers.is_empty() {
            return Departure::OthersRemain;
        }
        let call = match &state.phase {
            Phase::Waiting | Phase::Claimed => None,
            Phase::InCall(call) => {
                let mut n_wanted = lock(&call.n_wanted);
                *n_wanted -= 1;
                if *n_wanted > 0 {
                    // Goes on for the call's other chunks, and can be joined again.
                    return Departure::NobodyRemains;
                }
                drop(n_wanted);
                Some(Arc::clone(call))
            }
            Phase::Done(_) | Phase::Abandoned => {
                drop(state);
                table.close(&subscription.flight);
                return Departure::OthersRemain;
            }
        };
        drop(state);
        let flights = match &call {
            Some(call) => std::mem::take(&mut *lock(&call.flights)),
            None => vec![Arc::clone(&subscription.flight)],
        };
        for flight in &flights {
            flight.lock().phase = Phase::Abandoned;
            table.close(flight);
        }
        drop(table);
        call.map_or(Departure::NobodyRemains, Departure::CallAbandoned)
    }
}

/// Who is left in a flight that somebody has left.
pub(super) enum Departure {
    /// It was left before.
    AlreadyLeft,
    /// Others, or there is nothing to go on with.
    OthersRemain,
    /// Nobody. If the call of the flight goes on, it does for its other chunks.
    NobodyRemains,
    /// Nobody, and nobody in any flight of this call, which is to be ended.
    CallAbandoned(Arc<Call>),
}

impl Subscription {
    /// Returns the chunk's position if a removal has returned since the flight was begun.
    pub(super) fn is_stale(&self) -> Option<usize> {
        self.flight.lock().is_stale.then_some(self.index)
    }

    /// Leaves the flight, and leaves what is to be done with its call to the caller.
    pub(super) fn leave(self) -> Departure {
        // Dropping it afterwards finds that it has been left.
        self.flights.leave(&self)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Departure::CallAbandoned(call) = self.flights.leave(self) {
            call.abort();
        }
    }
}

#[cfg(test)]
mod tests;
