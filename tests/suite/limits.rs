//! Limits: a value exactly at a limit works, and one more is refused as `docs/configuration.md` says.

use std::time::Duration;

use kvtier::__internal::limits::{HANDLES_PER_CALL, LOG_BYTES_MAX};
use kvtier::tier::TRAILER_BYTES;
use kvtier::{
    BackendConfig, ChunkKey, ChunkSpec, Config, Engine, EngineBuilder, Operation, StorageManager, Tiers,
    block_on,
};

use crate::lanes::{FOR_EVER, bad, engine, reasons};
use crate::support;

const PAGE_BYTES: u64 = 64 << 10;

/// Returns a class that takes what a test requests, one call at a time, so that handles can be counted.
pub(crate) fn greedy(name: &str, takes: &str) -> BackendConfig {
    let mut backend = support::backend(name, "greedy", "GreedyBackend");
    backend.config.push(("takes".into(), takes.into()));
    backend.limits.call_timeout = FOR_EVER;
    backend.limits.lane_stall = FOR_EVER;
    backend.limits.calls_in_flight_max = 1;
    backend
}

/// Makes a greedy class take `n`. Returns `None` if it got them, and the kind of the error otherwise.
pub(crate) fn take(storage: &StorageManager, name: &str, n: u64) -> Option<&'static str> {
    let key = ChunkKey { hi: 1, lo: n };
    let retrieved =
        block_on(storage.get(&support::specs(&[key]), &Tiers::only([name]), Some(&support::promise(1, 1))));
    let reason = reasons(&retrieved)[0];
    (reason != "not_found").then_some(reason)
}

/// The component of `hoarder.wat`, in a separate file.
struct Hoarder {
    directory: tempfile::TempDir,
    backend: BackendConfig,
}

fn hoarder(name: &str, takes: &str, n_pages: u64, n_elements: u64) -> Hoarder {
    let text = include_str!("hoarder.wat")
        .replace("PAGES", &n_pages.to_string())
        .replace("ELEMENTS", &n_elements.to_string())
        .replace("TAKE", takes);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hoarder.wasm");
    std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
    let mut backend = support::patient(BackendConfig::new(name, path, "HoarderBackend"));
    backend.limits.calls_in_flight_max = 1;
    Hoarder { directory, backend }
}

/// Starts a backend and returns why that failed.
fn refusal(backend: BackendConfig) -> String {
    let built = EngineBuilder::new(support::config(vec![backend]), support::metadata()).build_blocking();
    built.unwrap_err().to_string()
}

/// Waits until the one lane has been replaced `n` times, and returns the last reason.
pub(crate) fn replaced(storage: &StorageManager, name: &str, n: u64) -> String {
    support::eventually("the lane is replaced", || support::health(storage, name).lane_restarts == n);
    support::health(storage, name).last_restart.unwrap()
}

fn memory_of(storage: &StorageManager, name: &str) -> u64 {
    support::health(storage, name).guest_memory_bytes
}

#[test]
fn memory_is_limited_over_all_memories_of_a_component() {
    let mut hoarder = hoarder("memories", "memory", 4, 1);
    hoarder.backend.limits.memory_bytes = 16 * PAGE_BYTES;
    let engine = engine(hoarder.backend);
    let storage = engine.storage();
    assert_eq!(memory_of(storage, "memories"), 5 * PAGE_BYTES, "both, as they began");
    assert_eq!(support::in_tier(storage, &support::keys(12), "memories"), 0, "one page beyond");
    assert_eq!(memory_of(storage, "memories"), 5 * PAGE_BYTES);
    assert_eq!(support::in_tier(storage, &support::keys(11), "memories"), 11);
    assert_eq!(memory_of(storage, "memories"), 16 * PAGE_BYTES);
    assert_eq!(support::in_tier(storage, &support::keys(1), "memories"), 0);
    assert_eq!(support::health(storage, "memories").lane_restarts, 0, "refused, not ended");
    drop(hoarder.directory);
}

