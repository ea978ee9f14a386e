//! The breakers in the chain: a backend that fails is skipped at no cost, the others continue, and it comes back
//! without help. The tests move the clock of the pauses; they use real components and scripted tiers.

use std::sync::Arc;
use std::time::Duration;

use kvtier::tier::{Tier, TierError};
use kvtier::{
    BackendConfig, BackendStatus, BreakerState, BreakerStatus, ChunkKey, Clock, Config, Engine,
    EngineBuilder, FsAccess, OnLoadError, Operation, StorageManager, Tiers, block_on,
};

use crate::scripted::{Heard, Scripted};
use crate::support::{self, eventually, get, in_tier, keys, put, put_in, served};

/// Failures that open a breaker, and the pause that follows, unless configured.
const FAILURES: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Builds an engine without a hot cache over backends and scripted tiers; returns it with the clock of its breakers.
fn engine(backends: Vec<BackendConfig>, tiers: &[(&str, &Arc<Scripted>)]) -> (Engine, Clock) {
    let clock = Clock::manual();
    let config = Config { local_cpu: false, ..support::config(backends) };
    let mut builder = EngineBuilder::new(config, support::metadata()).clock(clock.clone());
    for (name, tier) in tiers {
        builder = builder.tier(*name, Arc::clone(*tier) as Arc<dyn Tier>);
    }
    (builder.build_blocking().unwrap(), clock)
}

fn backend(storage: &StorageManager, name: &str) -> BackendStatus {
    storage.status().backends.into_iter().find(|backend| backend.name == name).unwrap()
}

/// Returns the status of the breaker of reading.
fn breaker(storage: &StorageManager, name: &str) -> BreakerStatus {
    backend(storage, name).reading
}

fn state(storage: &StorageManager, name: &str) -> BreakerState {
    breaker(storage, name).state
}

fn writing(storage: &StorageManager, name: &str) -> BreakerState {
    backend(storage, name).writing.state
}

/// Moves the clock past the pause of reading, and returns the length of the pause.
fn wait(storage: &StorageManager, name: &str, clock: &Clock) -> Duration {
    let pause = breaker(storage, name).retry_in.expect("a pause");
    clock.advance(pause + Duration::from_millis(1));
    pause
}

/// Moves the clock past the pause of writing.
fn wait_to_write(storage: &StorageManager, name: &str, clock: &Clock) {
    clock.advance(backend(storage, name).writing.retry_in.expect("a pause") + Duration::from_millis(1));
}

/// Puts chunks that no test looks up until the breaker of writing opens, and returns the number of puts.
fn open_writing(storage: &StorageManager, name: &str) -> usize {
    let puts = (1..=100).find(|&n| {
        put_in(storage, &[support::key(10_000 + n)], name);
        writing(storage, name) == BreakerState::Open
    });
    puts.expect("it opens") as usize
}

/// Looks up until the breaker of reading opens, and returns the number of lookups.
fn open(storage: &StorageManager, name: &str, keys: &[ChunkKey]) -> usize {
    let lookups = (1..=100).find(|_| {
        in_tier(storage, keys, name);
        state(storage, name) == BreakerState::Open
    });
    lookups.expect("it opens")
}

