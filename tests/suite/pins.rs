//! Pins: which lookup holds which chunks, until when, and which calls reach a backend.

use std::sync::Arc;
use std::time::Duration;

use kvtier::tier::{Pinning, Tier};
use kvtier::{Clock, Config, Engine, EngineBuilder, Operation, Salt, StorageManager, Tiers, block_on};

use crate::scripted::{Heard, Scripted, engine_over};
use crate::support::{
    CHUNK_BYTES, CHUNK_SIZE, backend, chunks_in_memory, config, counts_at, engine, eventually, get, in_tier,
    key, keys, log, memories, metadata, misbehaving, put, put_in, runs, specs,
};

/// A backend that keeps two chunks and evicts the least recently used one.
fn two_chunks(name: &str) -> kvtier::BackendConfig {
    let mut config = backend(name, "memory", "LruMemoryBackend");
    config.config.push(("capacity".into(), (2 * (CHUNK_BYTES + 64)).to_string()));
    config
}

fn pinned(storage: &StorageManager) -> (usize, Vec<usize>) {
    let status = storage.status();
    (status.cpu.pinned_entries, status.backends.iter().map(|backend| backend.pinned_keys).collect())
}

#[test]
fn t31_unpin_releases_exactly_the_tiers_that_were_pinned_and_the_second_time_nothing() {
    let log = log();
    let backends = ["t31_a", "t31_b", "t31_c"].map(|name| misbehaving(name, "GoodBackend", &[]));
    let engine = engine(config(backends.into()));
    let (storage, keys) = (engine.storage(), keys(4));
    put(storage, &keys[..1], &Tiers::only(["cpu"]));
    put_in(storage, &keys[1..2], "t31_a");
    put_in(storage, &keys[2..], "t31_b");
    let lookup = block_on(storage.contains_pinned(&keys, &Tiers::All, "t31"));
    assert_eq!(runs(&lookup), [(0, 1), (1, 1), (2, 2)]);
    assert_eq!(pinned(storage), (1, vec![1, 2, 0]));
    assert_eq!(storage.status().lookups_pinned, 1);
    for _ in 0..2 {
        block_on(storage.unpin("t31"));
        assert_eq!(pinned(storage), (0, vec![0, 0, 0]));
        assert_eq!(storage.status().lookups_pinned, 0);
    }
    let unpins = |name: &str| -> Vec<String> {
        log.heard(name).into_iter().filter(|line| line.starts_with("unpin")).collect()
    };
    assert_eq!(unpins("t31_a"), [format!("unpin {}", keys[1])]);
    assert_eq!(unpins("t31_b"), [format!("unpin {} {}", keys[2], keys[3])]);
    assert_eq!(unpins("t31_c"), [""; 0]);
}

#[test]
fn t32_a_pinned_chunk_survives_pressure_and_can_be_evicted_after_unpin() {
    let engine = engine(Config { pool_size_bytes: 4 * 4096, ..config(vec![]) });
    let storage = engine.storage();
    put(storage, &keys(4), &Tiers::All);
    block_on(storage.contains_pinned(&[key(0)], &Tiers::All, "t32"));
    let others = |start: u64| -> Vec<_> { (start..start + 3).map(key).collect() };
    for start in [10, 20] {
        put(storage, &others(start), &Tiers::All);
        assert_eq!(in_tier(storage, &[key(0)], "cpu"), 1);
    }
    block_on(storage.unpin("t32"));
    put(storage, &others(30), &Tiers::All);
    put(storage, &others(40), &Tiers::All);
    assert_eq!(in_tier(storage, &[key(0)], "cpu"), 0);
}

#[test]
fn t32_a_pin_protects_from_a_backends_own_eviction_as_well() {
    let engine = engine(config(vec![two_chunks("t32_lru")]));
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "t32_lru");
    let lookup = block_on(storage.contains_pinned(&keys, &Tiers::All, "t32"));
    assert_eq!(runs(&lookup), [(1, 2)]);
    put_in(storage, &[key(10)], "t32_lru");
    assert_eq!(in_tier(storage, &keys, "t32_lru"), 2);
    assert_eq!(counts_at(storage, 1).n_errors(Operation::Put, "no_space"), 1);
    block_on(storage.unpin("t32"));
    put_in(storage, &[key(10), key(11)], "t32_lru");
    assert_eq!(in_tier(storage, &[key(10), key(11)], "t32_lru"), 2);
    assert_eq!(in_tier(storage, &keys, "t32_lru"), 0);
}

