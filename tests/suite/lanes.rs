//! Classes that misbehave: whatever they do, callers get their answers, no wrong bytes are served, nothing leaks, and
//! the lane works again.

use std::time::Duration;

use kvtier::{BackendConfig, ChunkKey, Config, Engine, Retrieved, StorageManager, Tiers, block_on};

use crate::support;

/// The limit of calls that never end, and of the calls beside them.
const CALL_TIMEOUT: Duration = support::EXPIRES;
pub(crate) const LANE_STALL: Duration = Duration::from_secs(3);
pub(crate) use support::FOR_EVER;

/// The methods that the chain calls while a backend is open.
const METHODS: [&str; 6] = ["contains", "put", "get", "pin", "unpin", "remove"];

pub(crate) fn bad(name: &str, class_name: &str, settings: &[(&str, &str)]) -> BackendConfig {
    let mut backend = support::misbehaving(name, class_name, settings);
    backend.limits.call_timeout = CALL_TIMEOUT;
    backend.limits.lane_stall = FOR_EVER;
    backend
}

pub(crate) fn engine(backend: BackendConfig) -> Engine {
    support::engine(Config { local_cpu: false, ..support::config(vec![backend]) })
}

fn only(name: &str) -> Tiers {
    Tiers::only([name])
}

fn get(storage: &StorageManager, keys: &[ChunkKey], name: &str) -> Retrieved {
    block_on(storage.get(&support::specs(keys), &only(name), None))
}

pub(crate) fn reasons(retrieved: &Retrieved) -> Vec<&'static str> {
    retrieved.misses.iter().map(|missed| missed.miss.reason()).collect()
}

/// Makes the chain call `method` of a backend in which three chunks are stored, and returns the kind of error that the
/// caller gets or that is counted. The chain pins in a backend once some keys of a lookup are held.
fn provoke(storage: &StorageManager, method: &str, name: &str) -> Option<String> {
    let keys = support::keys(3);
    let error_in = |operation: &str| {
        let counts = support::counted(storage, name);
        let mut kinds = counts.errors.iter().filter(|error| error.operation.name() == operation);
        kinds.next().map(|error| error.kind.to_owned())
    };
    match method {
        "contains" => {
            assert_eq!(block_on(storage.contains(&keys, &only(name))).n_chunks, 0);
            error_in("contains")
        }
        "put" => {
            // One chunk, so that it is one call.
            support::put_in(storage, &keys[..1], name);
            assert_eq!(support::counted(storage, name).drops["lost"], 1, "lost puts are counted");
            error_in("put")
        }
        "get" => {
            let retrieved = get(storage, &keys, name);
            assert_eq!(retrieved.chunks.len(), 0);
            let reasons = reasons(&retrieved);
            assert_eq!(reasons.len(), 3);
            assert_eq!(error_in("get").as_deref(), Some(reasons[0]));
            error_in("get")
        }
        "pin" => {
            assert_eq!(block_on(storage.contains_pinned(&keys[..1], &only(name), "first")).n_chunks, 1);
            assert_eq!(block_on(storage.contains_pinned(&keys, &only(name), "second")).n_chunks, 0);
            None
        }
        "unpin" => {
            assert_eq!(block_on(storage.contains_pinned(&keys, &only(name), "lookup")).n_chunks, 3);
            block_on(storage.unpin("lookup"));
            None
        }
        "remove" => {
            let error = block_on(storage.remove(&keys, &only(name))).unwrap_err();
            assert_eq!(error_in("remove").as_deref(), Some(error.error.kind()));
            error_in("remove")
        }
        other => panic!("{other}"),
    }
}

/// Calls another method than `method`, on the same lane, and expects it to work.
fn assert_works(storage: &StorageManager, method: &str, name: &str) {
    let key = support::key(77);
    if method == "put" {
        let errors = support::counted(storage, name).errors;
        assert_eq!(block_on(storage.contains(&[key], &only(name))).n_chunks, 0);
        assert_eq!(support::counted(storage, name).errors, errors);
    } else {
        let before = support::counted(storage, name).puts;
        support::put_in(storage, &[key], name);
        assert_eq!(support::counted(storage, name).puts, before + 1);
    }
}

/// Runs one behaviour in every method, each in a new engine, and expects callers to get the error `kind`. The chain
/// reports a failed pin to no caller.
fn in_every_method(
    class_name: &str,
    kind: &str,
    set: fn(&mut BackendConfig),
    check: fn(&StorageManager, &str),
) {
    std::thread::scope(|scope| {
        for method in METHODS {
            scope.spawn(move || {
                let name = format!("{class_name}-in-{method}");
                let mut backend = bad(&name, class_name, &[("in", method)]);
                set(&mut backend);
                let engine = engine(backend);
                let storage = engine.storage();
                if method != "put" {
                    support::put_in(storage, &support::keys(3), &name);
                }
                assert!(support::health(storage, &name).guest_memory_bytes > 0);
                let told = provoke(storage, method, &name);
                if !["pin", "unpin"].contains(&method) {
                    assert_eq!(told.as_deref(), Some(kind), "{method}");
                }
                check(storage, &name);
                assert_works(storage, method, &name);
                support::assert_nothing_leaks(storage);
                engine.blocking().close().unwrap();
            });
        }
    });
}