#[test]
fn a_dead_backend_hears_nothing_until_its_probe_and_the_next_tier_serves() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let (engine, clock) = engine(vec![], &[("a", &a), ("b", &b)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    a.set_dead(true);
    assert_eq!(open(storage, "a", &keys), FAILURES);
    let status = breaker(storage, "a");
    assert_eq!((status.opened, status.failures as usize), (1, FAILURES));
    assert_eq!(status.last_cause.as_deref(), Some("unavailable: dead"));
    assert!(status.retry_in.is_some_and(|pause| pause >= PAUSE / 2 && pause <= PAUSE), "{status:?}");
    assert_eq!(open_writing(storage, "a"), FAILURES);
    a.heard();

    // Whatever the operation.
    assert_eq!(block_on(storage.contains(&keys, &Tiers::All)).n_chunks, 2);
    assert_eq!(block_on(storage.contains_pinned(&keys, &Tiers::All, "id")).n_chunks, 2);
    block_on(storage.unpin("id"));
    let found = get(storage, &keys);
    assert_eq!((served(&found), found.misses.len()), (vec![2, 2], 0), "not expected from it");
    drop(found);
    let stored = put(storage, &[support::key(5)], &Tiers::All);
    assert_eq!((stored.backends[0].n_queued, stored.backends[0].n_dropped), (0, 1));
    block_on(storage.flush()).unwrap();
    assert!(b.has(support::key(5)));
    assert_eq!(a.heard(), []);
    let counts = support::counted(storage, "a");
    assert_eq!((counts.drops["breaker_open"], counts.writing.skipped), (1, 1));
    assert!(counts.reading.is_open && counts.writing.is_open);
    assert!(counts.reading.skipped >= 3, "{}", counts.reading.skipped);
    let metrics = storage.metrics();
    for line in [
        r#"breaker_open{tier="a",direction="reading"} 1"#,
        r#"breaker_open{tier="a",direction="writing"} 1"#,
        r#"breaker_open{tier="b",direction="reading"} 0"#,
        r#"breaker_opened_total{tier="a",direction="reading"} 1"#,
        r#"skipped_total{tier="a",direction="writing"} 1"#,
    ] {
        assert!(metrics.contains(&format!("kvtier_{line}\n")), "{line}");
    }

    wait(storage, "a", &clock);
    assert_eq!(state(storage, "a"), BreakerState::HalfOpen);
    for _ in 0..3 {
        in_tier(storage, &keys, "a");
    }
    assert_eq!(a.heard().len(), 1, "only the probe");
    let status = breaker(storage, "a");
    assert_eq!((status.state, status.opened), (BreakerState::Open, 2));
    assert!(wait(storage, "a", &clock) > PAUSE / 2);

    a.set_dead(false);
    assert_eq!(in_tier(storage, &keys, "a"), 2);
    assert_eq!(state(storage, "a"), BreakerState::Closed);
    assert_eq!(served(&get(storage, &keys)), [1, 1]);
    put_in(storage, &[support::key(6)], "a");
    assert!(a.has(support::key(6)));
    support::assert_nothing_leaks(storage);
}

#[test]
fn what_a_lookup_promised_is_a_miss_with_its_reason_and_comes_from_the_next_tier() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let (engine, _clock) = engine(vec![], &[("a", &a), ("b", &b)]);
    let (storage, keys) = (engine.storage(), keys(3));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    let plan = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(support::runs(&plan), [(1, 3)]);
    a.set_dead(true);
    open(storage, "a", &keys);
    a.heard();
    let found = block_on(storage.get(&support::specs(&keys), &Tiers::All, Some(&plan)));
    assert_eq!(served(&found), [2, 2, 2]);
    let misses: Vec<_> =
        found.misses.iter().map(|missed| (missed.position, missed.tier.0, missed.miss.reason())).collect();
    assert_eq!(misses, [0, 1, 2].map(|index| (index, 1, "breaker_open")));
    assert_eq!(support::counted(storage, "a").misses["breaker_open"], 3);
    assert_eq!(a.heard(), []);
    let alone = block_on(storage.get(&support::specs(&keys), &Tiers::only(["a"]), Some(&plan)));
    assert_eq!((alone.chunks.len(), alone.misses.len()), (0, 3));
}

