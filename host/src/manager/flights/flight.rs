//! One chunk in flight, and the table of all that can be joined.
//!
//! A flight knows the [`Call`] that fetches it, and the call knows its flights: two halves of one idea.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::call::Call;
use super::notifications::Subscriber;
use crate::chunk::Chunk;
use crate::key::ChunkKey;
use crate::manager::fetched::Miss;
use crate::sync::lock;

/// A chunk of one size in one backend, which is named by its place in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::manager) struct FlightKey {
    pub(in crate::manager) place: usize,
    pub(in crate::manager) key: ChunkKey,
    pub(in crate::manager) size_bytes: usize,
}

/// One chunk that is being fetched, or is about to be.
pub(in crate::manager) struct Flight {
    pub(super) flight_key: FlightKey,
    /// Locked only while the table is locked.
    state: Mutex<FlightState>,
}

pub(super) struct FlightState {
    pub(super) phase: Phase,
    pub(super) subscribers: Vec<Subscriber>,
    /// The flights in which subscribers that did not get the chunk here requested it from another tier.
    next_flights: Vec<Arc<Flight>>,
    /// A removal has returned since the flight began.
    pub(super) is_stale: bool,
}

pub(super) enum Phase {
    /// No retrieval fetches it.
    Waiting,
    /// A retrieval is about to fetch it, and looks for memory.
    Claimed,
    InCall(Arc<Call>),
    Done(Result<Chunk, Miss>),
    Abandoned,
}

impl Flight {
    pub(super) fn lock(&self) -> MutexGuard<'_, FlightState> {
        lock(&self.state)
    }
}

impl FlightState {
    /// Reports whether subscribers of an earlier flight may continue with this one.
    fn can_be_followed(&self) -> bool {
        !self.is_stale && !matches!(self.phase, Phase::Abandoned)
    }
}

/// The flights of a chain that can be joined.
#[derive(Default)]
pub(super) struct Table {
    pub(super) joinable: HashMap<FlightKey, Arc<Flight>>,
}

impl Table {
    /// Returns the flight for a chunk: one that exists, if it can be joined, or a new one.
    pub(super) fn flight_to(&mut self, flight_key: FlightKey, after: Option<&Arc<Flight>>) -> Arc<Flight> {
        let followed = after.and_then(|after| {
            let state = after.lock();
            let mut next_flights = state.next_flights.iter();
            let next = next_flights
                .find(|flight| flight.flight_key == flight_key && flight.lock().can_be_followed());
            next.cloned()
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
            if !state.next_flights.iter().any(|next| Arc::ptr_eq(next, &flight)) {
                state.next_flights.push(Arc::clone(&flight));
            }
        }
        flight
    }

    /// Prevents retrievals from joining a flight.
    pub(super) fn close(&mut self, flight: &Arc<Flight>) {
        if self.joinable.get(&flight.flight_key).is_some_and(|joinable| Arc::ptr_eq(joinable, flight)) {
            self.joinable.remove(&flight.flight_key);
        }
    }
}
