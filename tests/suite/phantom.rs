//! Backends that find chunks and do not deliver them: a failure of reading, unless they deliver at least one chunk, or
//! were allowed to lose them.

use std::sync::Arc;
use std::time::Duration;

use kvtier::__internal::limits::PROMISE_AGE_MAX;
use kvtier::tier::Tier;
use kvtier::{
    BackendConfig, BreakerState, BreakerStatus, ChunkKey, Clock, Config, Engine, EngineBuilder, Lookup,
    Retrieved, StorageManager, Tiers, block_on,
};

use crate::scripted::{Scripted, Takes};
use crate::support::{self, eventually, get, keys, put_in, served};

/// Failures that open a breaker, unless configured.
const FAILURES: usize = 5;

fn engine(backends: Vec<BackendConfig>, tiers: &[(&str, &Arc<Scripted>)]) -> (Engine, Clock) {
    let clock = Clock::manual();
    let config = Config { local_cpu: false, ..support::config(backends) };
    let mut builder = EngineBuilder::new(config, support::metadata()).clock(clock.clone());
    for (name, tier) in tiers {
        builder = builder.tier(*name, Arc::clone(*tier) as Arc<dyn Tier>);
    }
    (builder.build_blocking().unwrap(), clock)
}

/// Builds an engine over one tier that has lost all of `keys`, and claims to have them.
fn with_lost(tier: &Arc<Scripted>, keys: &[ChunkKey]) -> (Engine, Clock) {
    let (engine, clock) = engine(vec![], &[("tier", tier)]);
    put_in(engine.storage(), keys, "tier");
    for key in keys {
        tier.lose(*key);
    }
    (engine, clock)
}

fn reading(storage: &StorageManager) -> BreakerStatus {
    storage.status().backends.swap_remove(0).reading
}

fn get_planned(storage: &StorageManager, keys: &[ChunkKey], plan: &Lookup) -> Retrieved {
    block_on(storage.get(&support::specs(keys), &Tiers::All, Some(plan)))
}

fn reasons(found: &Retrieved) -> Vec<&'static str> {
    found.misses.iter().map(|missed| missed.miss.reason()).collect()
}

fn one_by_one() -> Takes {
    Takes { batch_chunks: 1, ..Takes::default() }
}

#[test]
fn a_component_that_finds_what_it_never_delivers_is_passed_over_and_the_next_tier_serves() {
    let phantom = support::misbehaving("phantom", "PhantomBackend", &[]);
    let good = support::backend("phantom-good", "memory", "MemoryBackend");
    let (engine, _clock) = engine(vec![phantom, good], &[]);
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys, "phantom");
    put_in(storage, &keys, "phantom-good");
    for n in 1..=2 * FAILURES {
        let found = get(storage, &keys);
        assert_eq!(served(&found), [2; 3], "retrieval {n}");
        assert_eq!(reasons(&found), vec!["phantom_hit"; if n <= FAILURES { 3 } else { 0 }], "retrieval {n}");
    }
    let status = reading(storage);
    assert_eq!((status.state, status.failures as usize), (BreakerState::Open, FAILURES));
    assert_eq!(
        status.last_cause.as_deref(),
        Some("delivered none of 3 chunks that its own lookup had promised")
    );
    assert_eq!(storage.status().backends[0].writing.failures, 0);
    let misses = support::counted(storage, "phantom").misses;
    assert_eq!(misses.into_iter().collect::<Vec<_>>(), [("phantom_hit", 3 * FAILURES as u64)]);
    support::assert_nothing_leaks(storage);
}

