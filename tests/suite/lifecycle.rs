//! Backends that do not start, die, hang, are bypassed, recreated and closed.

use std::sync::Arc;
use std::time::Duration;

use insta::assert_snapshot;
use kvtier::tier::{Tier, TierError};
use kvtier::{
    BackendConfig, BuildError, Config, Engine, EngineBuilder, Miss, OnLoadError, Operation, RecreateError,
    StorageManager, Tiers, UnknownBackend, block_on,
};

use crate::scripted::{Heard, Scripted, engine_over};
use crate::support::{
    EXPIRES, backend, chunks_in_memory, component, config, counts_at, engine, eventually, get, in_tier, key,
    keys, log, memories, metadata, misbehaving, misses, patient, put, put_in, served,
};

fn with_second(second: BackendConfig, on_load_error: OnLoadError) -> Config {
    let mut config = memories(&["t05_a", "t05_c"]);
    config.backends.insert(1, second);
    Config { on_load_error, ..config }
}

/// Backends that cannot start, with the reported cause of each.
fn that_do_not_start(name: &str) -> Vec<(BackendConfig, &'static str)> {
    let misbehaving = |class: &str, method| misbehaving(name, class, &[("in", method)]);
    let missing = BackendConfig::new(name, "no/such/file.wasm", "MemoryBackend");
    vec![
        (misbehaving("FailBackend", "constructor"), "failed on purpose in constructor"),
        (misbehaving("FailBackend", "open"), "failed on purpose in open"),
        (misbehaving("TrapBackend", "constructor"), "trapped"),
        (missing, "no/such/file.wasm"),
        (backend(name, "memory", "NoSuchBackend"), "NoSuchBackend"),
    ]
}

#[test]
fn t05_the_other_backends_run_and_the_status_names_the_cause_when_one_does_not_start() {
    for (second, cause) in that_do_not_start("t05_b") {
        let engine = engine(with_second(second, OnLoadError::Continue));
        let (storage, keys) = (engine.storage(), keys(2));
        assert_eq!(storage.tier_names(), ["cpu", "t05_a", "t05_b", "t05_c"]);
        let status = engine.storage().status();
        let down = status.backends[1].health.down.as_deref().unwrap_or("up");
        assert!(down.contains(cause), "{cause}: {down}");
        assert_eq!((&status.backends[0].health.down, &status.backends[2].health.down), (&None, &None));
        let metrics = engine.storage().metrics();
        for line in [r#"kvtier_up{tier="t05_b"} 0"#, r#"kvtier_up{tier="t05_c"} 1"#] {
            assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
        }

        put(storage, &keys, &Tiers::All);
        block_on(storage.flush()).unwrap();
        assert_eq!(counts_at(storage, 2).drops["breaker_open"], 2);
        for name in ["t05_a", "t05_c"] {
            assert_eq!(in_tier(storage, &keys, name), 2, "{cause}");
        }
        block_on(storage.remove(&keys, &Tiers::only(["cpu", "t05_a"]))).unwrap();
        assert_eq!(served(&get(storage, &keys)), [3, 3], "{cause}");
        engine.blocking().close().unwrap();
    }
}

#[test]
fn t05_start_fails_and_names_backend_and_cause_when_it_is_told_to() {
    for (second, cause) in that_do_not_start("t05_b") {
        let config = with_second(second, OnLoadError::Fail);
        let error = EngineBuilder::new(config, metadata()).build_blocking().unwrap_err();
        assert!(matches!(&error, BuildError::Load { backend, .. } if backend == "t05_b"), "{error}");
        let message = error.to_string();
        assert!(message.contains("t05_b") && message.contains(cause), "{message}");
    }
}

#[test]
fn t05_a_backend_whose_component_appears_later_is_loaded_in_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.wasm");
    let second = patient(BackendConfig::new("t05_late", &path, "MemoryBackend"));
    let engine = engine(with_second(second, OnLoadError::Continue));
    let (storage, keys) = (engine.storage(), keys(1));
    assert!(engine.storage().status().backends[1].health.down.is_some());
    std::fs::copy(component("memory"), folder.path().join("copy")).unwrap();
    std::fs::rename(folder.path().join("copy"), &path).unwrap();
    eventually("loading", || engine.storage().status().backends[1].health.down.is_none());
    put_in(storage, &keys, "t05_late");
    assert_eq!(served(&get(storage, &keys)), [2]);
}