pub(crate) fn assert_replaced(storage: &StorageManager, name: &str, why: &str) {
    support::eventually("the lane is replaced", || support::health(storage, name).lane_restarts == 1);
    let health = support::health(storage, name);
    let reason = health.last_restart.expect("a reason");
    assert!(reason.starts_with(why), "{reason}");
    assert_eq!(health.abandoned_calls, 0);
    assert_eq!(support::counted(storage, name).lane_restarts, 1);
    assert!(storage.metrics().contains("lane_restarts"));
}

#[test]
fn a_trap_in_any_method_answers_its_caller_and_replaces_the_lane() {
    in_every_method(
        "TrapBackend",
        "trap",
        |backend| backend.limits.call_timeout = FOR_EVER,
        |storage, name| {
            let (_, method) = name.split_once("-in-").unwrap();
            let trap = "wasm trap: wasm `unreachable` instruction executed";
            assert_replaced(storage, name, &format!("trapped: in `{method}`: {trap}"));
        },
    );
}

/// Checks a class that holds its thread, in whatever way.
fn loses_its_lane_in_any_method(class_name: &str) {
    in_every_method(
        class_name,
        "lost",
        |backend| (backend.limits.call_timeout, backend.limits.lane_stall) = (FOR_EVER, LANE_STALL),
        |storage, name| {
            let (_, method) = name.split_once("-in-").unwrap();
            assert_replaced(storage, name, &format!("no progress for 3s in `{method}`: the guest computes"));
        },
    );
}

#[test]
fn a_guest_that_computes_for_ever_in_any_method_loses_its_lane_and_the_caller_hears_it() {
    loses_its_lane_in_any_method("SpinBackend");
}

#[test]
fn a_guest_that_blocks_in_any_method_loses_its_lane_and_the_caller_hears_it() {
    loses_its_lane_in_any_method("BlockBackend");
}

#[test]
fn a_guest_that_awaits_for_ever_in_any_method_keeps_its_lane_while_the_caller_leaves_in_time() {
    in_every_method(
        "HangBackend",
        "timeout",
        |_| {},
        |storage, name| {
            let health = support::health(storage, name);
            assert_eq!(
                (health.lane_restarts, health.abandoned_calls),
                (0, 1),
                "still inside, and left alone"
            );
        },
    );
}

