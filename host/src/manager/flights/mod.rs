//! Chunks on their way from backends: each is fetched once for all retrievals that want it at the time.
//!
//! A retrieval takes a [`Seat`] in the [`Flight`] of each chunk that it wants from a backend. Whoever has room first
//! claims flights that nobody has begun, finds memory for them, and begins one [`Call`] for them; the others wait for
//! its end.
//! What a claimer cannot begin is free for the next. A flight that landed with its chunk can be joined as long as
//! somebody has a seat in it; one that landed without is over, and those who were in it ask the next tier together.
//!
//! Nothing here waits, and nothing moves bytes: see `fetching` for a retrieval's part and [`Backend::fetch`] for the call.
//!
//! Invariants: of one chunk from one backend one flight at most can be joined; a call goes on while a seat in any of
//! its flights is taken and is abandoned with the last; who has a seat hears of every change.
//!
//! [`Backend::fetch`]: super::backend::Backend::fetch

mod bell;
mod call;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

pub(super) use self::bell::Bell;
use self::bell::ToWake;
pub(super) use self::call::{Call, Claims, Group};
use super::Miss;
use crate::chunk::Chunk;
use crate::key::ChunkKey;
use crate::sync::lock;

/// A chunk of one size in one backend, which is named by its place in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Route {
    pub(super) place: usize,
    pub(super) key: ChunkKey,
    pub(super) size_bytes: usize,
}

/// All flights of a chain that can be joined.
#[derive(Default)]
pub(super) struct Flights(Mutex<Table>);

#[derive(Default)]
struct Table {
    joinable: HashMap<Route, Arc<Flight>>,
}

/// One chunk on its way, or about to be.
pub(super) struct Flight {
    route: Route,
    /// Locked under the table's lock only.
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    passengers: Vec<Passenger>,
    /// Where its chunk was asked for next by those who did not get it here.
    onward: Vec<Arc<Flight>>,
    /// A removal has returned since it was begun.
    is_stale: bool,
}

enum Phase {
    /// Nobody fetches it.
    Waiting,
    /// A retrieval is about to, and looks for memory.
    Claimed,
    Flying(Arc<Call>),
    Landed(Result<Chunk, Miss>),
    Abandoned,
}

struct Passenger {
    bell: Arc<Bell>,
    index: usize,
}

/// A retrieval's place in one flight. Dropping it leaves the flight.
pub(super) struct Seat {
    flights: Arc<Flights>,
    pub(super) flight: Arc<Flight>,
    bell: Arc<Bell>,
    index: usize,
}

/// What a flight has come to.
pub(super) enum Progress {
    /// Anybody may claim it.
    Waiting,
    UnderWay,
    Landed(Result<Chunk, Miss>),
}

impl Flight {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Reports whether somebody who was in the same flight before may go on with this one.
    fn can_be_followed(&self) -> bool {
        !self.is_stale && !matches!(self.phase, Phase::Abandoned)
    }
}

impl Table {
    /// Returns the flight that a chunk is to be had from, one that is there already if there is any.
    fn flight_to(&mut self, route: Route, after: Option<&Arc<Flight>>) -> Arc<Flight> {
        let followed = after.and_then(|after| {
            let state = after.lock();
            let onward =
                state.onward.iter().find(|flight| flight.route == route && flight.lock().can_be_followed());
            onward.cloned()
        });
        let flight = followed.or_else(|| self.joinable.get(&route).cloned()).unwrap_or_else(|| {
            let state =
                State { phase: Phase::Waiting, passengers: Vec::new(), onward: Vec::new(), is_stale: false };
            let flight = Arc::new(Flight { route, state: Mutex::new(state) });
            self.joinable.insert(route, Arc::clone(&flight));
            flight
        });
        if let Some(after) = after {
            let mut state = after.lock();
            if !state.onward.iter().any(|onward| Arc::ptr_eq(onward, &flight)) {
                state.onward.push(Arc::clone(&flight));
            }
        }
        flight
    }

    /// Has nobody join a flight any more.
    fn close(&mut self, flight: &Arc<Flight>) {
        if self.joinable.get(&flight.route).is_some_and(|joinable| Arc::ptr_eq(joinable, flight)) {
            self.joinable.remove(&flight.route);
        }
    }
}

impl Flights {
    /// Frees claimed flights for others.
    fn vacate(&self, claimed: &[(usize, Arc<Flight>)]) {
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

    /// Takes a seat in the flight of each chunk of `wanted`: its position in the request, its route, and the flight in
    /// which it did not come from a tier before. A flight that cannot be joined is made.
    pub(super) fn board<'f>(
        self: &Arc<Self>,
        wanted: impl IntoIterator<Item = (usize, Route, Option<&'f Arc<Flight>>)>,
        bell: &Arc<Bell>,
    ) -> Vec<Seat> {
        let mut table = lock(&self.0);
        let board = |(index, route, after): (usize, Route, Option<&Arc<Flight>>)| {
            let flight = table.flight_to(route, after);
            let mut state = flight.lock();
            if let (true, Phase::Flying(call)) = (state.passengers.is_empty(), &state.phase) {
                *lock(&call.n_wanted) += 1;
            }
            if matches!(state.phase, Phase::Landed(_)) {
                bell.note(index);
            }
            state.passengers.push(Passenger { bell: Arc::clone(bell), index });
            drop(state);
            Seat { flights: Arc::clone(self), flight, bell: Arc::clone(bell), index }
        };
        wanted.into_iter().map(board).collect()
    }

    /// Claims those of `seats` whose flights wait to be begun, in this order, as many as `cut` chooses: it is told the
    /// routes of up to `n_max`, and how many flights before them are under way.
    pub(super) fn claim<'s>(
        self: &Arc<Self>,
        seats: impl IntoIterator<Item = &'s Seat>,
        n_max: usize,
        cut: impl FnOnce(&[Route], usize) -> usize,
    ) -> Claims {
        let table = lock(&self.0);
        let (mut waiting, mut n_under_way) = (Vec::new(), 0);
        for seat in seats {
            match seat.flight.lock().phase {
                Phase::Waiting => waiting.push(seat),
                Phase::Claimed | Phase::Flying(_) => n_under_way += 1,
                Phase::Landed(_) | Phase::Abandoned => {}
            }
            if waiting.len() == n_max {
                break;
            }
        }
        let routes: Vec<Route> = waiting.iter().map(|seat| seat.flight.route).collect();
        waiting.truncate(cut(&routes, n_under_way));
        let claim = |seat: &Seat| {
            let mut state = seat.flight.lock();
            // A chunk that is asked for twice is claimed once.
            matches!(state.phase, Phase::Waiting).then(|| {
                state.phase = Phase::Claimed;
                (seat.index, Arc::clone(&seat.flight))
            })
        };
        let claimed = waiting.into_iter().filter_map(claim).collect();
        drop(table);
        Claims { flights: Arc::clone(self), claimed }
    }