#[test]
fn all_batches_of_a_retrieval_are_one_failure_and_one_delivered_chunk_clears_them() {
    let tier = Scripted::taking(one_by_one());
    let keys = keys(6);
    let (engine, _clock) = with_lost(&tier, &keys[..5]);
    let storage = engine.storage();
    let found = get(storage, &keys[..5]);
    assert_eq!((reasons(&found), reading(storage).failures), (vec!["phantom_hit"; 5], 1));
    put_in(storage, &keys[5..], "tier");
    for _ in 0..4 * FAILURES {
        let found = get(storage, &keys);
        assert_eq!((found.chunks.len(), reasons(&found)), (0, vec!["not_found"; 5]));
    }
    assert_eq!((reading(storage).failures, reading(storage).opened), (0, 0));
    assert_eq!(support::counted(storage, "tier").misses["not_found"], 20 * FAILURES as u64);
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_lookup_binds_for_a_moment_and_a_pin_as_long_as_it_holds() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let (engine, clock) = with_lost(&tier, &keys);
    let storage = engine.storage();
    let plan = block_on(storage.contains(&keys, &Tiers::All));
    clock.advance(PROMISE_AGE_MAX);
    assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["phantom_hit"; 2]);
    clock.advance(Duration::from_millis(1));
    assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["not_found"; 2], "stores evict");
    let plan = block_on(storage.contains_pinned(&keys, &Tiers::All, "id"));
    clock.advance(Duration::from_mins(1));
    assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["phantom_hit"; 2]);
    assert_eq!(reasons(&get_planned(storage, &keys[1..], &plan.slice(1..2))), ["phantom_hit"], "a slice too");
    block_on(storage.unpin("id"));
    assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["not_found"; 2]);
    assert_eq!(reading(storage).failures, 3);
    assert_eq!(reasons(&get_planned(storage, &keys, &support::promise(1, 2))), ["not_found"; 2], "no lookup");
}

#[test]
fn a_pin_does_not_bind_a_tier_that_cannot_pin() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let (engine, clock) = with_lost(&tier, &keys);
    let storage = engine.storage();
    tier.do_not_pin();
    block_on(storage.contains_pinned(&keys, &Tiers::All, "id"));
    block_on(storage.unpin("id"));
    let plan = block_on(storage.contains_pinned(&keys, &Tiers::All, "id"));
    assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["phantom_hit"; 2], "the lookup does");
    clock.advance(Duration::from_mins(1));
    assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["not_found"; 2]);
}

#[test]
fn what_the_chain_itself_has_removed_since_the_lookup_is_a_plain_miss() {
    let (tier, keys) = (Scripted::new(), keys(3));
    let (engine, _clock) = engine(vec![], &[("tier", &tier)]);
    let storage = engine.storage();
    put_in(storage, &keys, "tier");
    let plan = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(block_on(storage.remove(&keys, &Tiers::All)), Ok(3));
    assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["not_found"; 3]);
    assert_eq!(reading(storage).failures, 0);
}

#[test]
fn one_miss_among_failed_chunks_does_not_keep_the_breaker_closed() {
    let (tier, keys) = (Scripted::new(), keys(3));
    let (engine, _clock) = with_lost(&tier, &keys[..1]);
    let storage = engine.storage();
    put_in(storage, &keys[1..], "tier");
    for key in &keys[1..] {
        tier.spoil(*key);
    }
    // Without a lookup, so that nothing is promised.
    let plan = support::promise(1, 3);
    for n in 1..=FAILURES {
        assert_eq!(reading(storage).state, BreakerState::Closed);
        let found = get_planned(storage, &keys, &plan);
        assert_eq!(reasons(&found), ["not_found", "other", "other"], "retrieval {n}");
    }
    assert_eq!(reading(storage).state, BreakerState::Open);
}

#[test]
fn a_probe_that_brings_phantoms_does_not_close_the_breaker() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let (engine, clock) = with_lost(&tier, &keys);
    let storage = engine.storage();
    let plan = block_on(storage.contains_pinned(&keys, &Tiers::All, "id"));
    for _ in 0..FAILURES {
        get_planned(storage, &keys, &plan);
    }
    eventually("it opens", || reading(storage).state == BreakerState::Open);
    for opened in 2..4 {
        clock.advance(reading(storage).retry_in.unwrap() + Duration::from_millis(1));
        assert_eq!(reasons(&get_planned(storage, &keys, &plan)), ["phantom_hit"; 2]);
        assert_eq!((reading(storage).state, reading(storage).opened), (BreakerState::Open, opened));
    }
}
