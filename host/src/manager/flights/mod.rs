//! Chunks that are being fetched from backends: each is fetched once for all retrievals that want it at the time.
//!
//! A retrieval subscribes to the [`Flight`] of each chunk that it wants from a backend. The first retrieval with room
//! claims flights that are not under way, finds memory for them, and begins one [`Call`] for them; the others wait for
//! its end. A claimed flight that it cannot begin is free for the next retrieval. A flight that ended with its chunk
//! can be joined as long as it has a subscriber. A flight that ended without its chunk is over, and its subscribers ask
//! the next tier together.
//!
//! This module neither waits nor moves bytes: `fetching` is the retrieval's part, and [`Backend::fetch`] the call.
//!
//! Invariants: for one chunk of one backend, at most one flight can be joined. A call goes on while any of its flights
//! has a subscriber, and is abandoned with the last. A subscriber is notified of every change.
//!
//! [`Backend::fetch`]: super::backend::Backend::fetch

mod call;
mod flight;
mod notifications;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

pub(super) use self::call::{Call, CallGroup, Claims};
pub(super) use self::flight::{Flight, FlightKey};
use self::flight::{Phase, Table};
pub(super) use self::notifications::Notifications;
use self::notifications::{Subscriber, ToWake};
use super::fetched::Miss;
use crate::chunk::Chunk;
use crate::key::ChunkKey;
use crate::sync::lock;

/// All flights of a chain that can be joined.
#[derive(Default)]
pub(super) struct Flights(Mutex<Table>);

/// A retrieval's subscription to one flight. Dropping it leaves the flight.
pub(super) struct Subscription {
    flights: Arc<Flights>,
    pub(super) flight: Arc<Flight>,
    notifications: Arc<Notifications>,
    index: usize,
}

/// How far a flight has come.
pub(super) enum Progress {
    /// Any subscriber may claim it.
    Waiting,
    UnderWay,
    Done(Result<Chunk, Miss>),
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
                to_wake.notify(&state.subscribers);
            }
        }
        drop(table);
        to_wake.wake();
    }

    /// Subscribes to the flight of each chunk of `wanted`: its position in the request, its flight's key, and the
    /// flight in which an earlier tier did not deliver it. Where no flight can be joined, one is made.
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

    /// Claims flights of `subscriptions` that are not under way, in this order, as many as `cut` returns. `cut` gets
    /// the keys of up to `n_max` such flights, and the number of flights before them that are under way.
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
            // A chunk that is requested twice is claimed once.
            matches!(state.phase, Phase::Waiting).then(|| {
                state.phase = Phase::Claimed;
                (subscription.index, Arc::clone(&subscription.flight))
            })
        };
        let claimed = waiting.into_iter().filter_map(claim).collect();
        drop(table);
        Claims { flights: Arc::clone(self), claimed }
    }

    /// Returns how far the flight of a subscription has come.
    pub(super) fn progress(&self, subscription: &Subscription) -> Progress {
        let _table = lock(&self.0);
        match &subscription.flight.lock().phase {
            Phase::Waiting | Phase::Abandoned => Progress::Waiting,
            Phase::Claimed | Phase::InCall(_) => Progress::UnderWay,
            Phase::Done(outcome) => Progress::Done(outcome.clone()),
        }
    }

    /// Prevents later retrievals from joining the flights that exist now for one backend, of some keys or of all.
    pub(super) fn invalidate(&self, place: usize, keys: Option<&[ChunkKey]>) {
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

    /// Sets the outcome of every flight of a call. Abandoned flights stay abandoned.
    fn finish(&self, call: &Arc<Call>, outcomes: impl IntoIterator<Item = Result<Chunk, Miss>>) {
        let mut to_wake = ToWake::default();
        // Their memory is released after the lock.
        let mut unwanted = Vec::new();
        let mut table = lock(&self.0);
        // Takes the call's own references too: a woken retrieval may count on the memory of the chunks.
        let flights = std::mem::take(&mut *lock(&call.flights));
        for (flight, outcome) in flights.iter().zip(outcomes) {
            let mut state = flight.lock();
            if !matches!(&state.phase, Phase::InCall(own) if Arc::ptr_eq(own, call)) {
                unwanted.push(outcome);
                continue;
            }
            let is_over = outcome.is_err() || state.subscribers.is_empty();
            state.phase = Phase::Done(outcome);
            to_wake.notify(&state.subscribers);
            drop(state);
            if is_over {
                table.close(flight);
            }
        }
        drop(table);
        drop((flights, unwanted));
        to_wake.wake();
    }

    /// Removes a subscriber, and returns what became of its flight.
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
                    // The call continues for its other chunks, and the flight can be joined again.
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

/// What became of a flight that a subscriber has left.
pub(super) enum Departure {
    /// The subscriber had left it before.
    AlreadyLeft,
    /// It has other subscribers, or it is over.
    OthersRemain,
    /// It has no subscriber. If its call continues, it does so for other chunks.
    NobodyRemains,
    /// No flight of this call has a subscriber. The caller must end the call.
    CallAbandoned(Arc<Call>),
}

impl Subscription {
    /// Returns the chunk's position if a removal has returned since the flight began.
    pub(super) fn is_stale(&self) -> Option<usize> {
        self.flight.lock().is_stale.then_some(self.index)
    }

    /// Leaves the flight. The caller handles the consequences for its call.
    pub(super) fn leave(self) -> Departure {
        // The drop that follows finds no subscription.
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