#[test]
fn puts_that_wait_when_the_breaker_opens_are_dropped_and_free_their_memory() {
    let tier = Scripted::gated(1);
    let (engine, _clock) = engine(vec![], &[("tier", &tier)]);
    let (storage, keys) = (engine.storage(), keys(12));
    put(storage, &keys, &Tiers::All);
    tier.wait_for_puts(4);
    tier.set_dead(true);
    tier.open_gate();
    block_on(storage.flush()).unwrap();
    let drops = support::counted(storage, "tier").drops;
    let heard = tier.put_keys().len() as u64;
    assert_eq!(drops["lost"], heard, "{drops:?}");
    assert_eq!(drops["breaker_open"], 12 - heard, "{drops:?}");
    assert_eq!(
        (state(storage, "tier"), writing(storage, "tier")),
        (BreakerState::Closed, BreakerState::Open)
    );
    assert_eq!(storage.status().backends[0].puts_pending, 0);
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_removal_while_the_breaker_is_open_is_an_error_at_once_and_nothing_removed_comes_back() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let (engine, clock) = engine(vec![], &[("a", &a), ("b", &b)]);
    let (storage, keys) = (engine.storage(), keys(3));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    a.set_dead(true);
    open_writing(storage, "a");
    a.heard();
    let removed = block_on(storage.remove(&keys[..1], &Tiers::All)).unwrap_err();
    assert_eq!((removed.tier.as_str(), removed.n_removed), ("a", 1));
    assert_eq!(removed.error, TierError::BreakerOpen);
    assert!(!b.has(keys[0]));
    let tried = [Heard::Remove(vec![keys[0]])];
    eventually("it is tried anyway", || a.heard() == tried);
    assert_eq!(storage.status().backends[0].removals_owed, 1);
    eventually("the attempt has ended", || {
        support::counted(storage, "a").n_errors(Operation::Remove, "unavailable") > 0
    });

    a.set_dead(false);
    wait_to_write(storage, "a", &clock);
    assert!(a.has(keys[0]));
    assert_eq!(in_tier(storage, &keys, "a"), 0, "the removed chunk does not come back");
    eventually("the removal is delivered", || storage.status().backends[0].removals_owed == 0);
    assert!(!a.has(keys[0]));
    assert_eq!(in_tier(storage, &keys[..1], "a"), 0);
    assert_eq!(in_tier(storage, &keys[1..], "a"), 2);
    assert_eq!(writing(storage, "a"), BreakerState::Closed);
    assert_eq!(block_on(storage.remove(&keys, &Tiers::only(["a"]))), Ok(2));
}