#[test]
fn t65_a_class_in_blocking_style_is_served_like_any_other() {
    let mut config = memories(&["t65_async"]);
    config.backends.insert(0, backend("t65_blocking", "blocking", "BlockingMemoryBackend"));
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(5));
    let style = |place: usize| {
        engine.storage().status().backends[place]
            .health
            .notes
            .iter()
            .any(|note| note.name == "style" && note.value == "blocking")
    };
    assert!(style(0) && !style(1));
    put_in(storage, &keys[..3], "t65_blocking");
    put_in(storage, &keys[3..], "t65_async");
    assert_eq!(served(&get(storage, &keys)), [1, 1, 1, 2, 2]);
    block_on(storage.contains_pinned(&keys[..2], &Tiers::only(["t65_blocking"]), "t65"));
    assert_eq!(engine.storage().status().backends[0].pinned_keys, 2);
    block_on(storage.unpin("t65"));
    assert_eq!(block_on(storage.remove(&keys, &Tiers::only(["t65_blocking"]))), Ok(3));
    assert_eq!(in_tier(storage, &keys, "t65_blocking"), 0);
    assert!(counts_at(storage, 1).errors.is_empty());
    engine.blocking().close().unwrap();
}

#[test]
fn t67_nothing_reaches_a_bypassed_backend_until_it_is_put_back() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let engine = engine_over(config(vec![]), metadata(), &[("a", &a), ("b", &b)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "a");
    a.heard();
    storage.bypass("a").unwrap();
    assert!(storage.status().backends[0].bypassed);
    assert_eq!(block_on(storage.contains(&keys, &Tiers::All)).n_chunks, 0);
    assert!(get(storage, &keys).chunks.is_empty());
    put(storage, &[key(5)], &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(a.heard(), []);
    assert!(b.has(key(5)), "the others continue");

    storage.restore("a").unwrap();
    assert_eq!(served(&get(storage, &keys)), [1, 1]);
    put(storage, &[key(6)], &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert!(a.has(key(6)) && !a.has(key(5)));
    assert_eq!(storage.bypass("none"), Err(UnknownBackend("none".into())));
}

#[test]
fn t67_a_removal_reaches_a_bypassed_backend() {
    let engine = engine(memories(&["t67"]));
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "t67");
    storage.bypass("t67").unwrap();
    assert_eq!(block_on(storage.remove(&keys, &Tiers::All)), Ok(1));
    storage.restore("t67").unwrap();
    assert!(get(storage, &keys).chunks.is_empty(), "removed chunks do not come back");
}

#[test]
fn t68_close_drains_and_closes_the_last_first_and_none_keeps_another_from_closing() {
    let log = log();
    let good = |name| misbehaving(name, "GoodBackend", &[]);
    let mut hangs = misbehaving("t68_hangs", "HangBackend", &[("in", "close")]);
    hangs.limits.close_timeout = EXPIRES;
    let fails = misbehaving("t68_fails", "FailBackend", &[("in", "close")]);
    let traps = misbehaving("t68_traps", "TrapBackend", &[("in", "close")]);
    let engine = engine(config(vec![good("t68_1"), hangs, good("t68_2"), fails, traps, good("t68_3")]));
    let (storage, keys) = (engine.storage(), keys(4));
    put(storage, &keys, &Tiers::All);
    let error = engine.blocking().close().unwrap_err();
    let failed: Vec<_> =
        error.failed.iter().map(|failed| (failed.backend.as_str(), failed.error.kind())).collect();
    assert_eq!(failed, [("t68_traps", "trap"), ("t68_fails", "other"), ("t68_hangs", "timeout")]);

    let lines = log.lines_with(" close backend=t68_");
    let order: Vec<_> = lines.iter().filter_map(|line| line.split("backend=").nth(1)).collect();
    assert_eq!(order, ["t68_3", "t68_2", "t68_1"]);
    for name in ["t68_1", "t68_2", "t68_3"] {
        let puts = log.heard(name);
        let n_put: usize =
            puts.iter().filter(|line| line.starts_with("put")).map(|line| line.split(' ').count() - 1).sum();
        assert_eq!(n_put, 4, "{name} has stored what was queued");
        assert_eq!(puts.last().map(String::as_str), Some("close"), "{name}");
    }
    assert_eq!(chunks_in_memory(storage), 0);

    // After closing nothing fails, nothing is found, and closing again only returns the outcome again.
    assert!(get(storage, &keys).chunks.is_empty());
    assert!(block_on(storage.allocate(&crate::support::specs(&keys))).is_err());
    assert_eq!(engine.blocking().close(), Err(error));
    assert_eq!(log.lines_with(" close backend=t68_").len(), 3);
}

#[test]
fn t68_a_backend_that_never_finishes_its_puts_is_closed_all_the_same() {
    let mut hangs = misbehaving("t68_busy", "HangBackend", &[("in", "put")]);
    hangs.limits.call_timeout = Duration::from_hours(1);
    let tier = Scripted::new();
    let config = Config { close_timeout: EXPIRES, ..config(vec![hangs]) };
    let engine = engine_over(config, metadata(), &[("last", &tier)]);
    let storage = engine.storage();
    put(storage, &keys(3), &Tiers::All);
    // The backend decides whether it reports that it closed, but not whether it is closed.
    let _answer = engine.blocking().close();
    assert_eq!(tier.heard().last(), Some(&Heard::Close));
    assert!(engine.storage().status().backends[0].health.down.is_some());
    eventually("freeing the memory lent to the hung put", || chunks_in_memory(storage) == 0);
}

#[test]
fn t69_recreate_closes_exactly_that_instance_and_keeps_its_place() {
    let log = log();
    let good = |name| misbehaving(name, "GoodBackend", &[]);
    let engine = engine(config(vec![good("t69_a"), good("t69_b"), good("t69_c")]));
    let (storage, keys) = (engine.storage(), keys(1));
    for name in ["t69_a", "t69_b", "t69_c"] {
        put_in(storage, &keys, name);
    }
    let names = storage.tier_names().join(" ");
    block_on(engine.storage().recreate("t69_b")).unwrap();
    assert_eq!(storage.tier_names().join(" "), names);
    assert_eq!(log.operations("t69_a"), ["open", "put"]);
    assert_eq!(log.operations("t69_c"), ["open", "put"]);
    let heard = log.operations("t69_b");
    assert_eq!(heard, ["open", "put", "close", "open"]);
    // A new instance, which has no chunks, in the old place.
    let held = ["t69_a", "t69_b", "t69_c"].map(|name| in_tier(storage, &keys, name));
    assert_eq!(held, [1, 0, 1]);
    put_in(storage, &keys, "t69_b");
    block_on(storage.remove(&keys, &Tiers::only(["t69_a"]))).unwrap();
    assert_eq!(served(&get(storage, &keys)), [2]);
    assert_eq!(block_on(engine.storage().recreate("none")), Err(UnknownBackend("none".into()).into()));
    engine.blocking().close().unwrap();
}

#[test]
fn a_backend_of_a_closed_engine_is_not_made_anew() {
    let log = log();
    let engine = engine(config(vec![misbehaving("t69_closed", "GoodBackend", &[])]));
    engine.blocking().close().unwrap();
    assert_eq!(block_on(engine.storage().recreate("t69_closed")), Err(RecreateError::Closed));
    assert_eq!(log.operations("t69_closed"), ["open", "close"]);
    assert!(engine.storage().status().backends[0].health.down.is_some());
}

#[test]
fn every_instance_is_closed_when_the_engine_closes_while_one_is_made_anew() {
    let log = log();
    for _ in 0..5 {
        let engine = engine(config(vec![misbehaving("t69_closing", "GoodBackend", &[])]));
        let (recreated, closed) =
            block_on(async { futures::join!(engine.storage().recreate("t69_closing"), engine.close()) });
        assert!(matches!(recreated, Ok(()) | Err(RecreateError::Closed)), "{recreated:?}");
        assert_eq!(closed, Ok(()));
        let heard = log.operations("t69_closing");
        let count = |operation: &str| heard.iter().filter(|heard| *heard == operation).count();
        assert_eq!(count("open"), count("close"), "{heard:?}");
    }
}

#[test]
fn t69_what_cannot_be_made_anew_says_so_and_stays() {
    let tier = Scripted::new();
    let engine = engine_over(config(vec![]), metadata(), &[("native", &tier)]);
    assert_eq!(block_on(engine.storage().recreate("native")), Err(RecreateError::NotConfigured));
    put_in(engine.storage(), &keys(1), "native");
    assert_eq!(served(&get(engine.storage(), &keys(1))), [1]);
}

/// Returns backends that die or never return in `method`, with the possible kinds of error.
fn deadly(prefix: &str, method: &str) -> Vec<(BackendConfig, Vec<&'static str>)> {
    let kinds = [
        ("Trap", vec!["trap"]),
        ("Hang", vec!["timeout"]),
        ("Spin", vec!["timeout", "lost"]),
        ("Block", vec!["timeout", "lost"]),
        ("Greedy", vec!["no_space", "trap"]),
    ];
    let make = |(class, kinds): (&str, Vec<&'static str>)| {
        let name = format!("{prefix}_{}", class.to_lowercase());
        let mut config = misbehaving(&name, &format!("{class}Backend"), &[("in", method)]);
        config.limits.call_timeout = EXPIRES;
        // A stuck lane is replaced before the next call expires.
        config.limits.lane_stall = EXPIRES / 4;
        config.limits.memory_bytes = 8 << 20;
        (config, kinds)
    };
    kinds.into_iter().map(make).collect()
}

fn before_a_good_one(bad: BackendConfig) -> Engine {
    let mut config = memories(&["t71_good"]);
    config.backends.insert(0, bad);
    engine(config)
}

/// Returns the kinds of error that a tier has counted for an operation.
fn kinds(storage: &StorageManager, tier: usize, operation: &str) -> Vec<&'static str> {
    let errors = counts_at(storage, tier).errors;
    errors.iter().filter(|error| error.operation.name() == operation).map(|error| error.kind).collect()
}

