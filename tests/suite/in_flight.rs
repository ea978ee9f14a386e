//! Retrieving in several batches at once: how many are in flight, what bounds them, and what happens to the others if
//! one fails.

use std::sync::Arc;
use std::thread;

use kvtier::__internal::limits::GET_BATCHES_IN_FLIGHT;
use kvtier::tier::{TRAILER_BYTES, Tier};
use kvtier::{
    BreakerState, ChunkKey, Clock, Config, Engine, EngineBuilder, Operation, Retrieved, Tiers, block_on,
};

use crate::scripted::{Heard, Scripted, Takes, engine_over};
use crate::support::{self, CHUNK_BYTES, assert_nothing_leaks, config, counted, get, keys, metadata, served};

const BUFFER_BYTES: usize = CHUNK_BYTES + TRAILER_BYTES;

/// One chunk a call, and no other bound.
fn one_by_one() -> Takes {
    Takes { batch_chunks: 1, ..Takes::default() }
}

/// An engine without a hot cache over tiers that all have the chunks of `keys`.
fn engine(tiers: &[(&str, &Arc<Scripted>)], keys: &[ChunkKey]) -> Engine {
    let engine = engine_over(Config { local_cpu: false, ..config(vec![]) }, metadata(), tiers);
    support::put(engine.storage(), keys, &Tiers::All);
    block_on(engine.storage().flush()).unwrap();
    engine
}

/// Retrieves on another thread while `meanwhile` runs.
fn get_beside(engine: &Engine, keys: &[ChunkKey], meanwhile: impl FnOnce()) -> Retrieved {
    thread::scope(|scope| {
        let getting = scope.spawn(|| get(engine.storage(), keys));
        meanwhile();
        getting.join().unwrap()
    })
}

fn misses(found: &Retrieved) -> Vec<(usize, usize, &'static str)> {
    found.misses.iter().map(|missed| (missed.position, missed.tier.0, missed.miss.reason())).collect()
}

#[test]
fn batches_of_one_retrieval_are_in_flight_side_by_side_up_to_the_limit() {
    let tier = Scripted::taking(one_by_one());
    let keys = keys(3 * GET_BATCHES_IN_FLIGHT as u64);
    let engine = engine(&[("tier", &tier)], &keys);
    tier.hold_gets(&keys);
    let found = get_beside(&engine, &keys, || {
        tier.wait_for_gets(GET_BATCHES_IN_FLIGHT as u32);
        tier.let_gets_go();
    });
    assert_eq!(served(&found), vec![1; keys.len()]);
    assert_eq!(tier.gets_at_once(), GET_BATCHES_IN_FLIGHT);
    drop(found);
    assert_nothing_leaks(engine.storage());
}

#[test]
fn a_slow_batch_does_not_hold_up_the_others() {
    let tier = Scripted::taking(one_by_one());
    let keys = keys(10);
    let engine = engine(&[("tier", &tier)], &keys);
    tier.hold_gets(&keys[..1]);
    let found = get_beside(&engine, &keys, || {
        // All others have entered although the first has not returned.
        tier.wait_for_gets(10);
        tier.let_gets_go();
    });
    assert_eq!((served(&found), found.misses.len()), (vec![1; 10], 0));
}

#[test]
fn no_more_is_in_flight_than_the_tier_takes_and_one_batch_always_is() {
    for (calls, bytes, expected) in [
        (usize::MAX, 3 * BUFFER_BYTES, 3),
        (usize::MAX, 3 * BUFFER_BYTES - 1, 2),
        (usize::MAX, 1, 1),
        (2, usize::MAX, 2),
        (1, usize::MAX, 1),
        (0, usize::MAX, 1),
    ] {
        let tier = Scripted::taking(Takes { batch_chunks: 1, calls, bytes });
        let keys = keys(8);
        let engine = engine(&[("tier", &tier)], &keys);
        tier.hold_gets(&keys);
        let found = get_beside(&engine, &keys, || {
            tier.wait_for_gets(expected);
            tier.let_gets_go();
        });
        assert_eq!(served(&found), [1; 8]);
        assert_eq!(tier.gets_at_once(), expected as usize, "{calls} calls, {bytes} bytes");
    }
}

#[test]
fn a_backend_that_takes_one_call_at_a_time_refuses_none_of_a_retrieval() {
    for (name, component, class) in
        [("strict", "memory", "MemoryBackend"), ("strict-blocking", "blocking", "BlockingMemoryBackend")]
    {
        let mut backend = support::backend(name, component, class);
        (backend.limits.bytes_in_flight, backend.limits.batch_chunks_max) = (1, 1);
        let engine = support::engine(Config { local_cpu: false, ..config(vec![backend]) });
        let (storage, keys) = (engine.storage(), keys(8));
        // Puts one at a time: several at once would be refused.
        for key in &keys {
            support::put_in(storage, &[*key], name);
        }
        let found = get(storage, &keys);
        assert_eq!((served(&found), misses(&found)), (vec![1; 8], vec![]), "{name}");
        assert!(counted(storage, name).errors.is_empty(), "{name}");
    }
}

