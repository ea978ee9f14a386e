//! The effects of puts, gets and removals on the whole chain.

use kvtier::{Config, HotCache, Lookup, Miss, Operation, Salt, TierIndex, Tiers, block_on};

use crate::scripted::{Scripted, engine_over};
use crate::support::{
    CHUNK_BYTES, CHUNK_SIZE, chunks_in_memory, config, counts_at, engine, get, in_tier, key, keys, log,
    memories, metadata, misbehaving, misses, put, put_in, runs, served, specs,
};

#[test]
fn t14_a_put_reaches_every_tier_exactly_once_and_leaves_no_reference_behind() {
    let log = log();
    let backends = ["t14_a", "t14_b"].map(|name| misbehaving(name, "GoodBackend", &[]));
    let engine = engine(config(backends.into()));
    let (storage, keys) = (engine.storage(), keys(5));
    let stored = put(storage, &keys, &Tiers::All);
    assert_eq!(stored.n_new, 5);
    let offered: Vec<_> =
        stored.backends.iter().map(|offer| (offer.backend.as_str(), offer.n_queued)).collect();
    assert_eq!(offered, [("t14_a", 5), ("t14_b", 5)]);
    block_on(storage.flush()).unwrap();
    for name in ["t14_a", "t14_b"] {
        let puts = log.heard(name);
        let puts = puts.iter().filter_map(|line| line.strip_prefix("put "));
        let mut heard: Vec<&str> = puts.flat_map(|keys| keys.split(' ')).collect();
        heard.sort_unstable();
        assert_eq!(heard, keys.iter().map(ToString::to_string).collect::<Vec<_>>(), "{name}");
        assert_eq!(in_tier(storage, &keys, name), 5);
    }
    assert_eq!(in_tier(storage, &keys, "cpu"), 5);
    assert_eq!(chunks_in_memory(storage), 5);
    assert_eq!(block_on(storage.clear(&Tiers::All)).cpu.chunks, 5);
    assert_eq!(chunks_in_memory(storage), 0);
}

#[test]
fn t15_a_put_for_one_tier_reaches_only_that_tier() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let engine = engine_over(config(vec![]), metadata(), &[("a", &a), ("b", &b)]);
    let (storage, keys) = (engine.storage(), keys(2));
    let stored = put(storage, &keys, &Tiers::only(["b"]));
    block_on(storage.flush()).unwrap();
    assert_eq!((stored.n_new, stored.backends.len()), (0, 1));
    assert_eq!((a.put_keys(), b.put_keys()), (vec![], keys.clone()));
    assert_eq!(in_tier(storage, &keys, "cpu"), 0);
    put(storage, &keys, &Tiers::only(["cpu"]));
    block_on(storage.flush()).unwrap();
    assert_eq!((a.put_keys(), b.put_keys()), (vec![], vec![]));
    assert_eq!(in_tier(storage, &keys, "cpu"), 2);
}

#[test]
fn t16_a_backend_that_fails_in_put_keeps_nothing_from_the_next_one() {
    for (name, class, n_lost) in [("t16_fails", "FailBackend", 0), ("t16_traps", "TrapBackend", 3)] {
        let mut config = memories(&["t16_good"]);
        config.backends.insert(0, misbehaving(name, class, &[("in", "put")]));
        let engine = engine(config);
        let (storage, keys) = (engine.storage(), keys(3));
        put(storage, &keys, &Tiers::All);
        block_on(storage.flush()).unwrap();
        assert_eq!(in_tier(storage, &keys, "t16_good"), 3);
        assert_eq!(in_tier(storage, &keys, name), 0);
        let bad = counts_at(storage, 1);
        assert_eq!((bad.puts, bad.drops.get("lost").copied().unwrap_or(0)), (0, n_lost), "{name}");
        let has_failed = bad.errors.iter().any(|error| error.operation == Operation::Put);
        assert!(has_failed, "{name}: {:?}", bad.errors);
        // The engine is as before, and nothing is held.
        assert_eq!(served(&get(storage, &keys)), [0, 0, 0]);
        block_on(storage.clear(&Tiers::All));
        assert_eq!(chunks_in_memory(storage), 0, "{name}");
        assert_eq!(served(&get(storage, &keys)), [2, 2, 2]);
    }
}