#[test]
fn a_component_may_begin_with_all_its_memory_and_table_elements_and_with_no_more() {
    let start = |name: &str, n_pages, n_elements| {
        let mut hoarder = hoarder(name, "memory", n_pages, n_elements);
        hoarder.backend.limits.memory_bytes = 16 * PAGE_BYTES;
        hoarder.backend.limits.table_elements = 100;
        hoarder
    };
    let at = start("begins-at", 15, 90);
    let engine = engine(at.backend);
    assert_eq!(memory_of(engine.storage(), "begins-at"), 16 * PAGE_BYTES);
    let cause = refusal(start("begins-large", 16, 1).backend);
    assert!(cause.contains("from the beginning on, more than limits.memory; raise limits.memory"), "{cause}");
    let cause = refusal(start("begins-wide", 1, 91).backend);
    assert!(cause.contains("limits.table_elements (100)"), "{cause}");
}

#[test]
fn an_index_of_a_million_and_a_half_chunks_fits_the_default_memory_and_one_that_does_not_is_full() {
    let backend = greedy("index", "index");
    assert_eq!(backend.limits.memory_bytes, 64 << 20);
    let engine = engine(backend);
    assert_eq!(take(engine.storage(), "index", 1_500_000), None);
    // The memory of the first instance is free again.
    assert_eq!(take(engine.storage(), "index", 2_000_000), Some("no_space"));
    assert_eq!(take(engine.storage(), "index", 1_500_000), None);
    assert_eq!(support::health(engine.storage(), "index").lane_restarts, 0);
}

#[test]
fn table_elements_are_limited_over_all_tables_of_a_component() {
    let mut hoarder = hoarder("tables", "table", 1, 10);
    hoarder.backend.limits.table_elements = 60;
    let engine = engine(hoarder.backend);
    let storage = engine.storage();
    assert_eq!(support::in_tier(storage, &support::keys(41), "tables"), 0);
    assert_eq!(support::in_tier(storage, &support::keys(40), "tables"), 40);
    assert_eq!(support::in_tier(storage, &support::keys(1), "tables"), 0);
    assert_eq!(support::health(storage, "tables").lane_restarts, 0, "refused, not ended");
    drop(hoarder.directory);
}

#[test]
fn a_guest_that_is_refused_memory_can_say_so() {
    let mut backend = greedy("pages", "memory");
    backend.limits.memory_bytes = 4 << 20;
    let engine = engine(backend);
    let storage = engine.storage();
    let n_free = ((4 << 20) - memory_of(storage, "pages")) / PAGE_BYTES;
    assert_eq!(take(storage, "pages", n_free + 1), Some("no_space"));
    assert_eq!(take(storage, "pages", n_free), None);
    assert_eq!(memory_of(storage, "pages"), 4 << 20);
    assert_eq!(take(storage, "pages", 1), Some("no_space"));
    assert_eq!(support::health(storage, "pages").lane_restarts, 0);
}

/// Takes `n` in a fresh instance and expects it to work, then `n + 1` in another and expects a trap that names the
/// limit.
fn assert_traps_beyond(set: impl Fn(&str) -> BackendConfig, n: u64, limit: &str) {
    let (at, beyond) = (format!("{limit}-{n}-at"), format!("{limit}-{n}-beyond"));
    let working = engine(set(&at));
    assert_eq!(take(working.storage(), &at, n), None, "{at}");
    assert_eq!(support::health(working.storage(), &at).lane_restarts, 0);
    let trapping = engine(set(&beyond));
    let storage = trapping.storage();
    assert_eq!(take(storage, &beyond, n + 1), Some("trap"), "{beyond}");
    let reason = replaced(storage, &beyond, 1);
    assert!(reason.contains(&format!("limits.{limit} is reached")), "{reason}");
    assert_eq!(take(storage, &beyond, 1), None, "the next instance works");
    support::assert_nothing_leaks(storage);
}

#[test]
fn handles_of_the_hosts_resources_are_limited() {
    let set = |name: &str| {
        let mut backend = greedy(name, "pollables");
        backend.limits.handles_max = 64;
        backend
    };
    // For each, a timer and a task that waits for it.
    assert_traps_beyond(set, 32, "handles_max");
}