#[test]
fn t71_a_backend_that_dies_in_get_is_a_miss_with_a_reason_and_the_next_tier_serves() {
    for (bad, expected) in deadly("t71_get", "get") {
        let name = bad.name.clone();
        let engine = before_a_good_one(bad);
        let (storage, keys) = (engine.storage(), keys(2));
        put_in(storage, &keys, &name);
        put_in(storage, &keys, "t71_good");
        let found = get(storage, &keys);
        assert_eq!(served(&found), [2, 2], "{name}");
        for index in 0..2 {
            let miss = found.misses.iter().find(|missed| missed.position == index && missed.tier.0 == 1);
            let reason = miss.map_or("none", |missed| missed.miss.reason());
            assert!(expected.contains(&reason), "{name}: {reason}");
            assert!(counts_at(storage, 1).misses.contains_key(reason), "{name}");
        }
        // It continues, with or without its chunks.
        put_in(storage, &[key(9)], &name);
        assert_eq!(in_tier(storage, &[key(9)], &name), 1, "{name}");
        drop(found);
        block_on(storage.clear(&Tiers::All));
        assert_eq!(chunks_in_memory(storage), 0, "{name}");
    }
}

#[test]
fn t71_a_backend_that_lets_one_call_expire_is_not_waited_for_again_in_the_same_request() {
    let mut hung = misbehaving("t71_batches", "HangBackend", &[]);
    hung.limits.call_timeout = EXPIRES;
    hung.limits.batch_chunks_max = 1;
    let engine = before_a_good_one(hung);
    let (storage, keys) = (engine.storage(), keys(5));
    put_in(storage, &keys, "t71_batches");
    put_in(storage, &keys, "t71_good");
    let found = get(storage, &keys);
    assert_eq!(served(&found), [2; 5]);
    let missed: Vec<_> =
        found.misses.iter().map(|missed| (missed.position, missed.tier.0, missed.miss.reason())).collect();
    assert_eq!(missed, [0, 1, 2, 3, 4].map(|index| (index, 1, "timeout")));
    assert_eq!(counts_at(storage, 1).n_errors(Operation::Get, "timeout"), 1);
    assert_eq!(counts_at(storage, 1).misses["timeout"], 5);
}