#[test]
fn a_tier_that_lets_one_call_expire_is_left_with_all_that_is_in_flight() {
    let (a, b) = (Scripted::taking(one_by_one()), Scripted::new());
    let keys = keys(6);
    let engine = engine(&[("a", &a), ("b", &b)], &keys);
    // The second never answers; those beside it would never return.
    a.hold_gets(&[keys[0], keys[2], keys[3]]);
    a.let_expire(keys[1]);
    let found = get(engine.storage(), &keys);
    assert_eq!(served(&found), [2; 6]);
    assert_eq!(misses(&found), [0, 1, 2, 3, 4, 5].map(|index| (index, 1, "timeout")));
    let counts = counted(engine.storage(), "a");
    assert_eq!((counts.n_errors(Operation::Get, "timeout"), counts.misses["timeout"]), (1, 6));
    let n_gets = a.heard().iter().filter(|heard| matches!(heard, Heard::Get(_))).count();
    assert!(n_gets <= GET_BATCHES_IN_FLIGHT, "{n_gets}");
    assert_eq!(engine.storage().status().backends[0].reading.failures, 1);
    drop(found);
    assert_nothing_leaks(engine.storage());
}

#[test]
fn what_has_come_back_before_a_call_expires_is_kept() {
    let (a, b) = (Scripted::taking(one_by_one()), Scripted::new());
    let keys = keys(4);
    let engine = engine(&[("a", &a), ("b", &b)], &keys);
    a.hold_gets(&keys[3..]);
    a.let_expire(keys[3]);
    let found = get_beside(&engine, &keys, || {
        a.wait_for_gets(4);
        support::eventually("the others have returned", || counted(engine.storage(), "a").hits == 3);
        a.let_gets_go();
    });
    assert_eq!((served(&found), misses(&found)), (vec![1, 1, 1, 2], vec![(3, 1, "timeout")]));
}

#[test]
fn misses_stand_in_the_order_of_the_request_whichever_batch_came_back_first() {
    let (a, b) = (Scripted::taking(one_by_one()), Scripted::new());
    let keys = keys(3);
    let engine = engine(&[("a", &a), ("b", &b)], &keys);
    for key in &keys {
        a.spoil(*key);
    }
    a.hold_gets(&keys[..1]);
    let found = get_beside(&engine, &keys, || {
        a.wait_for_gets(3);
        support::eventually("the others have returned", || {
            counted(engine.storage(), "a").misses.get("other") == Some(&2)
        });
        a.let_gets_go();
    });
    assert_eq!(served(&found), [2; 3]);
    assert_eq!(misses(&found), [0, 1, 2].map(|index| (index, 1, "other")));
}

#[test]
fn memory_that_runs_out_is_missing_at_the_end_of_the_prefix() {
    let tier = Scripted::taking(one_by_one());
    let keys = keys(6);
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    let others: Vec<_> = (1000..1062).map(|n| support::spec(support::key(n))).collect();
    let held = block_on(storage.allocate(&others)).unwrap();
    assert_eq!(held.n_missing(), 62, "room for two is left");
    let found = get(storage, &keys);
    assert_eq!((served(&found), misses(&found)), (vec![1, 1], vec![(2, 1, "no_memory")]));
    drop((held, found));
    assert_eq!(served(&get(storage, &keys)), [1; 6]);
    assert_nothing_leaks(storage);
}

#[test]
fn a_probe_is_alone_and_what_it_shows_decides_for_the_batches_behind_it() {
    for recovers in [true, false] {
        let clock = Clock::manual();
        let tier = Scripted::taking(one_by_one());
        let config = Config { local_cpu: false, ..config(vec![]) };
        let builder = EngineBuilder::new(config, metadata()).clock(clock.clone());
        let engine = builder.tier("tier", Arc::clone(&tier) as Arc<dyn Tier>).build_blocking().unwrap();
        let (storage, keys) = (engine.storage(), keys(6));
        support::put(storage, &keys, &Tiers::All);
        block_on(storage.flush()).unwrap();
        let breaker = || storage.status().backends[0].reading.clone();
        tier.set_dead(true);
        while breaker().state == BreakerState::Closed {
            support::in_tier(storage, &keys, "tier");
        }
        clock.advance(breaker().retry_in.unwrap() * 2);
        tier.set_dead(!recovers);
        tier.hold_gets(&keys[..1]);
        let plan = support::promise(1, 6);
        let found = thread::scope(|scope| {
            let specs = support::specs(&keys);
            let plan = &plan;
            let getting = scope.spawn(move || block_on(storage.get(&specs, &Tiers::All, Some(plan))));
            tier.wait_for_gets(1);
            tier.let_gets_go();
            getting.join().unwrap()
        });
        let n_gets = tier.heard().iter().filter(|heard| matches!(heard, Heard::Get(_))).count();
        if recovers {
            assert_eq!((served(&found), n_gets), (vec![1; 6], 6));
        } else {
            assert_eq!((found.chunks.len(), n_gets), (0, 1), "the others are not tried");
            let reasons: Vec<_> = misses(&found).into_iter().map(|(_, _, reason)| reason).collect();
            assert_eq!(reasons[0], "unavailable");
            assert_eq!(reasons[1..], ["breaker_open"; 5]);
        }
    }
}

#[test]
fn a_retrieval_that_is_given_up_takes_back_every_batch() {
    let tier = Scripted::taking(one_by_one());
    let keys = keys(6);
    let engine = engine(&[("tier", &tier)], &keys);
    tier.hold_gets(&keys);
    let specs = support::specs(&keys);
    {
        let plan = support::promise(1, 6);
        let mut getting = std::pin::pin!(engine.storage().get(&specs, &Tiers::All, Some(&plan)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(getting.as_mut().poll(&mut context).is_pending());
        tier.wait_for_gets(GET_BATCHES_IN_FLIGHT as u32);
        assert!(support::chunks_in_memory(engine.storage()) >= GET_BATCHES_IN_FLIGHT);
    }
    assert_nothing_leaks(engine.storage());
}