#[test]
fn polls_of_the_same_again_and_again_are_limited() {
    let set = |name: &str| {
        let mut backend = greedy(name, "polls");
        backend.limits.handles_max = 64;
        backend
    };
    assert_traps_beyond(set, 64, "handles_max");
}

#[test]
fn streams_are_limited() {
    let set = |name: &str| {
        let mut backend = greedy(name, "streams");
        backend.limits.handles_max = 64;
        backend
    };
    // For each, two ends and the stream between them. They may also use the room for one call, except for its task.
    assert_traps_beyond(set, (64 + HANDLES_PER_CALL as u64) / 3 - 1, "handles_max");
}

#[test]
fn handles_of_a_guests_own_resources_are_limited() {
    let mut hoarder = hoarder("objects", "objects", 1, 1);
    hoarder.backend.limits.handles_max = 64;
    let engine = engine(hoarder.backend);
    let storage = engine.storage();
    // The first object, and the handles that the call itself holds.
    let n_max = 64 + HANDLES_PER_CALL as u64 - 3;
    assert_eq!(support::in_tier(storage, &support::keys(n_max), "objects"), n_max as usize);
    assert_eq!(support::in_tier(storage, &support::keys(1), "objects"), 0);
    let reason = replaced(storage, "objects", 1);
    assert!(reason.contains("limits.handles_max is reached"), "{reason}");
    assert_eq!(support::in_tier(storage, &support::keys(n_max), "objects"), n_max as usize, "a new instance");
}