#[test]
fn a_put_after_a_removal_that_is_owed_stays() {
    let tier = Scripted::new();
    let (engine, clock) = engine(vec![], &[("tier", &tier)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "tier");
    tier.set_dead(true);
    open_writing(storage, "tier");
    block_on(storage.remove(&keys, &Tiers::All)).unwrap_err();
    eventually("it is tried", || {
        support::counted(storage, "tier").n_errors(Operation::Remove, "unavailable") > 0
    });
    tier.set_dead(false);
    wait_to_write(storage, "tier", &clock);
    put_in(storage, &keys[..1], "tier");
    assert_eq!((tier.has(keys[0]), tier.has(keys[1])), (true, false));
    assert_eq!(in_tier(storage, &keys, "tier"), 1);
}

#[test]
fn a_removal_goes_straight_to_a_backend_that_cannot_be_read() {
    let tier = Scripted::new();
    let (engine, _clock) = engine(vec![], &[("tier", &tier)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "tier");
    tier.fail_lookups();
    open(storage, "tier", &keys);
    assert_eq!(block_on(storage.remove(&keys, &Tiers::All)), Ok(2));
    assert_eq!(state(storage, "tier"), BreakerState::Open, "this does not concern reading");
}

#[test]
fn a_removal_reaches_a_backend_whose_puts_fail() {
    let tier = Scripted::new();
    let (engine, _clock) = engine(vec![], &[("tier", &tier)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "tier");
    tier.refuse_puts(true);
    open_writing(storage, "tier");
    block_on(storage.remove(&keys, &Tiers::All)).unwrap_err();
    eventually("the removal in the background", || storage.status().backends[0].removals_owed == 0);
    assert!(!tier.has(keys[0]) && !tier.has(keys[1]));
    assert_eq!(writing(storage, "tier"), BreakerState::Open, "this does not concern puts");
}

#[test]
fn a_removal_keeps_its_deadline_while_those_owed_before_it_hang() {
    let tier = Scripted::new();
    let clock = Clock::manual();
    let config = Config { local_cpu: false, blocking_timeout: support::EXPIRES, ..support::config(vec![]) };
    let builder = EngineBuilder::new(config, support::metadata()).clock(clock.clone());
    let engine = builder.tier("tier", Arc::clone(&tier) as Arc<dyn Tier>).build_blocking().unwrap();
    let (storage, keys) = (engine.storage(), keys(4));
    put_in(storage, &keys[3..], "tier");
    tier.refuse_puts(true);
    open_writing(storage, "tier");
    tier.hold_removals(&keys[..3]);
    tier.heard();
    block_on(storage.remove(&keys[..1], &Tiers::All)).unwrap_err();
    eventually("the delivery hangs", || tier.heard().contains(&Heard::Remove(vec![keys[0]])));
    // The removal of a damaged chunk is the probe that closes the breaker. It does not concern the chunk whose removal
    // is owed.
    wait_to_write(storage, "tier", &clock);
    tier.damage(keys[3]);
    assert!(get(storage, &keys[3..]).chunks.is_empty());
    eventually("the breaker closes", || writing(storage, "tier") == BreakerState::Closed);
    assert_eq!(storage.status().backends[0].removals_owed, 1);
    tier.heard();
    std::thread::scope(|scope| {
        for key in &keys[1..3] {
            scope.spawn(|| {
                // The tier's own limit is a minute.
                let removed = block_on(storage.remove(&[*key], &Tiers::All)).unwrap_err();
                assert!(matches!(removed.error, TierError::Timeout(_)), "{removed:?}");
            });
        }
    });
    assert_eq!(storage.status().backends[0].removals_owed, 3, "these are owed too");
    assert_eq!(
        tier.heard().iter().filter(|heard| matches!(heard, Heard::Remove(_))).count(),
        0,
        "one at a time"
    );
    tier.let_gets_go();
    eventually("all are delivered", || storage.status().backends[0].removals_owed == 0);
    let removed = tier.heard().into_iter().find_map(|heard| match heard {
        Heard::Remove(mut keys) => {
            keys.sort();
            Some(keys)
        }
        _ => None,
    });
    let mut rest = keys[1..3].to_vec();
    rest.sort();
    assert_eq!(removed, Some(rest), "in one delivery");
    assert_eq!(block_on(storage.remove(&keys, &Tiers::All)), Ok(0));
}

#[test]
fn a_backend_that_never_removes_what_it_should_is_given_up_on_and_serves_again() {
    let log = support::log();
    let never = support::misbehaving("breaker-never", "TrapBackend", &[("in", "remove")]);
    let (engine, clock) = engine(vec![never], &[]);
    let (storage, keys) = (engine.storage(), keys(1));
    for _ in 0..FAILURES {
        block_on(storage.remove(&keys, &Tiers::All)).unwrap_err();
    }
    assert_eq!(writing(storage, "breaker-never"), BreakerState::Open);
    block_on(storage.remove(&keys, &Tiers::All)).unwrap_err();
    eventually("its calls are let through in the end", || {
        clock.advance(Duration::from_mins(1));
        put(storage, &keys, &Tiers::All);
        block_on(storage.flush()).unwrap();
        in_tier(storage, &keys, "breaker-never") == 1
    });
    assert_eq!(storage.status().backends[0].removals_owed, 0);
    let lines = log.lines_with("owed removals are given up");
    assert_eq!(lines.iter().filter(|line| line.contains("breaker-never")).count(), 1, "{lines:?}");
}

#[test]
fn an_unpin_is_not_waited_for_and_reaches_the_backend_if_it_can() {
    let tier = Scripted::new();
    let (engine, _clock) = engine(vec![], &[("tier", &tier)]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "tier");
    assert_eq!(block_on(storage.contains_pinned(&keys, &Tiers::All, "id")).n_chunks, 2);
    tier.fail_lookups();
    open(storage, "tier", &keys);
    tier.heard();
    block_on(storage.unpin("id"));
    assert_eq!(storage.status().backends[0].pinned_keys, 0);
    eventually("the unpin in the background", || tier.heard() == [Heard::Unpin(keys.clone())]);
}

#[test]
fn a_backend_that_traps_is_restarted_no_more_often_than_it_is_called() {
    let traps = support::misbehaving("breaker-traps", "TrapBackend", &[("in", "contains")]);
    let good = support::backend("breaker-good", "memory", "MemoryBackend");
    let (engine, clock) = engine(vec![traps, good], &[]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "breaker-good");
    for n in 1..=20 {
        assert_eq!(block_on(storage.contains(&keys, &Tiers::All)).n_chunks, 2, "lookup {n}");
    }
    let restarts = || support::health(storage, "breaker-traps").lane_restarts as usize;
    assert_eq!(restarts(), FAILURES);
    let status = breaker(storage, "breaker-traps");
    assert_eq!((status.state, status.skipped as usize), (BreakerState::Open, 20 - FAILURES));
    assert!(status.last_cause.unwrap().contains("trapped"));
    for n_probes in 1..=3 {
        wait(storage, "breaker-traps", &clock);
        for _ in 0..5 {
            in_tier(storage, &keys, "breaker-traps");
        }
        assert_eq!(restarts(), FAILURES + n_probes);
    }
    // A new instance that the operator requests starts clean.
    block_on(engine.storage().recreate("breaker-traps")).unwrap();
    let status = breaker(storage, "breaker-traps");
    assert_eq!((status.state, status.failures), (BreakerState::Closed, 0));
}

#[test]
fn a_backend_that_hangs_costs_so_many_bounded_calls_and_then_none() {
    let mut hangs = support::misbehaving("breaker-hangs", "HangBackend", &[("in", "contains")]);
    hangs.limits.call_timeout = support::EXPIRES;
    hangs.breaker.failures = 2;
    hangs.breaker.window = 2;
    let good = support::backend("breaker-good", "memory", "MemoryBackend");
    let (engine, _clock) = engine(vec![hangs, good], &[]);
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, "breaker-good");
    for _ in 0..50 {
        assert_eq!(block_on(storage.contains(&keys, &Tiers::All)).n_chunks, 2);
    }
    let counts = support::counted(storage, "breaker-hangs");
    assert_eq!((counts.n_errors(Operation::Contains, "timeout"), counts.reading.skipped), (2, 48));
    assert_eq!(support::health(storage, "breaker-hangs").abandoned_calls, 2, "still inside, and no more");
}

/// Returns a class of the `flaky` component, which keeps its state in a directory.
fn flaky(name: &str, directory: &tempfile::TempDir, settings: &[(&str, &str)]) -> BackendConfig {
    let mut config = support::fs(name, directory.path());
    (config.module_path, config.class_name) = (support::component("flaky"), "FlakyBackend".into());
    config.config = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    config
}

#[test]
fn a_backend_that_traps_in_every_third_call_is_out_most_of_the_time_and_the_chain_always_answers() {
    let directory = tempfile::tempdir().unwrap();
    let flapping = flaky("breaker-flaps", &directory, &[("in", "contains"), ("every", "3")]);
    let good = support::backend("breaker-good", "memory", "MemoryBackend");
    let (engine, clock) = engine(vec![flapping, good], &[]);
    let (storage, keys) = (engine.storage(), keys(2));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(open(storage, "breaker-flaps", &keys), 3 * FAILURES);
    // Each time it works twice, and the next failure opens the breaker again.
    for n_opened in 1..=4 {
        assert_eq!(breaker(storage, "breaker-flaps").opened, n_opened);
        for _ in 0..10 {
            assert_eq!(support::runs(&block_on(storage.contains(&keys, &Tiers::All))), [(2, 2)]);
        }
        wait(storage, "breaker-flaps", &clock);
        for tier in [1, 1, 2] {
            assert_eq!(support::runs(&block_on(storage.contains(&keys, &Tiers::All))), [(tier, 2)]);
        }
    }
    assert_eq!(support::health(storage, "breaker-flaps").lane_restarts as usize, FAILURES + 4);
}

#[test]
fn a_backend_that_does_not_start_is_passed_over_and_comes_back_by_itself() {
    let log = support::log();
    for method in ["constructor", "open"] {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("breaker-late-{method}");
        let late = flaky(&name, &directory, &[("in", method), ("fails", "3")]);
        let config =
            Config { local_cpu: false, on_load_error: OnLoadError::Continue, ..support::config(vec![late]) };
        let engine = support::engine(config);
        let (storage, keys) = (engine.storage(), keys(3));
        let status = breaker(storage, &name);
        assert!(status.last_cause.as_deref().unwrap().contains("failed on purpose, call"), "{status:?}");
        eventually("it starts", || {
            let is_down = support::health(storage, &name).down.is_some();
            let found = block_on(storage.contains(&keys, &Tiers::All));
            assert_eq!(found.n_chunks, 0);
            !is_down && state(storage, &name) == BreakerState::Closed
        });
        let counts = support::counted(storage, &name);
        assert!(counts.errors.is_empty(), "a call was let through: {counts:?}");
        assert_eq!(breaker(storage, &name).opened, 1);
        put_in(storage, &keys, &name);
        assert_eq!(served(&get(storage, &keys)), [1, 1, 1]);
        let lines = log.lines_with("backend is running");
        assert_eq!(lines.iter().filter(|line| line.contains(&name)).count(), 1, "{lines:?}");
    }
}

#[test]
fn wrong_bytes_open_the_breaker_and_refusals_do_not() {
    let wrong = support::misbehaving("breaker-wrong", "WrongBytesBackend", &[]);
    let full = support::backend("breaker-full", "probe", "ProbeBackend");
    let (engine, _clock) = engine(vec![wrong, full], &[]);
    let (storage, keys) = (engine.storage(), keys(2 * FAILURES as u64));
    for key in &keys {
        put_in(storage, &[*key], "breaker-full");
        assert!(get(storage, &[*key]).chunks.is_empty());
    }
    assert_eq!(
        support::counted(storage, "breaker-full").n_errors(Operation::Put, "no_space"),
        keys.len() as u64
    );
    let full = backend(storage, "breaker-full");
    for status in [full.reading, full.writing] {
        assert_eq!((status.opened, status.failures), (0, 0), "no space and misses");
    }
    for key in &keys[..FAILURES] {
        put_in(storage, &[*key], "breaker-wrong");
        assert!(get(storage, &[*key]).chunks.is_empty());
    }
    let status = breaker(storage, "breaker-wrong");
    assert_eq!(status.state, BreakerState::Open);
    assert_eq!(status.last_cause.as_deref(), Some("the check value does not match"));
}

#[test]
fn a_backend_that_refuses_writes_is_read_all_the_same_and_shows_it() {
    let log = support::log();
    let name = "breaker-no-puts";
    let directory = tempfile::tempdir().unwrap();
    let mut fs = support::fs(name, directory.path());
    let keys = keys(2 * FAILURES as u64);
    {
        let (engine, _clock) = engine(vec![fs.clone()], &[]);
        put_in(engine.storage(), &keys[..1], name);
        engine.blocking().close().unwrap();
    }
    fs.allow.fs[0].access = FsAccess::ReadOnly;
    let (engine, clock) = engine(vec![fs], &[]);
    let storage = engine.storage();
    for key in &keys[1..] {
        put_in(storage, &[*key], name);
        assert_eq!(served(&get(storage, &keys[..1])), [1]);
    }
    let (counts, status) = (support::counted(storage, name), backend(storage, name));
    let n_asked = counts.n_errors(Operation::Put, "other");
    assert_eq!(
        (n_asked, counts.drops["breaker_open"]),
        (FAILURES as u64, (keys.len() - 1 - FAILURES) as u64)
    );
    assert_eq!((status.reading.state, status.writing.state), (BreakerState::Closed, BreakerState::Open));
    assert_eq!((status.reading.failures, status.health.down), (0, None));
    let cause = status.writing.last_cause.unwrap();
    assert!(cause.contains("/data: not permitted"), "{cause}");
    let metrics = storage.metrics();
    for (direction, is_open) in [("reading", 0), ("writing", 1)] {
        let line = format!("kvtier_breaker_open{{tier=\"{name}\",direction=\"{direction}\"}} {is_open}\n");
        assert!(metrics.contains(&line), "{line}");
    }
    let opened = log.lines_with("breaker opened");
    let of_this: Vec<_> = opened.iter().filter(|line| line.contains(name)).collect();
    assert!(of_this.len() == 1 && of_this[0].contains("direction=\"writing\""), "{opened:?}");
    wait_to_write(storage, name, &clock);
    put_in(storage, &keys[1..2], name);
    let status = backend(storage, name);
    assert_eq!(
        (status.writing.opened, status.writing.state),
        (2, BreakerState::Open),
        "one put as the probe"
    );
}

#[test]
fn a_backend_whose_gets_trap_or_hang_is_written_all_the_same() {
    for (class, kind) in [("TrapBackend", "trap"), ("HangBackend", "timeout")] {
        let name = format!("breaker-no-gets-{kind}");
        let mut bad = support::misbehaving(&name, class, &[("in", "get")]);
        bad.limits.call_timeout = Duration::from_millis(200);
        let (engine, _clock) = engine(vec![bad], &[]);
        let (storage, keys) = (engine.storage(), keys(2));
        let plan = support::promise(1, 1);
        for n in 0..=FAILURES {
            let found = block_on(storage.get(&support::specs(&keys[..1]), &Tiers::All, Some(&plan)));
            let reason = if n < FAILURES { kind } else { "breaker_open" };
            assert_eq!(found.misses[0].miss.reason(), reason, "{name}");
        }
        let status = backend(storage, &name);
        assert_eq!((status.reading.state, status.writing.failures), (BreakerState::Open, 0), "{name}");
        let puts_before = support::counted(storage, &name).puts;
        eventually("a put arrives", || {
            put_in(storage, &keys[1..], &name);
            support::counted(storage, &name).puts > puts_before
        });
        assert_eq!(writing(storage, &name), BreakerState::Closed, "{name}");
    }
}

#[test]
fn opening_and_closing_stand_in_the_log_once_each() {
    let log = support::log();
    let tier = Scripted::new();
    let (engine, clock) = engine(vec![], &[("breaker-logged", &tier)]);
    let (storage, keys) = (engine.storage(), keys(1));
    tier.set_dead(true);
    open(storage, "breaker-logged", &keys);
    for _ in 0..5 {
        wait(storage, "breaker-logged", &clock);
        in_tier(storage, &keys, "breaker-logged");
    }
    tier.set_dead(false);
    wait(storage, "breaker-logged", &clock);
    in_tier(storage, &keys, "breaker-logged");
    assert_eq!(breaker(storage, "breaker-logged").opened, 6);
    let count = |level: &str, text: &str| {
        let lines = log.lines_with("breaker-logged");
        lines.iter().filter(|line| line.contains(level) && line.contains(text)).count()
    };
    assert_eq!(count(" WARN ", "breaker opened"), 1);
    assert_eq!(count(" WARN ", "unavailable: dead"), 1);
    assert_eq!(count(" INFO ", "breaker closed"), 1);
}
