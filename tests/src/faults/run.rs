//! Provokes one fault.

use std::time::{Duration, Instant};

use kvtier::{
    ChunkKey, Config, Engine, EngineBuilder, OnLoadError, Retrieved, Secret, StorageManager, Tiers, block_on,
};

use super::{After, Caller, Fault, Method, Times, table};
use crate::support::{
    FOR_EVER, assert_nothing_leaks, config, counted, eventually, get, health, in_tier, key, keys, metadata,
    promise, put, put_in, served, specs,
};

const FAULTY: &str = "faulty";
const NEIGHBOUR: &str = "neighbour";

/// The times of one run of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// The call's time limit.
    pub deadline: Duration,
    /// The time until the caller had its answer.
    pub answered: Duration,
    /// The time from the answer until a new instance, if there was one, had served a further call.
    pub recovered: Option<Duration>,
}

/// Provokes a fault in a new engine and checks everything that must hold.
pub fn run(fault: &Fault, times: Times) -> Observed {
    let deadline = match fault.caller {
        Caller::Told(_) | Caller::Served => FOR_EVER,
        Caller::Expires => times.deadline,
    };
    let mut faulty = (fault.backend)(&times);
    faulty.name = FAULTY.into();
    faulty.limits.call_timeout = deadline;
    faulty.limits.open_timeout =
        if fault.method == Method::Constructor || fault.method == Method::Open { deadline } else { FOR_EVER };
    faulty.limits.close_timeout = deadline;
    faulty.limits.lane_stall = match (&fault.after, fault.caller) {
        // A busy machine gives it little processor time.
        (After::Replaced(_), Caller::Served) => times.stall / 12,
        (After::Replaced(_), _) => times.stall,
        _ => FOR_EVER,
    };
    faulty.limits.memory_bytes = 16 << 20;
    let config = Config {
        on_load_error: OnLoadError::Continue,
        blocking_timeout: FOR_EVER,
        lookup_timeout: FOR_EVER,
        close_timeout: FOR_EVER,
        integrity_key: fault.keyed.then(|| Secret::new(*b"a key of 32 bytes for the table.")),
        ..config(vec![faulty, table::neighbour()])
    };
    let builder = EngineBuilder::new(config, metadata());
    let started = Instant::now();
    let engine = builder.build_blocking().unwrap();
    let answered = started.elapsed();
    let observed = match fault.after {
        After::Down(cause) => not_started(&engine, cause, Observed { deadline, answered, recovered: None }),
        _ => serving(fault, &engine, deadline),
    };
    let storage = engine.storage();
    let n_instances = usize::from(!matches!(fault.after, After::Down(_)));
    eventually("abandoned instances are gone", || health(storage, FAULTY).instances == n_instances);
    let neighbour = health(storage, NEIGHBOUR);
    assert_eq!((neighbour.lane_restarts, neighbour.down), (0, None), "the neighbour notices nothing");
    assert_nothing_leaks(storage);
    let status = storage.status();
    assert_eq!(status.lookups_pinned, 0);
    assert!(status.backends.iter().all(|backend| backend.pinned_keys == 0), "{status:?}");
    assert_eq!(status.backends.iter().map(|backend| backend.puts_pending).sum::<usize>(), 0);
    close(fault, &engine, observed)
}