#[test]
fn t33_two_lookups_with_one_id_are_released_by_one_unpin() {
    let engine = engine(memories(&["t33"]));
    let (storage, keys) = (engine.storage(), keys(3));
    put(storage, &keys[..2], &Tiers::only(["cpu"]));
    put_in(storage, &keys[2..], "t33");
    block_on(storage.contains_pinned(&keys[..2], &Tiers::All, "t33"));
    block_on(storage.contains_pinned(&keys, &Tiers::All, "t33"));
    assert_eq!(storage.cpu().n_pins(keys[0]), Some(2));
    assert_eq!(pinned(storage), (2, vec![1]));
    block_on(storage.unpin("t33"));
    assert_eq!(pinned(storage), (0, vec![0]));
    assert_eq!(storage.status().lookups_pinned, 0);
}

#[test]
fn t34_a_removal_takes_pinned_chunks_and_their_memory_is_freed_when_the_last_reader_is_gone() {
    let engine = engine(memories(&["t34"]));
    let (storage, keys) = (engine.storage(), keys(2));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    block_on(storage.contains_pinned(&keys, &Tiers::only(["cpu"]), "t34"));
    block_on(storage.contains_pinned(&keys, &Tiers::only(["t34"]), "t34"));
    assert_eq!(pinned(storage), (2, vec![2]));
    let reader = get(storage, &keys);
    assert_eq!(block_on(storage.remove(&keys, &Tiers::All)), Ok(4));
    assert_eq!(pinned(storage), (0, vec![0]));
    assert_eq!(chunks_in_memory(storage), 2);
    for (chunk, key) in reader.chunks.iter().zip(&keys) {
        kvtier_cli::content::verify(*key, chunk).unwrap();
    }
    drop(reader);
    assert_eq!(chunks_in_memory(storage), 0);
    block_on(storage.unpin("t34"));
    assert_eq!(pinned(storage), (0, vec![0]));
}

#[test]
fn t34_a_lookup_whose_chunks_were_removed_releases_no_pin_of_a_later_lookup() {
    let engine = engine(memories(&["t34_later"]));
    let (storage, keys) = (engine.storage(), keys(2));
    let store = || {
        put(storage, &keys, &Tiers::All);
        block_on(storage.flush()).unwrap();
    };
    let look_up = |id: &str| {
        block_on(storage.contains_pinned(&keys, &Tiers::only(["cpu"]), id));
        block_on(storage.contains_pinned(&keys, &Tiers::only(["t34_later"]), id));
    };
    store();
    look_up("before");
    // One chunk is gone for good, the other is stored again.
    block_on(storage.remove(&keys, &Tiers::All)).unwrap();
    store();
    look_up("after");
    block_on(storage.unpin("before"));
    assert_eq!(pinned(storage), (2, vec![2]));
    block_on(storage.unpin("after"));
    assert_eq!(pinned(storage), (0, vec![0]));
}

#[test]
fn pins_of_a_recreated_backend_are_gone_and_release_no_later_ones() {
    let engine = engine(memories(&["recreated"]));
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "recreated");
    block_on(storage.contains_pinned(&keys, &Tiers::All, "before"));
    block_on(storage.recreate("recreated")).unwrap();
    assert_eq!(pinned(storage), (0, vec![0]));
    put_in(storage, &keys, "recreated");
    block_on(storage.contains_pinned(&keys, &Tiers::All, "after"));
    block_on(storage.unpin("before"));
    assert_eq!(pinned(storage), (0, vec![2]));
}

/// Builds an engine whose pins expire after 300 s on a clock that the test moves.
fn on_clock(config: Config, tiers: &[(&str, &Arc<Scripted>)]) -> (Engine, Clock) {
    let clock = Clock::manual();
    let mut builder = EngineBuilder::new(config, metadata()).clock(clock.clone());
    for (name, tier) in tiers {
        builder = builder.tier(*name, Arc::clone(*tier) as Arc<dyn Tier>);
    }
    (builder.build_blocking().unwrap(), clock)
}