#[test]
fn calls_in_flight_have_handles_of_their_own() {
    const CALLS: usize = 256;
    let mut backend = bad("crowd", "SlowMemory", &[("ms", "100")]);
    backend.limits.call_timeout = FOR_EVER;
    backend.limits.calls_in_flight_max = CALLS;
    backend.limits.handles_max = 64;
    let config = support::config(vec![backend]);
    let pool_size_bytes = (CALLS as u64 + 16) * 4096;
    let engine = support::engine(Config { pool_size_bytes, local_cpu: false, ..config });
    let storage = engine.storage();
    let specs = support::specs(&support::keys(1));
    support::put_in(storage, &support::keys(1), "crowd");
    let plan = support::promise(1, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let calls = (0..CALLS).map(|_| storage.get(&specs, &Tiers::All, Some(&plan)));
    let retrieved = runtime.block_on(futures::future::join_all(calls));
    for retrieved in &retrieved {
        assert_eq!(retrieved.chunks.len(), 1, "{:?}", retrieved.misses);
    }
    assert_eq!(support::health(storage, "crowd").lane_restarts, 0);
}

#[test]
fn bytes_from_guest_to_host_are_limited_in_each_call() {
    let set = |name: &str| {
        let mut backend = greedy(name, "line");
        backend.limits.hostcall_bytes = 1 << 20;
        backend
    };
    assert_traps_beyond(set, 1 << 20, "hostcall_bytes");
}

#[test]
fn by_default_a_call_carries_sixteen_mebibytes_and_no_more() {
    let set = |name: &str| {
        let mut backend = greedy(name, "line");
        backend.limits.memory_bytes = 256 << 20;
        backend
    };
    assert_traps_beyond(set, 16 << 20, "hostcall_bytes");
}

#[test]
fn bytes_of_an_answer_are_limited() {
    let mut backend = greedy("answers", "answer");
    backend.limits.hostcall_bytes = 1 << 20;
    let engine = engine(backend);
    let storage = engine.storage();
    // The list takes some of it.
    assert_eq!(take(storage, "answers", (1 << 20) - 1024), Some("other"));
    assert_eq!(support::health(storage, "answers").lane_restarts, 0);
    assert_eq!(take(storage, "answers", 1 << 20), Some("trap"));
    assert!(replaced(storage, "answers", 1).contains("limits.hostcall_bytes is reached"));
}

#[test]
fn bytes_from_host_to_guest_are_limited_in_each_call() {
    const LIMIT: u64 = 1 << 20;
    let mut backend = greedy("reads", "read");
    backend.limits.hostcall_bytes = LIMIT;
    let config = Config { pool_size_bytes: 32 << 20, local_cpu: false, ..support::config(vec![backend]) };
    let engine = support::engine(config);
    let storage = engine.storage();
    let put = |n: u64| {
        let spec = ChunkSpec { key: ChunkKey { hi: 1, lo: n }, size_bytes: 2 << 20 };
        let allocation = block_on(storage.allocate(&[spec])).unwrap();
        block_on(storage.put(allocation, &Tiers::All));
        block_on(storage.flush()).unwrap();
        support::counted(storage, "reads")
    };
    let counts = put(LIMIT);
    assert_eq!((counts.puts, counts.errors.len()), (1, 0));
    let counts = put(LIMIT + 1);
    assert_eq!((counts.puts, counts.n_errors(Operation::Put, "invalid_argument")), (1, 1));
    assert_eq!(counts.lane_restarts, 0, "an error, not a trap");
}

#[test]
fn random_bytes_are_limited_in_each_call() {
    let set = |name: &str| {
        let mut backend = greedy(name, "random-0.2");
        backend.limits.random_bytes = 100;
        backend
    };
    assert_traps_beyond(set, 100, "random_bytes");
    // WASI 0.3 may deliver fewer than asked for.
    let mut backend = greedy("random-newer", "random-0.3");
    backend.limits.random_bytes = 100;
    let engine = engine(backend);
    assert_eq!(take(engine.storage(), "random-newer", 100), None);
    assert_eq!(take(engine.storage(), "random-newer", 101), Some("other"));
    assert_eq!(support::health(engine.storage(), "random-newer").lane_restarts, 0);
}

/// Returns how many lines the host reports as dropped.
fn told(log: &support::Log, name: &str) -> u64 {
    let lines = log.lines_with(&format!("backend={name} n_dropped="));
    let number = |line: &String| line.rsplit_once("n_dropped=").unwrap().1.parse::<u64>().unwrap();
    lines.iter().map(number).sum()
}

#[test]
fn log_lines_beyond_the_limit_are_dropped_counted_and_told() {
    const FLOOD: u64 = 20_000;
    let log = support::log();
    let mut backend = greedy("talks", "lines");
    backend.limits.log_lines_per_s = 100;
    let engine = engine(backend);
    let storage = engine.storage();
    assert_eq!(take(storage, "talks", 100), None);
    let heard = log.heard("talks");
    assert_eq!(heard.len(), 100);
    assert_eq!((&*heard[0], &*heard[99]), ("line 0", "line 99"));
    let dropped = || support::health(storage, "talks").log_lines_dropped;
    assert_eq!(dropped(), 0);
    // Passing all of these would take 200 seconds.
    assert_eq!(take(storage, "talks", FLOOD), None, "the guest notices nothing");
    assert!(dropped() > 0);
    assert_eq!(log.heard("talks").len() as u64 + dropped(), 100 + FLOOD);
    support::eventually("lines pass again", || {
        let before = log.heard("talks").len();
        assert_eq!(take(storage, "talks", 1), None);
        log.heard("talks").len() > before
    });
    assert_eq!(told(&log, "talks"), dropped());
}

#[test]
fn log_bytes_beyond_the_limit_are_dropped_and_counted() {
    const LINES: u64 = 60;
    let log = support::log();
    let mut backend = greedy("shouts", "line");
    backend.limits.log_bytes_per_s = LOG_BYTES_MAX as u64;
    let engine = engine(backend);
    let storage = engine.storage();
    // Passing all of these would take a minute.
    for _ in 0..LINES {
        assert_eq!(take(storage, "shouts", LOG_BYTES_MAX as u64), None);
    }
    let heard = log.heard("shouts");
    assert_eq!(heard[0].len(), LOG_BYTES_MAX, "the first one passes");
    let dropped = support::health(storage, "shouts").log_lines_dropped;
    assert!(dropped > 0);
    assert_eq!(heard.len() as u64 + dropped, LINES);
}

#[test]
fn all_lanes_share_one_log_limit() {
    const LANES: usize = 16;
    let log = support::log();
    let mut backend = greedy("choir", "lines");
    backend.limits.log_lines_per_s = 1;
    backend.lanes = LANES;
    let engine = engine(backend);
    let storage = engine.storage();
    let keys: Vec<_> = (0..LANES as u64).map(|n| ChunkKey { hi: n, lo: 10 }).collect();
    let (specs, plan) = (support::specs(&keys), support::promise(1, 1));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let calls = specs.chunks(1).map(|spec| storage.get(spec, &Tiers::All, Some(&plan)));
    for retrieved in runtime.block_on(futures::future::join_all(calls)) {
        assert_eq!(reasons(&retrieved), ["not_found"]);
    }
    let heard = log.heard("choir").len();
    // With separate limits, a line of each lane would have passed.
    assert!((1..LANES).contains(&heard), "{heard}");
    let dropped = support::health(storage, "choir").log_lines_dropped;
    assert_eq!(heard as u64 + dropped, 10 * LANES as u64);
}

#[test]
fn an_instance_inherits_the_log_limit_and_the_count_of_the_one_before() {
    const LINES: u64 = 1000;
    let log = support::log();
    let mut backend = greedy("dies-talking", "lines-then-abort");
    backend.limits.log_lines_per_s = 1;
    let engine = engine(backend);
    let storage = engine.storage();
    for n in 1..=2 {
        assert_eq!(take(storage, "dies-talking", LINES), Some("trap"));
        replaced(storage, "dies-talking", n);
        let dropped = support::health(storage, "dies-talking").log_lines_dropped;
        assert!(dropped > 0);
        assert_eq!(log.heard("dies-talking").len() as u64 + dropped, n * LINES);
    }
}

#[test]
fn standard_error_keeps_its_end_and_never_stops_a_guest() {
    let engine = engine(greedy("mutters", "stderr-then-abort"));
    let storage = engine.storage();
    let before = memory_of(storage, "mutters");
    assert_eq!(take(storage, "mutters", 2000), Some("trap"), "2 MB later");
    let reason = replaced(storage, "mutters", 1);
    assert!(reason.contains("its last output: 1996 / 1997 / 1998 / 1999"), "{reason}");
    support::eventually("the new instance is ready", || memory_of(storage, "mutters") == before);
}

#[test]
fn bytes_in_flight_are_limited_and_one_call_is_always_allowed() {
    const CALL_BYTES: u64 = (support::CHUNK_BYTES + TRAILER_BYTES) as u64;
    for (name, limit, expected) in [
        ("bytes-at", 2 * CALL_BYTES, ["busy", "timeout", "timeout"]),
        ("bytes-below", 2 * CALL_BYTES - 1, ["busy", "busy", "timeout"]),
        ("bytes-one", 1, ["busy", "busy", "timeout"]),
    ] {
        let mut backend = bad(name, "HangBackend", &[]);
        backend.limits.bytes_in_flight = limit;
        let engine = engine(backend);
        let storage = engine.storage();
        // Three chunks: a shared chunk would be fetched once.
        let (plan, specs) = (support::promise(1, 1), support::specs(&support::keys(3)));
        let get = |n: usize| storage.get(&specs[n..=n], &Tiers::All, Some(&plan));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (a, b, c) = runtime.block_on(async { tokio::join!(get(0), get(1), get(2)) });
        let mut found: Vec<_> = [a, b, c].iter().flat_map(reasons).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{name}");
        // Calls that move nothing are not limited.
        assert_eq!(support::in_tier(storage, &support::keys(1), name), 0);
        assert!(support::counted(storage, name).n_errors(Operation::Contains, "busy") == 0);
        support::assert_nothing_leaks(storage);
    }
}

#[test]
fn a_put_beyond_the_bytes_in_flight_is_lost_and_counted() {
    let mut backend = bad("bytes-put", "HangBackend", &[]);
    backend.limits.bytes_in_flight = 1;
    backend.limits.call_timeout = FOR_EVER;
    let engine = engine(backend);
    let storage = engine.storage();
    let (plan, specs) = (support::promise(1, 1), support::specs(&support::keys(1)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let put = async {
            // Once the control thread has answered this, the retrieval's call has begun.
            storage.remove(&[support::key(9)], &Tiers::All).await.unwrap();
            let allocation = storage.allocate(&support::specs(&[support::key(7)])).await.unwrap();
            storage.put(allocation, &Tiers::All).await;
            storage.flush().await.unwrap();
        };
        // The retrieval goes first, and is dropped when the put has been refused.
        tokio::select! {
            biased;
            retrieved = storage.get(&specs, &Tiers::All, Some(&plan)) => panic!("answered: {retrieved:?}"),
            () = put => {}
        }
    });
    let counts = support::counted(storage, "bytes-put");
    assert_eq!((counts.n_errors(Operation::Put, "busy"), counts.drops["lost"], counts.puts), (1, 1, 0));
    // The retrieval's call ends in the background.
    support::eventually("there is room again", || {
        support::put_in(storage, &[support::key(8)], "bytes-put");
        support::counted(storage, "bytes-put").puts == 1
    });
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_components_file_may_have_just_so_many_bytes() {
    let size = std::fs::metadata(support::component("greedy")).unwrap().len();
    let sized = |name: &str, limit: u64| {
        let mut backend = greedy(name, "memory");
        backend.limits.component_bytes = limit;
        backend
    };
    let engine = engine(sized("file-at", size));
    assert_eq!(support::health(engine.storage(), "file-at").down, None);
    let cause = refusal(sized("file-beyond", size - 1));
    let expected = format!("has {size} bytes, more than the {} of limits.component_bytes", size - 1);
    assert!(cause.contains(&expected), "{cause}");
}

/// Builds an engine over a class that is late in one method.
fn late(name: &str, method: &str, delay: Duration, set: fn(&mut BackendConfig)) -> anyhow::Result<Engine> {
    let ms = delay.as_millis().to_string();
    let mut backend = bad(name, "LateBackend", &[("in", method), ("ms", &ms)]);
    backend.limits.call_timeout = FOR_EVER;
    set(&mut backend);
    let config = Config { local_cpu: false, ..support::config(vec![backend]) };
    Ok(EngineBuilder::new(config, support::metadata()).build_blocking()?)
}

#[test]
fn what_comes_within_its_time_counts_and_what_does_not_is_given_up() {
    const SOON: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_hours(1);
    let in_time = |name: &str, method: &str| late(name, method, SOON, |_| {}).unwrap();

    assert_eq!(support::health(in_time("open-soon", "open").storage(), "open-soon").down, None);
    let error = late("open-never", "open", NEVER, |backend| backend.limits.open_timeout = support::EXPIRES);
    let cause = error.unwrap_err().to_string();
    assert!(cause.contains("limits.open_timeout_ms"), "{cause}");

    let engine = in_time("get-soon", "get");
    assert_eq!(take(engine.storage(), "get-soon", 1), None);
    let engine = late("get-never", "get", NEVER, |backend| {
        backend.limits.call_timeout = support::EXPIRES;
    });
    let engine = engine.unwrap();
    assert_eq!(take(engine.storage(), "get-never", 1), Some("timeout"));
    assert_eq!(support::health(engine.storage(), "get-never").abandoned_calls, 1);

    let engine =
        late("close-soon", "close", SOON, |backend| backend.limits.close_timeout = FOR_EVER).unwrap();
    engine.blocking().close().unwrap();
    let engine = late("close-never", "close", NEVER, |backend| {
        backend.limits.close_timeout = support::EXPIRES;
    });
    let failed = engine.unwrap().blocking().close().unwrap_err().failed;
    assert_eq!(failed[0].error.kind(), "timeout", "{failed:?}");
}
