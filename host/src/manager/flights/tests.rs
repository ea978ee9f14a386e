//! Random sequences of joining, leaving, failing and removing, against the invariants. Longer than other files, because
//! the steps share one model.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::call::RunningCall;
use super::*;
use crate::clock::Clock;
use crate::config::BreakerConfig;
use crate::manager::breaker::{Breakers, Direction, OwnedPermit};
use crate::memory::{BufferMut, Pool, Provider};

const N_KEYS: u64 = 3;
const N_RETRIEVALS: usize = 4;

/// A retrieval from the flights' point of view: one subscription for each key that it wants, in one of two tiers.
#[derive(Default)]
struct Retrieval {
    notifications: Arc<Notifications>,
    place: usize,
    subscriptions: BTreeMap<usize, Subscription>,
    /// The chunks that it did not get from the first tier.
    after: BTreeMap<usize, Arc<Flight>>,
    claims: Option<Claims>,
    /// The chunks that it got, by position, with their tier.
    got: BTreeMap<usize, usize>,
}

/// A call under way.
struct Begun {
    running: RunningCall,
    /// The references of the call, which it drops at its end.
    flights: Vec<Arc<Flight>>,
    /// How many removals of each key there had been.
    n_removals: Vec<u64>,
}

struct Model {
    flights: Arc<Flights>,
    breakers: Arc<Breakers>,
    pool: Arc<dyn Provider>,
    retrievals: Vec<Retrieval>,
    calls: Vec<Begun>,
    n_removals: Vec<u64>,
    /// How often each key was requested from each tier.
    n_asked: BTreeMap<(usize, u64), usize>,
    random: u64,
}

fn key(n: u64) -> ChunkKey {
    ChunkKey { hi: n, lo: n }
}

fn flight_key(place: usize, n: usize) -> FlightKey {
    FlightKey { place, key: key(n as u64), size_bytes: 1 }
}

impl Model {
    fn new(seed: u64) -> Self {
        let breakers = Breakers::new("model", BreakerConfig::default(), &Clock::manual());
        let pool: Arc<dyn Provider> = Arc::new(Pool::new(64 * 4096).unwrap());
        Self {
            flights: Arc::default(),
            breakers: Arc::new(breakers),
            pool,
            retrievals: (0..N_RETRIEVALS).map(|_| Retrieval::default()).collect(),
            calls: Vec::new(),
            n_removals: vec![0; N_KEYS as usize],
            n_asked: BTreeMap::new(),
            random: seed,
        }
    }