#[test]
fn t71_a_backend_that_dies_in_put_loses_what_it_was_given_and_that_is_counted() {
    for (bad, expected) in deadly("t71_put", "put") {
        let name = bad.name.clone();
        let engine = before_a_good_one(bad);
        let (storage, keys) = (engine.storage(), keys(2));
        assert_eq!(put(storage, &keys, &Tiers::All).n_new, 2);
        block_on(storage.flush()).unwrap();
        let found = kinds(storage, 1, "put");
        assert!(!found.is_empty() && found.iter().all(|kind| expected.contains(kind)), "{name}: {found:?}");
        let bad = counts_at(storage, 1);
        assert_eq!(bad.puts, 0, "{name}");
        if !found.contains(&"no_space") {
            assert_eq!(bad.drops["lost"], 2, "{name}");
        }
        assert_eq!(in_tier(storage, &keys, &name), 0, "{name}");
        assert_eq!(in_tier(storage, &keys, "t71_good"), 2, "{name}");
        assert_eq!(served(&get(storage, &keys)), [0, 0], "{name}");
    }
}

#[test]
fn t71_a_dead_lane_is_replaced_and_the_status_says_why() {
    let engine = engine(config(vec![misbehaving("t71_anew", "TrapBackend", &[])]));
    let (storage, keys) = (engine.storage(), keys(1));
    for n_restarts in 1..=3 {
        put_in(storage, &keys, "t71_anew");
        assert_eq!(in_tier(storage, &keys, "t71_anew"), 1);
        let found = get(storage, &keys);
        assert!(found.chunks.is_empty());
        assert!(matches!(&misses(&found)[..], [(0, _, Miss::Error(TierError::Trap(_)))]), "{found:?}");
        // The instance is new: the chunk went with the old one.
        assert_eq!(in_tier(storage, &keys, "t71_anew"), 0);
        let health = engine.storage().status().backends.swap_remove(0).health;
        assert_eq!((health.lane_restarts, &health.down), (n_restarts, &None));
        assert!(health.last_restart.unwrap().starts_with("trapped: "));
    }
    assert!(chunks_in_memory(storage) == 0);
}

