//! Guests that work while no caller waits for them. Those that compute more than they rest lose their lane, in whatever
//! way they compute and however busy the machine is; those that rest as long as they compute keep it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvtier::{BackendConfig, Engine, FsAccess, FsGrant, Tiers, block_on};

use crate::lanes::{FOR_EVER, LANE_STALL, assert_replaced, bad, engine, reasons};
use crate::support;

/// How long a lane may compute before it is replaced: long compared with the time for which a busy machine may not run
/// it at all.
const LIMIT: Duration = Duration::from_millis(500);

/// Runs `test` on a fully busy machine.
fn beside_four_busy_loops(test: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        // Also when the test fails.
        let _over = Over(&is_over);
        test();
    });
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts a class that works after it has answered `contains`, and calls `contains`.
fn started(name: &str, class_name: &str, settings: &[(&str, &str)]) -> Engine {
    let mut backend = bad(name, class_name, settings);
    backend.limits.lane_stall = LIMIT;
    called(backend)
}

fn called(backend: BackendConfig) -> Engine {
    let name = backend.name.clone();
    let engine = engine(backend);
    let storage = engine.storage();
    assert_eq!(support::in_tier(storage, &support::keys(1), &name), 0);
    assert_eq!(support::counted(storage, &name).errors.len(), 0, "the call itself is answered");
    engine
}

fn loses_its_lane(name: &str, class_name: &str, settings: &[(&str, &str)]) {
    let engine = started(name, class_name, settings);
    assert_replaced(engine.storage(), name, "computed for 500ms longer than it rested");
    support::assert_nothing_leaks(engine.storage());
}

#[test]
fn a_guest_that_computes_on_and_on_after_its_answer_loses_its_lane() {
    loses_its_lane("hog", "HogBackend", &[]);
}

#[test]
fn a_guest_that_blocks_after_its_answer_loses_its_lane_once_a_call_waits() {
    let log = support::log();
    let mut backend = bad("doze", "DozeBackend", &[]);
    (backend.limits.call_timeout, backend.limits.lane_stall) = (FOR_EVER, LANE_STALL);
    let engine = engine(backend);
    let storage = engine.storage();
    let keys = support::keys(1);
    support::put_in(storage, &keys, "doze");
    support::eventually("it blocks", || log.heard("doze") == ["dozing off"]);
    assert_eq!(support::health(storage, "doze").lane_restarts, 0, "no call waits for it");
    // The call waits for the next instance, which answers it.
    assert_eq!(support::in_tier(storage, &keys, "doze"), 0, "a fresh instance");
    assert_eq!(support::counted(storage, "doze").errors.len(), 0);
    assert_replaced(storage, "doze", "no progress for 3s");
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_guest_that_computes_most_of_the_time_between_calls_loses_its_lane() {
    // Each stretch is too short to count as stuck.
    loses_its_lane("drudge", "DrudgeBackend", &[("ms", "40")]);
}

#[test]
fn a_guest_that_computes_from_the_start_and_is_never_called_is_started_again_with_pauses() {
    let log = support::log();
    let mut backend = bad("hog-from-open", "HogBackend", &[("in", "open")]);
    backend.limits.lane_stall = LIMIT;
    let engine = engine(backend);
    let storage = engine.storage();
    support::eventually("it is down", || {
        let down = support::health(storage, "hog-from-open").down;
        down.is_some_and(|cause| cause.contains("computed for 500ms longer than it rested"))
    });
    support::eventually("it is tried again", || {
        let lines = log.lines_with("could not be started");
        lines.iter().filter(|line| line.contains("hog-from-open") && line.contains("retry_in")).count() >= 3
    });
    assert_eq!(support::health(storage, "hog-from-open").lane_restarts, 0, "it never served");
    let status = storage.status();
    for breaker in [&status.backends[0].reading, &status.backends[0].writing] {
        assert!(breaker.opened >= 3, "the chain knows: {breaker:?}");
    }
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_guest_that_yields_without_waiting_loses_its_lane() {
    loses_its_lane("fidget", "FidgetBackend", &[]);
    beside_four_busy_loops(|| loses_its_lane("fidget-busy", "FidgetBackend", &[]));
}

#[test]
fn a_guest_that_has_the_host_work_most_of_the_time_loses_its_lane() {
    loses_its_lane("nag", "NagBackend", &[("ms", "40")]);
    beside_four_busy_loops(|| loses_its_lane("nag-busy", "NagBackend", &[("ms", "200")]));
}

#[test]
fn a_call_that_computes_on_after_its_caller_has_left_costs_its_lane() {
    let straggles = |name: &str| {
        let mut backend = bad(name, "StraggleBackend", &[]);
        // The watchdog must see that the call continues.
        (backend.limits.call_timeout, backend.limits.lane_stall) = (2 * LIMIT, 4 * LIMIT);
        let engine = engine(backend);
        let storage = engine.storage();
        let specs = support::specs(&support::keys(1));
        let retrieved = block_on(storage.get(&specs, &Tiers::All, Some(&support::promise(1, 1))));
        assert_eq!(reasons(&retrieved), ["timeout"], "not before its caller has left");
        assert_replaced(storage, name, "computed for 2s longer than it rested");
        support::assert_nothing_leaks(storage);
    };
    straggles("straggle");
    beside_four_busy_loops(|| straggles("straggle-busy"));
}

#[test]
fn a_guest_that_rests_as_long_as_it_computes_keeps_its_lane() {
    let log = support::log();
    let scans = |name: &str| {
        // In total twice as much as it may owe.
        let engine = started(name, "ScanBackend", &[("ms", "10"), ("lines", "100")]);
        support::eventually("the scan ends", || log.heard(name) == ["scanned"]);
        assert_eq!(support::health(engine.storage(), name).lane_restarts, 0);
    };
    scans("scan");
    beside_four_busy_loops(|| scans("scan-busy"));
}

#[test]
fn what_the_host_moves_by_itself_to_standard_output_is_slow() {
    let log = support::log();
    let directory = tempfile::tempdir().unwrap();
    // Moving all of it would take a minute.
    std::fs::File::create(directory.path().join("file")).unwrap().set_len(64 << 20).unwrap();
    let mut backend = bad("pipe", "PipeBackend", &[("ms", "300")]);
    backend.limits.lane_stall = LIMIT;
    let (host_dir, guest_path) = (directory.path().to_owned(), "/data".to_owned());
    backend.allow.fs.push(FsGrant { host_dir, guest_path, access: FsAccess::ReadOnly });
    let engine = called(backend);
    support::eventually("time passes", || !log.heard("pipe").is_empty());
    assert_eq!(log.heard("pipe"), ["waited"], "and the pipe continues");
    assert_eq!(support::health(engine.storage(), "pipe").lane_restarts, 0);
}