    /// # Source
    /// `SplitMix64`, as in `backoff`.
    fn below(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % n as u64) as usize
    }

    fn chunk(&self, key: ChunkKey) -> Chunk {
        let buffer = BufferMut::allocate(&self.pool, 1).unwrap().unwrap();
        crate::chunk::ChunkWriter::new(key, buffer).freeze()
    }

    fn step(&mut self) {
        let who = self.below(N_RETRIEVALS);
        match self.below(12) {
            0..=2 => self.join(who),
            3..=5 => self.claim(who),
            6 => self.release(who),
            7 | 8 => self.begin(who),
            9 => self.leave(who),
            10 => self.finish(),
            _ => self.remove(),
        }
        self.check();
    }

    /// Requests a run of keys if it is idle; else, from the second tier, the keys that it did not get.
    fn join(&mut self, who: usize) {
        let n = 1 + self.below(N_KEYS as usize);
        let retrieval = &mut self.retrievals[who];
        if !retrieval.subscriptions.is_empty() {
            return;
        }
        let wanted: Vec<_> = if retrieval.after.is_empty() {
            retrieval.place = 0;
            retrieval.got.clear();
            (0..n).map(|index| (index, flight_key(0, index), None)).collect()
        } else {
            retrieval.place = 1;
            retrieval
                .after
                .iter()
                .map(|(index, after)| (*index, flight_key(1, *index), Some(after)))
                .collect()
        };
        let subscriptions = self.flights.subscribe(wanted, &retrieval.notifications);
        retrieval.subscriptions =
            subscriptions.into_iter().map(|subscription| (subscription.index, subscription)).collect();
        if retrieval.place == 1 {
            retrieval.after.clear();
        }
        self.hear(who);
    }

    fn claim(&mut self, who: usize) {
        let n_max = 1 + self.below(2);
        let retrieval = &mut self.retrievals[who];
        if retrieval.claims.is_none() {
            let claims = self
                .flights
                .claim(retrieval.subscriptions.values(), n_max, |flight_keys, _| flight_keys.len());
            retrieval.claims = (!claims.is_empty()).then_some(claims);
        }
    }

    fn release(&mut self, who: usize) {
        self.retrievals[who].claims = None;
        self.hear_all();
    }

    fn begin(&mut self, who: usize) {
        let retrieval = &mut self.retrievals[who];
        let Some(claims) = retrieval.claims.take() else { return };
        for index in claims.indices() {
            *self.n_asked.entry((retrieval.place, index as u64)).or_default() += 1;
        }
        let n_removals = claims.indices().iter().map(|index| self.n_removals[*index]).collect();
        let permit = self.breakers.reading.admit().expect("nothing fails here");
        let permit = OwnedPermit::new(&self.breakers, Direction::Reading, permit);
        let running = claims.begin(permit, &Arc::default());
        let flights = lock(&running.call.flights).clone();
        self.calls.push(Begun { running, flights, n_removals });
    }

    /// Leaves everything, as a caller does when it gives up.
    fn leave(&mut self, who: usize) {
        let claims_last = self.below(2) == 0;
        let retrieval = &mut self.retrievals[who];
        let claims = retrieval.claims.take();
        let claims = if claims_last { claims } else { None };
        retrieval.after.clear();
        for (_, subscription) in std::mem::take(&mut retrieval.subscriptions) {
            drop(subscription);
        }
        drop(claims);
        self.retrievals[who].notifications.take();
        self.hear_all();
    }

    fn finish(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let at = self.below(self.calls.len());
        let Begun { running, flights, .. } = self.calls.swap_remove(at);
        let kind = self.below(3);
        let outcomes = flights.iter().enumerate().map(|(n, flight)| match kind {
            0 => Err(Miss::NotFound),
            1 if n == 0 => Err(Miss::NotFound),
            _ => Ok(self.chunk(flight.flight_key.key)),
        });
        let outcomes: Vec<_> = outcomes.collect();
        if self.below(8) == 0 {
            // As if its task had panicked.
            drop(running);
        } else {
            running.finish(outcomes);
        }
        self.hear_all();
    }

    fn remove(&mut self) {
        let n = self.below(N_KEYS as usize);
        self.n_removals[n] += 1;
        for place in 0..2 {
            self.flights.invalidate(place, Some(&[key(n as u64)]));
        }
    }

    fn hear_all(&mut self) {
        (0..N_RETRIEVALS).for_each(|who| self.hear(who));
    }

    /// Takes the finished flights, and only looks where the notifications point.
    fn hear(&mut self, who: usize) {
        let retrieval = &mut self.retrievals[who];
        for index in retrieval.notifications.take() {
            let Some(subscription) = retrieval.subscriptions.get(&index) else { continue };
            let Progress::Done(outcome) = self.flights.progress(subscription) else { continue };
            let subscription = retrieval.subscriptions.remove(&index).expect("looked at");
            match outcome {
                Ok(chunk) => {
                    assert_eq!(chunk.key(), key(index as u64));
                    retrieval.got.insert(index, retrieval.place);
                }
                Err(_) if retrieval.place == 0 => {
                    retrieval.after.insert(index, Arc::clone(&subscription.flight));
                }
                Err(_) => {}
            }
        }
    }

    /// The invariants between any two steps.
    fn check(&self) {
        let table = lock(&self.flights.0);
        for (flight_key, flight) in &table.joinable {
            let state = flight.lock();
            assert_eq!(*flight_key, flight.flight_key);
            assert!(!state.is_stale, "a removal has returned since");
            assert!(!matches!(state.phase, Phase::Abandoned | Phase::Done(Err(_))), "over");
            let goes_on = matches!(state.phase, Phase::InCall(_));
            assert!(goes_on || !state.subscribers.is_empty(), "nobody wants it");
        }
        drop(table);
        for Begun { running, flights, n_removals } in &self.calls {
            let wanted = |flight: &&Arc<Flight>| !flight.lock().subscribers.is_empty();
            let n_wanted = flights.iter().filter(wanted).count();
            let is_abandoned = flights.iter().all(|flight| matches!(flight.lock().phase, Phase::Abandoned));
            assert_eq!(is_abandoned, n_wanted == 0, "abandoned exactly when the last has left");
            if !is_abandoned {
                assert_eq!(*lock(&running.call.n_wanted), n_wanted);
            }
            for (flight, n_removals) in flights.iter().zip(n_removals) {
                let n_now = self.n_removals[flight.flight_key.key.lo as usize];
                let table = lock(&self.flights.0);
                let joinable =
                    table.joinable.get(&flight.flight_key).is_some_and(|other| Arc::ptr_eq(other, flight));
                assert!(!joinable || n_now == *n_removals, "begun before a removal returned");
            }
        }
        for retrieval in &self.retrievals {
            // A waiting retrieval has not missed the end of a flight.
            for subscription in retrieval.subscriptions.values() {
                assert!(!matches!(self.flights.progress(subscription), Progress::Done(_)), "unheard");
            }
        }
    }

    /// All retrievals end, and nothing may be left.
    fn end(mut self) {
        while !self.calls.is_empty() {
            self.finish();
        }
        (0..N_RETRIEVALS).for_each(|who| self.leave(who));
        assert!(lock(&self.flights.0).joinable.is_empty(), "a flight is left");
        drop(self.retrievals);
        assert_eq!(self.pool.allocated_bytes(), 0, "a chunk is left");
    }
}

#[test]
fn whatever_the_order_of_joining_leaving_failing_and_removing_the_invariants_hold() {
    for seed in 0..400 {
        let mut model = Model::new(seed);
        for _ in 0..120 {
            model.step();
        }
        model.end();
    }
}

#[test]
fn a_chunk_that_several_want_is_asked_for_once_in_each_tier_if_none_of_them_leaves() {
    for seed in 0..400 {
        let mut model = Model::new(seed);
        for who in 0..N_RETRIEVALS {
            while model.retrievals[who].subscriptions.len() < N_KEYS as usize {
                model.leave(who);
                model.join(who);
            }
        }
        // All keys fail in the first tier, and the first retrieval to ask requests them from the second.
        for _ in 0..200 {
            let who = model.below(N_RETRIEVALS);
            match model.below(4) {
                0 => model.claim(who),
                1 => model.begin(who),
                2 => {
                    if let Some(Begun { running, flights, .. }) = model.calls.pop() {
                        let place = flights.first().map(|flight| flight.flight_key.place);
                        let outcome = |flight: &Arc<Flight>| match place {
                            Some(0) => Err(Miss::NotFound),
                            _ => Ok(model.chunk(flight.flight_key.key)),
                        };
                        let outcomes: Vec<_> = flights.iter().map(outcome).collect();
                        running.finish(outcomes);
                        model.hear_all();
                    }
                }
                _ if model.retrievals[who].after.len() == N_KEYS as usize => model.join(who),
                _ => {}
            }
        }
        assert!(model.n_asked.values().all(|n| *n == 1), "{:?}", model.n_asked);
        model.end();
    }
}