#[test]
fn t69_two_who_recreate_one_backend_do_not_leave_it_out_of_the_chain() {
    // The second call comes while the first is closing.
    let engine = engine(config(vec![slow_to_close("t69_slow")]));
    let storage = engine.storage();
    let (first, second) = block_on(async {
        let first = engine.storage().recreate("t69_slow");
        let second = engine.storage().recreate("t69_slow");
        futures::join!(first, second)
    });
    assert_eq!(first, Ok(()));
    assert_eq!(second, Err(RecreateError::Busy));
    put_in(storage, &keys(2), "t69_slow");
    assert_eq!(served(&get(storage, &keys(2))), [1, 1]);
}

/// Closes slowly, so that a caller can leave while it does.
fn slow_to_close(name: &str) -> BackendConfig {
    let mut slow = misbehaving(name, "HangBackend", &[("in", "close")]);
    slow.limits.close_timeout = EXPIRES;
    slow
}

#[test]
fn t69_a_backend_is_made_anew_also_when_its_caller_leaves() {
    let engine = engine(config(vec![slow_to_close("t69_left")]));
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "t69_left");
    leave(engine.storage().recreate("t69_left"));
    // Out of the chain or recreated: either way the old instance's chunk is gone.
    eventually("the old instance leaves its place", || in_tier(storage, &keys, "t69_left") == 0);
    eventually("a new instance, in its place", || {
        let status = engine.storage().status();
        let offered = put(storage, &keys, &Tiers::only(["t69_left"])).backends.len() == 1;
        status.backends[0].health.down.is_none() && offered
    });
    block_on(storage.flush()).unwrap();
    assert_eq!(in_tier(storage, &keys, "t69_left"), 1);
}

#[test]
fn t68_closing_goes_on_when_its_caller_leaves() {
    let log = log();
    let good = misbehaving("closing_left", "GoodBackend", &[]);
    let engine = engine(config(vec![good, slow_to_close("closing_slow")]));
    put(engine.storage(), &keys(1), &Tiers::All);
    leave(engine.close());
    let error = engine.blocking().close().unwrap_err();
    assert_eq!(error.failed.len(), 1, "only the slow one: {error}");
    assert_eq!(log.operations("closing_left"), ["open", "put", "close"]);
    assert_eq!(chunks_in_memory(engine.storage()), 0);
}

/// Starts a future and drops it at its first pause.
fn leave<T>(future: impl Future<Output = T>) {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending(), "done before its caller could leave");
}

#[test]
fn a_native_tier_has_a_name_that_a_backend_could_have() {
    let refusal = |names: &[&str]| {
        let builder = EngineBuilder::new(config(memories(&["memory"]).backends), metadata());
        let add = |builder: EngineBuilder, name: &&str| builder.tier(*name, Scripted::new() as Arc<dyn Tier>);
        let refused = names.iter().fold(builder, add).build_blocking().unwrap_err();
        assert!(matches!(refused, BuildError::TierName(_)), "{refused:?}");
        refused.to_string()
    };
    assert_snapshot!(refusal(&["cpu"]), @"configuration built in code: `EngineBuilder::tier`: the backend name `cpu` belongs to a built-in tier; choose another name");
    assert_snapshot!(refusal(&["native", "native"]), @"configuration built in code: `EngineBuilder::tier`: the backend `native` is listed twice; names must be unique");
    assert_snapshot!(refusal(&["memory"]), @"configuration built in code: `EngineBuilder::tier`: the backend `memory` is listed twice; names must be unique");
    assert_snapshot!(refusal(&["a/b"]), @r#"configuration built in code: `EngineBuilder::tier`: "a/b" cannot name a backend; use 1 to 64 letters, digits, `_` or `-`"#);
}