#[test]
fn t37_pins_expire_after_300_s_per_lookup_id_and_a_second_pin_extends_them() {
    let tier = Scripted::new();
    let (engine, clock) = on_clock(config(vec![]), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(3));
    let seconds = |n| clock.advance(Duration::from_secs(n));
    let pins = || keys.iter().map(|key| storage.cpu().n_pins(*key)).collect::<Vec<_>>();
    put(storage, &keys[..2], &Tiers::only(["cpu"]));
    put_in(storage, &keys[2..], "a");
    block_on(storage.contains_pinned(&keys[..1], &Tiers::All, "expires"));
    block_on(storage.contains_pinned(&keys[1..], &Tiers::All, "extended"));
    assert_eq!((pins(), pinned(storage)), (vec![Some(1), Some(1), None], (2, vec![1])));

    seconds(299);
    block_on(storage.contains_pinned(&keys[1..2], &Tiers::All, "extended"));
    block_on(storage.expire_pins());
    assert_eq!(pins(), [Some(1), Some(2), None], "nothing has expired");

    seconds(2);
    block_on(storage.expire_pins());
    assert_eq!((pins(), pinned(storage)), (vec![Some(0), Some(2), None], (1, vec![1])));
    assert_eq!((counts_at(storage, 0).pins_expired, storage.status().lookups_pinned), (1, 1));
    block_on(storage.expire_pins());
    block_on(storage.unpin("expires"));
    assert_eq!((pins(), counts_at(storage, 0).pins_expired), (vec![Some(0), Some(2), None], 1), "once");

    tier.heard();
    seconds(299);
    block_on(storage.expire_pins());
    assert_eq!((pins(), pinned(storage).0), (vec![Some(0), Some(0), None], 0));
    // In the background, whatever operation found the pins expired.
    let mut heard = Vec::new();
    eventually("unpin", || {
        heard.extend(tier.heard());
        heard == [Heard::Unpin(keys[2..].to_vec())]
    });
    assert_eq!(pinned(storage), (0, vec![0]));
    assert_eq!((counts_at(storage, 0).pins_expired, storage.status().lookups_pinned), (2, 0));
    assert!(engine.storage().metrics().lines().any(|line| line == "kvtier_pins_expired_total 2"));
}

#[test]
fn t37_pins_are_released_as_soon_as_they_have_expired_though_nobody_asks() {
    let tier = Scripted::new();
    let (engine, clock) = on_clock(config(vec![]), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(4));
    put(storage, &keys[1..], &Tiers::only(["cpu"]));
    put_in(storage, &keys[..1], "a");
    for (second, key) in keys.iter().enumerate() {
        block_on(storage.contains_pinned(&[*key], &Tiers::All, &format!("{second}")));
        clock.advance(Duration::from_secs(1));
    }
    // They expire one after the other. A check every half minute would be late for the last of them.
    clock.advance(Duration::from_secs(297));
    let mut left = 4;
    eventually("all are released, each when it has expired and not before", || {
        let n_held = storage.status().lookups_pinned;
        assert!(n_held == left || n_held == left - 1, "{n_held} of {left}");
        if n_held < left {
            left = n_held;
            clock.advance(Duration::from_secs(1));
        }
        left == 0
    });
    eventually("unpin", || pinned(storage) == (0, vec![0]));
    assert_eq!(counts_at(storage, 0).pins_expired, 4);
}

#[test]
fn an_allocation_that_finds_no_room_expires_pins_first() {
    let (engine, clock) = on_clock(Config { pool_size_bytes: 4 * 4096, ..config(vec![]) }, &[]);
    let (storage, keys) = (engine.storage(), keys(4));
    put(storage, &keys, &Tiers::All);
    assert_eq!(block_on(storage.contains_pinned(&keys, &Tiers::All, "forgotten")).n_chunks, 4);
    let room = || block_on(storage.allocate(&specs(&[key(10)]))).unwrap().n_missing();
    assert_eq!(room(), 0, "all is pinned");
    clock.advance(Duration::from_secs(301));
    assert_eq!(room(), 1);
}

#[test]
fn t37_the_next_pinned_lookup_releases_what_has_expired() {
    let (engine, clock) = on_clock(config(vec![]), &[]);
    let tokens: Vec<u32> = (0..2 * CHUNK_SIZE as u32).collect();
    let prompt = engine.prompt(&tokens, &Salt::none());
    let allocation = engine.blocking().allocate(&prompt).unwrap();
    engine.blocking().store(allocation, &Tiers::All);
    assert_eq!(engine.blocking().lookup_pinned(&prompt, "forgotten").unwrap().n_tokens, tokens.len());
    assert_eq!(engine.storage().status().cpu.pinned_entries, 2);
    clock.advance(Duration::from_secs(301));
    engine.blocking().lookup_pinned(&engine.prompt(&tokens[..CHUNK_SIZE], &Salt::none()), "next").unwrap();
    assert_eq!(
        (engine.storage().status().cpu.pinned_entries, engine.storage().status().lookups_pinned),
        (1, 1)
    );
    engine.blocking().unpin("next");
    assert_eq!(engine.storage().status().cpu.pinned_entries, 0);
}