#[test]
fn t17_memory_of_a_chunk_that_a_backend_still_reads_is_not_freed() {
    let tier = Scripted::gated(64);
    let engine = engine_over(config(vec![]), metadata(), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(3));
    put(storage, &keys, &Tiers::All);
    tier.wait_for_puts(1);
    assert_eq!(block_on(storage.remove(&keys, &Tiers::only(["cpu"]))), Ok(3));
    assert_eq!(chunks_in_memory(storage), 3);
    tier.open_gate();
    block_on(storage.flush()).unwrap();
    assert_eq!(chunks_in_memory(storage), 0);
    assert_eq!(served(&get(storage, &keys)), [1, 1, 1], "with the same bytes");
}

#[test]
fn t23_chunks_from_a_backend_are_in_the_cpu_tier_the_next_time() {
    let engine = engine(memories(&["t23"]));
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys, "t23");
    let found = get(storage, &keys);
    assert_eq!(served(&found), [1, 1, 1]);
    assert_eq!(runs(&block_on(storage.contains(&keys, &Tiers::All))), [(0, 3)]);
    let again = get(storage, &keys);
    assert_eq!(served(&again), [0, 0, 0]);
    assert_eq!(chunks_in_memory(storage), 3, "shared, not copied");
    // They stay while in use; once released, they can be evicted.
    assert_eq!(block_on(storage.clear(&Tiers::All)).cpu.chunks, 0);
    drop((found, again));
    assert_eq!(block_on(storage.clear(&Tiers::All)).cpu.chunks, 3);
    assert_eq!(chunks_in_memory(storage), 0);
}

#[test]
fn t24_chunks_are_promoted_one_by_one() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let engine = engine_over(config(vec![]), metadata(), &[("a", &a), ("b", &b)]);
    let (storage, keys) = (engine.storage(), keys(4));
    put_in(storage, &keys, "a");
    put_in(storage, &keys[1..2], "b");
    // The first tier misses two of a batch, and the second tier can fill only one of the gaps.
    a.lose(keys[1]);
    a.lose(keys[3]);
    let found = get(storage, &keys);
    assert_eq!(served(&found), [1, 2, 1]);
    assert_eq!(in_tier(storage, &keys, "cpu"), 3);
    drop(found);
    assert_eq!(served(&get(storage, &keys[..3])), [0, 0, 0]);
}

#[test]
fn t25_without_the_hot_cache_nothing_is_promoted_and_the_pool_serves_as_before() {
    let config = Config { local_cpu: false, ..memories(&["t25"]) };
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(3));
    assert!(!storage.status().hot_cache);
    assert_eq!(put(storage, &keys, &Tiers::All).n_new, 0);
    block_on(storage.flush()).unwrap();
    assert_eq!(chunks_in_memory(storage), 0, "nothing is left");
    for keys in [&keys[..], &keys[..1]] {
        for _ in 0..2 {
            let found = get(storage, keys);
            assert_eq!(served(&found), vec![1; keys.len()]);
            assert_eq!(chunks_in_memory(storage), keys.len());
            assert_eq!(storage.status().cpu.entries, 0);
        }
        assert_eq!(chunks_in_memory(storage), 0);
    }
    // More than the pool holds goes through it.
    for n in 0..100 {
        put_in(storage, &[key(100 + n)], "t25");
    }
    assert_eq!(served(&get(storage, &[key(199)])), [1]);

    storage.set_hot_cache(HotCache::On);
    assert_eq!(served(&get(storage, &keys)), [1, 1, 1]);
    assert_eq!(served(&get(storage, &keys)), [0, 0, 0]);
}