#[test]
fn the_caller_is_answered_while_the_guest_still_computes() {
    let mut backend = bad("spin-late", "SpinBackend", &[]);
    // Long after the caller has its answer.
    backend.limits.lane_stall = 3 * CALL_TIMEOUT;
    let engine = engine(backend);
    let storage = engine.storage();
    support::put_in(storage, &support::keys(2), "spin-late");
    let retrieved = get(storage, &support::keys(2), "spin-late");
    assert_eq!(reasons(&retrieved), ["timeout"; 2]);
    let health = support::health(storage, "spin-late");
    assert_eq!((health.lane_restarts, health.abandoned_calls), (0, 1), "the guest has not been stopped yet");
    support::eventually("the lane is replaced", || support::health(storage, "spin-late").lane_restarts == 1);
    // It makes no progress, and it computes without a caller: either may be noticed first.
    let reason = support::health(storage, "spin-late").last_restart.expect("a reason");
    assert!(
        ["no progress for 12s", "computed for 12s"].iter().any(|why| reason.starts_with(why)),
        "{reason}"
    );
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_close_that_never_returns_is_given_up_in_time_and_reported() {
    std::thread::scope(|scope| {
        let cases = [
            ("TrapBackend", "trap"),
            ("SpinBackend", "timeout"),
            ("HangBackend", "timeout"),
            ("BlockBackend", "timeout"),
        ];
        for (class_name, kind) in cases {
            scope.spawn(move || {
                let name = format!("{class_name}-in-close");
                let mut backend = bad(&name, class_name, &[("in", "close")]);
                backend.limits.close_timeout = CALL_TIMEOUT;
                let engine = engine(backend);
                support::put_in(engine.storage(), &support::keys(3), &name);
                let error = engine.blocking().close().unwrap_err();
                let failed: Vec<_> = error
                    .failed
                    .iter()
                    .map(|failed| (failed.backend.as_str(), failed.error.kind()))
                    .collect();
                assert_eq!(failed, [(name.as_str(), kind)]);
                assert_eq!(support::health(engine.storage(), &name).down.as_deref(), Some("closed"));
                support::assert_nothing_leaks(engine.storage());
            });
        }
    });
}

#[test]
fn a_late_answer_reaches_nobody_and_the_lane_goes_on() {
    let mut backend = bad("late", "LateBackend", &[("in", "get"), ("ms", "8000")]);
    backend.limits.call_timeout = CALL_TIMEOUT;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(3);
    support::put_in(storage, &keys, "late");
    assert_eq!(reasons(&get(storage, &keys, "late")), ["timeout"; 3]);
    assert_eq!(support::health(storage, "late").abandoned_calls, 1);
    // While it is inside, others are answered, each with its own answer.
    assert_eq!(support::in_tier(storage, &keys[..2], "late"), 2);
    support::eventually("the late call returns", || support::health(storage, "late").abandoned_calls == 0);
    assert_eq!(support::in_tier(storage, &keys, "late"), 3);
    assert_eq!(support::health(storage, "late").lane_restarts, 0);
    support::assert_nothing_leaks(storage);
}

#[test]
fn neighbours_of_an_expired_call_are_answered_by_the_same_instance() {
    let engine = engine(bad("neighbours", "HangBackend", &[]));
    let storage = engine.storage();
    let keys = support::keys(4);
    support::put_in(storage, &keys, "neighbours");
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| get(storage, &keys, "neighbours"));
        while !hanging.is_finished() {
            assert_eq!(support::in_tier(storage, &keys, "neighbours"), 4);
        }
        assert_eq!(reasons(&hanging.join().unwrap()), ["timeout"; 4]);
    });
    // The chunks are in the instance's memory, so it is the same instance.
    assert_eq!(support::in_tier(storage, &keys, "neighbours"), 4);
    let health = support::health(storage, "neighbours");
    assert_eq!((health.lane_restarts, health.abandoned_calls), (0, 1));
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_lane_with_too_many_expired_calls_inside_is_retired() {
    let mut backend = bad("overfull", "HangBackend", &[]);
    backend.limits.abandoned_calls_max = 2;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(3);
    support::put_in(storage, &keys, "overfull");
    let abandoned = |n: usize| {
        for _ in 0..n {
            assert_eq!(reasons(&get(storage, &keys[..1], "overfull")), ["timeout"]);
        }
        support::health(storage, "overfull")
    };
    let health = abandoned(2);
    assert_eq!((health.lane_restarts, health.abandoned_calls), (0, 2));
    abandoned(1);
    assert_replaced(storage, "overfull", "3 expired calls were still inside the guest");
    assert_eq!(support::in_tier(storage, &keys, "overfull"), 0, "a fresh instance");
    assert_works(storage, "get", "overfull");
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_call_that_expires_inside_a_class_in_blocking_style_retires_its_lane() {
    let mut backend = support::backend("sleeper", "probe", "SleeperBackend");
    backend.limits.call_timeout = CALL_TIMEOUT;
    // A class in blocking style may block for the time limit of its calls.
    backend.limits.lane_stall = LANE_STALL / 2;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(2);
    assert_eq!(reasons(&get(storage, &keys, "sleeper")), ["timeout"; 2]);
    assert_replaced(storage, "sleeper", "a call expired inside a class in blocking style");
    assert_eq!(support::in_tier(storage, &keys, "sleeper"), 2, "the next call works");
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_chunk_that_a_bad_backend_does_not_deliver_comes_from_the_next_tier() {
    let backends = vec![
        bad("chain-hang", "HangBackend", &[]),
        bad("chain-trap", "TrapBackend", &[]),
        bad("chain-wrong", "WrongBytesBackend", &[]),
        support::backend("chain-good", "memory", "MemoryBackend"),
    ];
    let engine = support::engine(support::config(backends));
    let storage = engine.storage();
    let keys = support::keys(3);
    for name in ["chain-hang", "chain-trap", "chain-wrong", "chain-good"] {
        support::put_in(storage, &keys, name);
    }
    let retrieved = support::get(storage, &keys);
    assert_eq!(support::served(&retrieved), [4; 3]);
    let mut reasons = reasons(&retrieved);
    reasons.dedup();
    assert_eq!(reasons, ["timeout", "trap", "check_failed"]);
    drop(retrieved);
    assert_eq!(support::served(&support::get(storage, &keys)), [0; 3], "promoted");
    support::assert_nothing_leaks(storage);
}

/// In sequence, these calls would take longer than the limit of one call.
#[test]
fn five_hundred_and_twelve_calls_overlap_in_one_instance() {
    const CALLS: usize = 512;
    let mut backend = bad("overlap", "SlowMemory", &[("ms", "1000")]);
    backend.limits.call_timeout = Duration::from_mins(2);
    backend.limits.calls_in_flight_max = CALLS;
    let pool_size_bytes = (CALLS as u64 + 16) * 4096;
    let config = support::config(vec![backend]);
    let engine = support::engine(Config { pool_size_bytes, local_cpu: false, ..config });
    let storage = engine.storage();
    // A different chunk for each: a shared chunk would be fetched once.
    let keys = support::keys(CALLS as u64);
    support::put_in(storage, &keys, "overlap");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for key in keys {
            let storage = storage.clone();
            calls.spawn(async move { storage.get(&support::specs(&[key]), &only("overlap"), None).await });
        }
        while let Some(retrieved) = calls.join_next().await {
            let retrieved = retrieved.unwrap();
            assert_eq!(retrieved.chunks.len(), 1, "{:?}", retrieved.misses);
        }
    });
    assert_eq!(support::counted(storage, "overlap").hits, CALLS as u64);
    assert_eq!(support::health(storage, "overlap").lane_restarts, 0);
    support::assert_nothing_leaks(storage);
}