#[test]
fn a_backend_that_cannot_pin_is_asked_to_once_and_serves_lookups_all_the_same() {
    let tier = Scripted::new();
    tier.do_not_pin();
    let engine = engine_over(config(vec![]), metadata(), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "a");
    tier.heard();
    let pin = |keys: &[kvtier::ChunkKey], id: &str| {
        block_on(storage.contains_pinned(keys, &Tiers::All, id)).n_chunks
    };
    assert_eq!(pin(&keys, "one"), 2);
    let asked = |pinning| Heard::Contains(keys.clone(), pinning);
    assert_eq!(tier.heard(), [asked(Pinning::Pin), asked(Pinning::None)]);
    block_on(storage.unpin("one"));
    tier.heard();
    assert_eq!(pin(&keys, "two"), 2);
    assert_eq!(tier.heard(), [asked(Pinning::None)]);
    assert_eq!(crate::support::counted(storage, "a").errors.len(), 0);
}

#[test]
fn a_backend_hears_only_the_first_pin_and_the_last_unpin_of_a_key() {
    let tier = Scripted::new();
    let engine = engine_over(config(vec![]), metadata(), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys, "a");
    tier.heard();
    let pin = |n: usize, id: &str| block_on(storage.contains_pinned(&keys[..n], &Tiers::All, id)).n_chunks;
    assert_eq!(pin(2, "one"), 2);
    assert_eq!(tier.heard(), [Heard::Contains(keys[..2].to_vec(), Pinning::Pin)]);
    assert_eq!(pin(2, "two"), 2);
    assert_eq!(tier.heard(), [Heard::Contains(keys[..2].to_vec(), Pinning::None)]);
    assert_eq!(pin(3, "three"), 3);
    let fresh = keys[2..].to_vec();
    assert_eq!(tier.heard(), [Heard::Contains(keys.clone(), Pinning::None), Heard::Pin(fresh.clone())]);

    block_on(storage.unpin("one"));
    assert_eq!(tier.heard(), []);
    block_on(storage.unpin("three"));
    assert_eq!(tier.heard(), [Heard::Unpin(fresh)]);
    block_on(storage.unpin("two"));
    assert_eq!(tier.heard(), [Heard::Unpin(keys[..2].to_vec())]);
    // A lookup without a pin pins nothing.
    block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(tier.heard(), [Heard::Contains(keys, Pinning::None)]);
}

#[test]
fn a_backend_that_fails_while_it_pins_is_passed_over_and_told_to_unpin() {
    let (bad, good) = (Scripted::new(), Scripted::new());
    let engine = engine_over(config(vec![]), metadata(), &[("bad", &bad), ("good", &good)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "bad");
    put_in(storage, &keys, "good");
    bad.fail_lookups();
    let lookup = block_on(storage.contains_pinned(&keys, &Tiers::All, "id"));
    assert_eq!(runs(&lookup), [(2, 2)]);
    assert_eq!(pinned(storage), (0, vec![0, 2]));
    // It may have pinned before it failed.
    let mut heard = Vec::new();
    eventually("unpin", || {
        heard.extend(bad.heard());
        heard.last() == Some(&Heard::Unpin(keys.clone()))
    });
    block_on(storage.unpin("id"));
    assert_eq!(bad.heard(), [], "it holds no pin to release");
    assert_eq!(good.heard().last(), Some(&Heard::Unpin(keys)));
}

#[test]
fn a_lookup_does_not_wait_for_the_release_of_other_lookups_pins() {
    let mut hangs = misbehaving("unpin_hangs", "HangBackend", &[("in", "unpin")]);
    hangs.limits.call_timeout = Duration::from_hours(1);
    let (engine, clock) = on_clock(config(vec![hangs]), &[]);
    let (storage, keys) = (engine.storage(), keys(3));
    let only = Tiers::only(["unpin_hangs"]);
    put_in(storage, &keys, "unpin_hangs");
    assert_eq!(block_on(storage.contains_pinned(&keys[..2], &only, "expires")).n_chunks, 2);
    clock.advance(Duration::from_secs(301));
    assert_eq!(block_on(storage.contains_pinned(&keys[2..], &only, "second")).n_chunks, 1);
    // The guest is still inside `unpin`; a caller that waited would have let the call expire.
    assert_eq!(engine.storage().status().backends[0].health.abandoned_calls, 0);
    assert_eq!(engine.storage().status().lookups_pinned, 1);
}