#[test]
fn t26_an_answer_of_the_wrong_length_or_content_is_a_miss_and_never_stored_under_a_key() {
    let cases = [
        ("t26_few", "WrongCountBackend", vec![("results", "short")], "bad_answer"),
        ("t26_many", "WrongCountBackend", vec![("results", "long")], "bad_answer"),
        ("t26_short", "ShortBackend", vec![], "wrong_length"),
        ("t26_claims", "OverclaimBackend", vec![], "wrong_length"),
        ("t26_flips", "WrongBytesBackend", vec![], "check_failed"),
        ("t26_swaps", "SwappedBackend", vec![], "other_key"),
    ];
    for (name, class, settings, reason) in cases {
        let mut config = memories(&["t26_good"]);
        config.backends.insert(0, misbehaving(name, class, &settings));
        let engine = engine(config);
        let (storage, keys) = (engine.storage(), keys(3));
        put_in(storage, &keys, name);
        put_in(storage, &keys[..2], "t26_good");
        // The plan of a lookup that believed the bad tier.
        let plan: Lookup = block_on(storage.contains(&keys, &Tiers::All));
        let plan = if class == "OverclaimBackend" { None } else { Some(plan) };
        let found = block_on(storage.get(&specs(&keys), &Tiers::All, plan.as_ref()));
        for (chunk, key) in found.chunks.iter().zip(&keys) {
            kvtier_cli::content::verify(*key, chunk).unwrap();
        }
        assert_eq!(served(&found), [2, 2], "{name}");
        assert_eq!(in_tier(storage, &keys, "cpu"), 2, "{name}");
        assert_eq!(counts_at(storage, 1).hits, 0, "{name}");
        if let Some(plan) = plan {
            assert_eq!(runs(&plan), [(1, 3)], "{name}");
            let missed = found.misses.iter().filter(|missed| missed.tier == TierIndex(1));
            let reasons: Vec<_> = missed.map(|missed| (missed.position, missed.miss.reason())).collect();
            assert_eq!(reasons, [(0, reason), (1, reason), (2, reason)], "{name}");
            assert_eq!(counts_at(storage, 1).misses[reason], 3, "{name}");
        } else {
            // It claimed more keys than the call had, which is an error and not a hit.
            assert_eq!(counts_at(storage, 1).n_errors(Operation::Contains, "bad_answer"), 2);
        }
        drop(found);
        block_on(storage.clear(&Tiers::All));
        assert_eq!(chunks_in_memory(storage), 0, "{name}");
    }
}

#[test]
fn t26_bytes_that_were_claimed_and_not_written_are_a_miss() {
    let engine = engine(config(vec![misbehaving("t26_overclaims", "OverclaimBackend", &[])]));
    let (storage, keys) = (engine.storage(), keys(2));
    // Recycled memory: bytes that another chunk left there must not become this chunk.
    put(storage, &[key(50), key(51)], &Tiers::only(["cpu"]));
    block_on(storage.clear(&Tiers::All));
    let tier = Scripted::new();
    let promising = engine_over(config(vec![]), metadata(), &[("a", &tier)]);
    put_in(promising.storage(), &keys, "a");
    let plan = block_on(promising.storage().contains(&keys, &Tiers::All));
    assert_eq!(runs(&plan), [(1, 2)]);
    let found = block_on(storage.get(&specs(&keys), &Tiers::All, Some(&plan)));
    assert!(found.chunks.is_empty());
    let expected = CHUNK_BYTES as u64 + 64;
    let miss = Miss::WrongLength { claimed: expected, expected };
    assert_eq!(misses(&found), [(0, TierIndex(1), miss.clone()), (1, TierIndex(1), miss)]);
    assert_eq!(chunks_in_memory(storage), 0);
}

#[test]
fn t29_a_removal_counts_the_tiers_that_had_the_chunk() {
    let engine = engine(memories(&["t29"]));
    let (storage, keys) = (engine.storage(), keys(1));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(block_on(storage.remove(&keys, &Tiers::All)), Ok(2));
    assert_eq!(block_on(storage.remove(&keys, &Tiers::All)), Ok(0));
    assert!(get(storage, &keys).chunks.is_empty());
}

#[test]
fn t29_a_tier_that_cannot_remove_is_named_and_the_others_remove_all_the_same() {
    let mut config = memories(&["t29_good"]);
    config.backends.insert(0, misbehaving("t29_fails", "FailBackend", &[("in", "remove")]));
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(2));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    let error = block_on(storage.remove(&keys, &Tiers::All)).unwrap_err();
    assert_eq!((error.tier.as_str(), error.n_removed), ("t29_fails", 4));
    assert!(error.to_string().contains("failed on purpose in remove"), "{error}");
    assert_eq!(in_tier(storage, &keys, "t29_good"), 0);
}