#[test]
fn calls_beyond_the_limit_are_refused_at_once_as_busy() {
    let mut backend = bad("busy", "HangBackend", &[]);
    backend.limits.calls_in_flight_max = 1;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(4);
    support::put_in(storage, &keys, "busy");
    let plan = support::promise(1, 1);
    let specs = support::specs(&keys);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut reasons: Vec<_> = runtime.block_on(async {
        let get = |n: usize| storage.get(&specs[n..=n], &Tiers::All, Some(&plan));
        let (a, b, c, d) = tokio::join!(get(0), get(1), get(2), get(3));
        [a, b, c, d].iter().flat_map(reasons).collect()
    });
    reasons.sort_unstable();
    // One inside, and one or two in the queue, depending on whether the lane has taken the first call in time.
    assert_eq!(reasons.len(), 4);
    assert_eq!(reasons[0], "busy");
    assert_eq!(reasons[3], "timeout");
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_cancelled_retrieval_gives_its_buffers_back_while_the_guest_is_stuck() {
    let mut backend = bad("cancelled", "HangBackend", &[]);
    backend.limits.call_timeout = FOR_EVER;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(3);
    support::put_in(storage, &keys, "cancelled");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let specs = support::specs(&keys);
        let hanging = storage.get(&specs, &Tiers::All, None);
        tokio::pin!(hanging);
        // Polled until the call is inside the guest, then dropped.
        let is_inside = || storage.status().cpu.allocated_bytes > 0;
        while !is_inside() {
            tokio::select! {
                biased;
                retrieved = &mut hanging => panic!("answered: {retrieved:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
    });
    support::assert_nothing_leaks(storage);
    assert_eq!(support::in_tier(storage, &keys, "cancelled"), 3, "the lane continues");
    assert_eq!(support::health(storage, "cancelled").lane_restarts, 0);
}

#[test]
fn several_lanes_share_the_calls_and_fail_apart() {
    let mut backend = bad("lanes", "TrapBackend", &[("in", "remove")]);
    backend.lanes = 3;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(1);
    for n_traps in 1..=4 {
        block_on(storage.remove(&keys, &only("lanes"))).unwrap_err();
        support::eventually("the lane is replaced", || {
            support::health(storage, "lanes").lane_restarts == n_traps
        });
        assert_eq!(support::health(storage, "lanes").down, None);
    }
    assert_works(storage, "remove", "lanes");
}

#[test]
fn a_lane_that_is_stuck_does_not_hold_up_the_others() {
    let mut backend = support::backend("two-lanes", "probe", "SleeperBackend");
    backend.limits.call_timeout = CALL_TIMEOUT;
    backend.lanes = 2;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(1);
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| get(storage, &keys, "two-lanes"));
        let mut n_answered = 0;
        while !stuck.is_finished() {
            assert_eq!(support::in_tier(storage, &keys, "two-lanes"), 1);
            n_answered += 1;
        }
        assert_eq!(reasons(&stuck.join().unwrap()), ["timeout"]);
        // In one lane at most two: one before the stuck call, one after it.
        assert!(n_answered > 2, "{n_answered}");
    });
    support::assert_nothing_leaks(storage);
}

#[test]
fn expired_calls_never_take_all_places_of_a_lane() {
    let mut backend = bad("all-places", "HangBackend", &[]);
    backend.limits.calls_in_flight_max = 2;
    assert!(backend.limits.abandoned_calls_max >= 2);
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(1);
    support::put_in(storage, &keys, "all-places");
    for _ in 0..2 {
        assert_eq!(reasons(&get(storage, &keys, "all-places")), ["timeout"]);
    }
    assert_replaced(storage, "all-places", "2 expired calls were still inside the guest");
    assert_works(storage, "get", "all-places");
    support::assert_nothing_leaks(storage);
}