/// Checks that a backend that did not start is not part of the chain, and that the status says why.
fn not_started(engine: &Engine, cause: &str, observed: Observed) -> Observed {
    let storage = engine.storage();
    let down = health(storage, FAULTY).down.expect("not running");
    assert!(down.contains(cause), "{down}");
    put(storage, &keys(3), &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(in_tier(storage, &keys(3), FAULTY), 0);
    assert_eq!(in_tier(storage, &keys(3), NEIGHBOUR), 3);
    observed
}

fn serving(fault: &Fault, engine: &Engine, deadline: Duration) -> Observed {
    let storage = engine.storage();
    let keys = keys(3);
    let without_faulty = fault.method == Method::Put;
    let tiers = if without_faulty { Tiers::only([NEIGHBOUR]) } else { Tiers::only([FAULTY, NEIGHBOUR]) };
    put(storage, &keys, &tiers);
    block_on(storage.flush()).unwrap();
    if fault.method == Method::Close {
        return Observed { deadline, answered: Duration::ZERO, recovered: None };
    }
    let (answered, kind) = provoke(fault, storage, &keys);
    match fault.caller {
        Caller::Told(expected) => told(fault.method, kind.as_deref(), expected),
        Caller::Expires => {
            told(fault.method, kind.as_deref(), "timeout");
            assert!(answered >= deadline, "answered after {answered:?}");
        }
        Caller::Served => assert_eq!(kind, None),
    }
    let recovered = if let After::Replaced(why) = fault.after {
        Some(replaced(fault.method, storage, why))
    } else {
        assert_eq!(health(storage, FAULTY).lane_restarts, 0, "the same instance serves");
        None
    };
    // Whatever the faulty backend does, the chunks are present, with every byte right.
    let found = get(storage, &keys);
    let from =
        if fault.method == Method::Get && fault.caller != Caller::Served { 2 } else { served(&found)[0] };
    assert_eq!(served(&found), [from; 3], "{:?}", found.misses);
    if recovered.is_some() {
        // The search for them may have run into the fault again.
        eventually("the lane is replaced again", || health(storage, FAULTY).abandoned_calls == 0);
    }
    Observed { deadline, answered, recovered }
}

/// The chain reports a failed pin only in the debug log.
fn told(method: Method, kind: Option<&str>, expected: &str) {
    if !matches!(method, Method::Pin | Method::Unpin) {
        assert_eq!(kind, Some(expected));
    }
}

/// Makes the chain call the method. Returns how long the caller waited, and the kind of error that it got or that was
/// counted.
fn provoke(fault: &Fault, storage: &StorageManager, keys: &[ChunkKey]) -> (Duration, Option<String>) {
    let only = Tiers::only([FAULTY]);
    let error_in = |operation: &str| {
        let errors = counted(storage, FAULTY).errors;
        let mut kinds = errors.iter().filter(|error| error.operation.name() == operation);
        kinds.next().map(|error| error.kind.to_owned())
    };
    // The chain pins in the backend once some keys of a lookup are held.
    if fault.method == Method::Pin {
        assert_eq!(block_on(storage.contains_pinned(&keys[..1], &only, "first")).n_chunks, 1);
    }
    if fault.method == Method::Unpin {
        assert_eq!(block_on(storage.contains_pinned(keys, &only, "first")).n_chunks, 3);
    }
    let started = Instant::now();
    match fault.method {
        Method::Contains => {
            let n_chunks = block_on(storage.contains(keys, &only)).n_chunks;
            let answered = started.elapsed();
            assert_eq!(n_chunks, 0);
            (answered, error_in("contains"))
        }
        Method::Get => {
            let found = block_on(storage.get(&specs(keys), &only, Some(&promise(1, 3))));
            let answered = started.elapsed();
            let kind = check_misses(&found, fault.caller == Caller::Served);
            if fault.caller != Caller::Served {
                assert_eq!(storage.cpu().contains_run(keys), 0, "never promoted");
            }
            (answered, kind)
        }
        Method::Put => {
            // One chunk, so that it is one call.
            put(storage, &keys[..1], &only);
            let answered = started.elapsed();
            block_on(storage.flush()).unwrap();
            let counts = counted(storage, FAULTY);
            assert_eq!(counts.puts, 0);
            // The caller never waits for a backend; the put worker does.
            let waited = if fault.caller == Caller::Expires { started.elapsed() } else { answered };
            (waited, error_in("put"))
        }
        Method::Pin => {
            assert_eq!(block_on(storage.contains_pinned(keys, &only, "second")).n_chunks, 0);
            let answered = started.elapsed();
            block_on(storage.unpin("first"));
            (answered, None)
        }
        Method::Unpin => {
            block_on(storage.unpin("first"));
            (started.elapsed(), None)
        }
        Method::Remove => {
            let error = block_on(storage.remove(keys, &only)).unwrap_err();
            let answered = started.elapsed();
            assert_eq!(error_in("remove").as_deref(), Some(error.error.kind()));
            (answered, error_in("remove"))
        }
        Method::Constructor | Method::Open | Method::Close => unreachable!("not while serving"),
    }
}

/// Checks that all chunks were served, or that all were missed for one reason, and returns that reason.
fn check_misses(found: &Retrieved, served: bool) -> Option<String> {
    if served {
        assert_eq!(found.chunks.len(), 3, "{:?}", found.misses);
        for chunk in &found.chunks {
            kvtier_cli::content::verify(chunk.key(), chunk).unwrap();
        }
        return None;
    }
    assert_eq!(found.chunks.len(), 0);
    let reasons: Vec<_> = found.misses.iter().map(|missed| missed.miss.reason()).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons.iter().all(|reason| *reason == reasons[0]), "{reasons:?}");
    Some(reasons[0].to_owned())
}

/// Waits until a new instance has served a call, and returns how long that took.
fn replaced(method: Method, storage: &StorageManager, why: &str) -> Duration {
    let started = Instant::now();
    eventually("the lane is replaced", || health(storage, FAULTY).lane_restarts > 0);
    let before = counted(storage, FAULTY);
    // Calls another method than the one that fails.
    if method == Method::Contains {
        put_in(storage, &[key(77)], FAULTY);
        assert_eq!(counted(storage, FAULTY).puts, before.puts + 1, "the new instance answers");
    } else {
        assert_eq!(in_tier(storage, &[key(77)], FAULTY), 0);
        assert_eq!(counted(storage, FAULTY).errors, before.errors, "the new instance answers");
    }
    let recovered = started.elapsed();
    let health = health(storage, FAULTY);
    let reason = health.last_restart.expect("a reason");
    // Once its caller has left, a guest that makes no progress also computes without a caller: either may be noticed
    // first.
    let is_hog = why == "no progress" && reason.contains("computed for");
    assert!(reason.contains(why) || is_hog, "{reason}");
    assert_eq!((health.lane_restarts, health.abandoned_calls, health.down), (1, 0, None));
    recovered
}

fn close(fault: &Fault, engine: &Engine, observed: Observed) -> Observed {
    let started = Instant::now();
    let closed = engine.blocking().close();
    let answered = started.elapsed();
    for backend in [FAULTY, NEIGHBOUR] {
        eventually("no instance is left", || health(engine.storage(), backend).instances == 0);
    }
    if fault.method != Method::Close {
        closed.unwrap();
        return observed;
    }
    let failed = closed.unwrap_err().failed;
    let failed: Vec<_> = failed.iter().map(|failed| (failed.backend.as_str(), failed.error.kind())).collect();
    match fault.caller {
        Caller::Told(kind) => assert_eq!(failed, [(FAULTY, kind)]),
        _ => assert_eq!(failed, [(FAULTY, "timeout")]),
    }
    assert_eq!(health(engine.storage(), FAULTY).down.as_deref(), Some("closed"));
    Observed { answered, ..observed }
}