    /// Returns what the flight of a seat has come to.
    pub(super) fn progress(&self, seat: &Seat) -> Progress {
        let _table = lock(&self.0);
        match &seat.flight.lock().phase {
            Phase::Waiting | Phase::Abandoned => Progress::Waiting,
            Phase::Claimed | Phase::Flying(_) => Progress::UnderWay,
            Phase::Landed(outcome) => Progress::Landed(outcome.clone()),
        }
    }

    /// Has nobody join what is on its way at this moment from one backend: of some keys, or all of it.
    pub(super) fn forget(&self, place: usize, keys: Option<&[ChunkKey]>) {
        let mut table = lock(&self.0);
        if table.joinable.is_empty() {
            return;
        }
        let keys: Option<HashSet<ChunkKey>> = keys.map(|keys| keys.iter().copied().collect());
        table.joinable.retain(|route, flight| {
            let is_meant = route.place == place && keys.as_ref().is_none_or(|keys| keys.contains(&route.key));
            if is_meant {
                flight.lock().is_stale = true;
            }
            !is_meant
        });
    }

    /// Gives every flight of a call its outcome. Those that were abandoned stay so.
    fn land(&self, call: &Arc<Call>, outcomes: impl IntoIterator<Item = Result<Chunk, Miss>>) {
        let mut to_wake = ToWake::default();
        // Memory goes back outside of the lock.
        let mut unwanted = Vec::new();
        let mut table = lock(&self.0);
        // With the call's own hold on them: who is woken may count on the chunks' memory.
        let flights = std::mem::take(&mut *lock(&call.flights));
        for (flight, outcome) in flights.iter().zip(outcomes) {
            let mut state = flight.lock();
            if !matches!(&state.phase, Phase::Flying(own) if Arc::ptr_eq(own, call)) {
                unwanted.push(outcome);
                continue;
            }
            let is_over = outcome.is_err() || state.passengers.is_empty();
            state.phase = Phase::Landed(outcome);
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

    /// Takes a passenger out. Returns what was abandoned with that.
    fn leave(&self, seat: &Seat) -> Left {
        let mut table = lock(&self.0);
        let mut state = seat.flight.lock();
        let is_own =
            |passenger: &Passenger| passenger.index == seat.index && Arc::ptr_eq(&passenger.bell, &seat.bell);
        let Some(position) = state.passengers.iter().position(is_own) else { return Left::Before };
        state.passengers.swap_remove(position);
        if !state.passengers.is_empty() {
            return Left::Others;
        }
        let call = match &state.phase {
            Phase::Waiting | Phase::Claimed => None,
            Phase::Flying(call) => {
                let mut n_wanted = lock(&call.n_wanted);
                *n_wanted -= 1;
                if *n_wanted > 0 {
                    // Goes on for the call's other chunks, and can be joined again.
                    return Left::Nobody;
                }
                drop(n_wanted);
                Some(Arc::clone(call))
            }
            Phase::Landed(_) | Phase::Abandoned => {
                drop(state);
                table.close(&seat.flight);
                return Left::Others;
            }
        };
        drop(state);
        let flights = match &call {
            Some(call) => std::mem::take(&mut *lock(&call.flights)),
            None => vec![Arc::clone(&seat.flight)],
        };
        for flight in &flights {
            flight.lock().phase = Phase::Abandoned;
            table.close(flight);
        }
        drop(table);
        call.map_or(Left::Nobody, Left::Call)
    }
}

/// Who is left in a flight that somebody has left.
pub(super) enum Left {
    /// It was left before.
    Before,
    /// Others, or there is nothing to go on with.
    Others,
    /// Nobody. If the call of the flight goes on, it does for its other chunks.
    Nobody,
    /// Nobody, and nobody in any flight of this call, which is to be ended.
    Call(Arc<Call>),
}

impl Seat {
    /// Returns the chunk's position if a removal has returned since the flight was begun.
    pub(super) fn is_stale(&self) -> Option<usize> {
        self.flight.lock().is_stale.then_some(self.index)
    }

    /// Leaves the flight, and leaves what is to be done with its call to the caller.
    pub(super) fn leave(self) -> Left {
        // Dropping it afterwards finds that it has been left.
        self.flights.leave(&self)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Left::Call(call) = self.flights.leave(self) {
            call.abort();
        }
    }
}

#[cfg(test)]
mod tests;