#[test]
fn t30_clear_empties_the_cpu_tier_but_for_what_is_pinned_and_reports_the_tiers_it_cannot_clear() {
    let engine = engine(memories(&["t30"]));
    let (storage, keys) = (engine.storage(), keys(5));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    block_on(storage.contains_pinned(&keys[..2], &Tiers::All, "t30"));
    let report = block_on(storage.clear(&Tiers::All));
    assert_eq!((report.cpu.chunks, report.cpu.bytes), (3, 3 * CHUNK_BYTES as u64));
    assert_eq!((report.skipped, report.puts_cancelled), (vec!["t30".to_owned()], 0));
    assert_eq!((in_tier(storage, &keys, "cpu"), in_tier(storage, &keys, "t30")), (2, 5));
    block_on(storage.unpin("t30"));
    assert_eq!(block_on(storage.clear(&Tiers::only(["t30"]))).cpu.chunks, 0);
    assert_eq!(block_on(storage.clear(&Tiers::only(["cpu"]))).cpu.chunks, 2);
}

#[test]
fn metrics_name_every_counter_by_tier() {
    let bad = misbehaving("counted_bad", "TrapBackend", &[("in", "get")]);
    let mut config = memories(&["counted"]);
    config.backends.insert(0, bad);
    config.pool_size_bytes = 8 * 4096;
    let engine = engine(config);
    let storage = engine.storage();
    let tokens: Vec<u32> = (0..4 * CHUNK_SIZE as u32).collect();
    let prompt = engine.prompt(&tokens, &Salt::none());
    let allocation = engine.blocking().allocate(&prompt).unwrap();
    engine.blocking().store(allocation, &Tiers::All);
    block_on(engine.storage().flush()).unwrap();
    assert_eq!(engine.blocking().retrieve(&prompt, None).unwrap().n_tokens, tokens.len());
    // Evicts the four from the CPU tier. The first backend traps when they are requested again.
    put(storage, &keys(8), &Tiers::only(["cpu"]));
    let found = engine.blocking().retrieve(&prompt, None).unwrap();
    assert_eq!(served(&found.retrieved), [2; 4]);
    drop(found);
    engine.blocking().remove(&prompt).unwrap();

    let metrics = engine.storage().metrics();
    let bytes = 4 * CHUNK_BYTES;
    for line in [
        r#"kvtier_hits_total{tier="cpu"} 4"#,
        r#"kvtier_hits_total{tier="counted_bad"} 0"#,
        r#"kvtier_hits_total{tier="counted"} 4"#,
        &format!(r#"kvtier_read_bytes_total{{tier="counted"}} {bytes}"#),
        &format!(r#"kvtier_written_bytes_total{{tier="counted_bad"}} {bytes}"#),
        r#"kvtier_puts_total{tier="counted"} 4"#,
        r#"kvtier_misses_total{tier="counted_bad",reason="trap"} 4"#,
        r#"kvtier_errors_total{tier="counted_bad",operation="get",kind="trap"} 1"#,
        r#"kvtier_evictions_total{tier="cpu"} 8"#,
        r#"kvtier_lane_restarts_total{tier="counted_bad"} 1"#,
        r#"kvtier_lane_restarts_total{tier="counted"} 0"#,
        r#"kvtier_up{tier="counted"} 1"#,
        "kvtier_pins_expired_total 0",
        r#"kvtier_latency_seconds_count{tier="counted",operation="get"} 1"#,
        r#"kvtier_latency_seconds_count{tier="counted",operation="remove"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    for start in [
        r#"kvtier_latency_seconds_bucket{tier="counted",operation="put",le="1.073741824"} "#,
        r#"kvtier_latency_seconds_count{tier="cpu",operation="allocate"} "#,
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(start)), "{start} in\n{metrics}");
    }
    let families = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names: Vec<_> = families.map(|family| family.split(' ').next().unwrap()).collect();
    let n_families = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), n_families, "each family once");
}
