//! Answers that break the contract, handles used after their call, memory and log lines beyond the limits: all are
//! counted, and none affects other backends.

use kvtier::{Config, Lookup, Missing, Operation, Tiers, block_on};

use crate::lanes::{FOR_EVER, bad, engine, reasons};
use crate::support;

/// Stores two chunks in a class whose answers are wrong, and checks that both are misses for this reason, and that none
/// of their bytes reach the caller or the hot cache.
fn never_exposed(class_name: &str, settings: &[(&str, &str)], plan: Option<&Lookup>, reason: &str) {
    let name = format!("answers-{class_name}-{}", settings.len());
    let engine = support::engine(support::config(vec![bad(&name, class_name, settings)]));
    let storage = engine.storage();
    let keys = support::keys(2);
    support::put_in(storage, &keys, &name);
    let retrieved = block_on(storage.get(&support::specs(&keys), &Tiers::All, plan));
    assert_eq!(retrieved.chunks.len(), 0, "{class_name}");
    assert_eq!(reasons(&retrieved), [reason; 2], "{class_name}");
    let counts = support::counted(storage, &name);
    let misses: Vec<_> = counts.misses.into_iter().collect();
    assert_eq!(misses, [(reason, 2)], "{class_name}");
    assert_eq!(counts.hits, 0, "{class_name}");
    assert_eq!(storage.cpu().contains_run(&keys), 0, "{class_name}: never promoted");
    assert_eq!(support::health(storage, &name).lane_restarts, 0, "{class_name}");
    support::assert_nothing_leaks(storage);
    engine.blocking().close().unwrap();
}

#[test]
fn wrong_answers_are_counted_misses_and_never_exposed() {
    let plan = support::promise(1, 2);
    never_exposed("WrongBytesBackend", &[], None, "check_failed");
    never_exposed("SwappedBackend", &[], None, "other_key");
    never_exposed("ShortBackend", &[], None, "wrong_length");
    never_exposed("OverclaimBackend", &[], Some(&plan), "wrong_length");
    never_exposed("WrongCountBackend", &[], None, "bad_answer");
    never_exposed("WrongCountBackend", &[("results", "long")], None, "bad_answer");
    never_exposed("FailBackend", &[], None, "other");
}

/// Prints the peak of this process's memory, which is meaningful if the test runs alone.
#[test]
fn very_many_results_are_refused_by_their_number() {
    let mut blocking = support::backend("flood-blocking", "blocking", "BlockingMemoryBackend");
    blocking.config.push(("flood".into(), "true".into()));
    let asynchronous = bad("flood", "WrongCountBackend", &[("results", "flood")]);
    for mut backend in [asynchronous, blocking] {
        backend.limits.call_timeout = FOR_EVER;
        let name = backend.name.clone();
        let engine = engine(backend);
        let storage = engine.storage();
        let keys = support::keys(3);
        support::put_in(storage, &keys, &name);
        assert!(support::counted(storage, &name).n_errors(Operation::Put, "bad_answer") > 0, "{name}");
        let plan = support::promise(1, 3);
        let retrieved = block_on(storage.get(&support::specs(&keys), &Tiers::All, Some(&plan)));
        for missed in &retrieved.misses {
            let told = missed.miss.to_string();
            assert!(
                told.contains("`get` returned 400000 results for 3 keys; return one for each key"),
                "{name}: {told}"
            );
        }
        assert_eq!(retrieved.misses.len(), 3);
        assert_eq!(support::health(storage, &name).lane_restarts, 0, "{name}");
        support::assert_nothing_leaks(storage);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{:?}", status.lines().find(|line| line.starts_with("VmHWM")));
}

#[test]
fn a_count_beyond_the_keys_asked_for_is_an_error_not_a_prefix() {
    let engine = engine(bad("overcount", "OverclaimBackend", &[]));
    let storage = engine.storage();
    assert_eq!(support::in_tier(storage, &support::keys(3), "overcount"), 0);
    assert_eq!(support::counted(storage, "overcount").n_errors(Operation::Contains, "bad_answer"), 1);
}

#[test]
fn puts_answered_with_a_wrong_number_of_results_are_counted_as_lost() {
    for (name, settings) in [("few", vec![]), ("many", vec![("results", "long")])] {
        let engine = engine(bad(name, "WrongCountBackend", &settings));
        support::put_in(engine.storage(), &support::keys(1), name);
        let counts = support::counted(engine.storage(), name);
        assert_eq!((counts.puts, counts.drops["lost"]), (0, 1), "{name}");
        assert_eq!(counts.n_errors(Operation::Put, "bad_answer"), 1, "{name}");
    }
}

#[test]
fn a_second_writer_into_one_buffer_is_refused_and_the_first_delivers() {
    let log = support::log();
    let engine = engine(bad("reentrant", "ReentrantWrites", &[]));
    let storage = engine.storage();
    let keys = support::keys(2);
    support::put_in(storage, &keys, "reentrant");
    let retrieved = support::get(storage, &keys);
    assert_eq!(support::served(&retrieved), [1, 1]);
    drop(retrieved);
    let heard = log.heard("reentrant");
    let refused = heard
        .iter()
        .filter(|line| line.contains("second write: Err(Error::InvalidArgument(\"another transfer"));
    assert_eq!(refused.count(), 2, "{heard:#?}");
    support::assert_nothing_leaks(storage);
}

#[test]
fn chunks_move_by_stream_in_both_directions() {
    let streams = bad("streams", "StreamBackend", &[]);
    let config = Config { pool_size_bytes: 64 << 20, local_cpu: false, ..support::config(vec![streams]) };
    let engine = support::engine(config);
    let storage = engine.storage();
    // Larger than one step of a stream, and not a multiple of any block size.
    let sizes = [1, 4096, (300 << 10) + 7, (2 << 20) + 1];
    let specs: Vec<kvtier::ChunkSpec> = support::keys(4)
        .into_iter()
        .zip(sizes)
        .map(|(key, size_bytes)| kvtier::ChunkSpec { key, size_bytes })
        .collect();
    let mut allocation = block_on(storage.allocate(&specs)).unwrap();
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    block_on(storage.put(allocation, &Tiers::All));
    block_on(storage.flush()).unwrap();
    let found = block_on(storage.get(&specs, &Tiers::All, None));
    assert_eq!(support::served(&found), [1; 4], "{:?}", found.misses);
    for (chunk, spec) in found.chunks.iter().zip(&specs) {
        assert_eq!(chunk.len(), spec.size_bytes);
        kvtier_cli::content::verify(spec.key, chunk).unwrap();
    }
    drop(found);
    support::assert_nothing_leaks(storage);
}

#[test]
fn handles_kept_after_their_call_are_revoked() {
    let log = support::log();
    let engine = engine(bad("keeper", "KeepBackend", &[]));
    let storage = engine.storage();
    let keys = support::keys(2);
    support::put_in(storage, &keys, "keeper");
    let first = support::get(storage, &keys);
    assert_eq!(support::served(&first), [1, 1]);
    // Uses the handles kept from the put and the first get while others use their memory.
    assert_eq!(support::in_tier(storage, &keys, "keeper"), 2);
    let second = support::get(storage, &keys);
    assert_eq!(support::served(&second), [1, 1]);
    for chunk in first.chunks.iter().chain(&second.chunks) {
        kvtier_cli::content::verify(chunk.key(), chunk).unwrap();
    }
    drop((first, second));
    // The guest still has all handles, but none of the memory.
    support::assert_nothing_leaks(storage);
    let heard = log.heard("keeper");
    let used: Vec<_> = heard.iter().filter(|line| line.starts_with("kept ")).collect();
    assert!(used.iter().any(|line| line.starts_with("kept sources")), "{heard:#?}");
    assert!(used.iter().any(|line| line.starts_with("kept sinks")), "{heard:#?}");
    assert!(
        used.iter().all(|line| line.contains("Err(Error::InvalidArgument(\"the call has ended")),
        "{used:#?}"
    );
    assert_eq!(support::health(storage, "keeper").lane_restarts, 0);
}

#[test]
fn a_greedy_guest_gets_no_more_than_its_memory_and_its_neighbour_notices_nothing() {
    const LIMIT: u64 = 8 << 20;
    let mut greedy = bad("greedy", "GreedyBackend", &[]);
    greedy.limits.memory_bytes = LIMIT;
    greedy.limits.call_timeout = FOR_EVER;
    let neighbour = support::backend("modest", "memory", "MemoryBackend");
    let engine = support::engine(Config { local_cpu: false, ..support::config(vec![greedy, neighbour]) });
    let storage = engine.storage();
    let keys = support::keys(3);
    support::put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(support::counted(storage, "greedy").puts, 0);
    assert!(support::counted(storage, "greedy").n_errors(Operation::Put, "no_space") > 0);
    let health = support::health(storage, "greedy");
    assert!((LIMIT / 2..=LIMIT).contains(&health.guest_memory_bytes), "{health:?}");
    assert_eq!(support::served(&support::get(storage, &keys)), [2; 3]);
    assert_eq!(support::health(storage, "modest").lane_restarts, 0);
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_guest_that_dies_for_want_of_memory_is_said_to() {
    let mut backend = support::backend("starved", "plain", "AlphaBackend");
    backend.limits.memory_bytes = 2 << 20;
    let config = Config { pool_size_bytes: 32 << 20, ..support::config(vec![backend]) };
    let engine = support::engine(config);
    let storage = engine.storage();
    let large = |key| kvtier::ChunkSpec { key, size_bytes: 1 << 20 };
    let specs: Vec<_> = support::keys(6).into_iter().map(large).collect();
    let allocation = block_on(storage.allocate(&specs)).unwrap();
    block_on(storage.put(allocation, &Tiers::All));
    block_on(storage.flush()).unwrap();
    let reason = support::health(storage, "starved").last_restart.unwrap();
    assert!(reason.starts_with("trapped: ") && reason.contains("limits.memory (2 MiB)"), "{reason}");
}

#[test]
fn a_flood_of_log_lines_arrives_cut_and_escaped() {
    let log = support::log();
    let mut backend = bad("flood", "LogFloodBackend", &[("lines", "40")]);
    backend.limits.call_timeout = FOR_EVER;
    let engine = engine(backend);
    assert_eq!(support::in_tier(engine.storage(), &support::keys(1), "flood"), 0);
    let heard = log.heard("flood");
    assert_eq!(heard.len(), 40, "{:?}", heard.first());
    for (number, line) in heard.iter().enumerate() {
        assert!(line.starts_with(&format!("line {number} of the flood\\u{{1b}}[31m\\nxxx")), "{line:.60}");
        assert!(line.len() < 8192 + 64 && !line.contains('\u{1b}'), "{}", line.len());
    }
}
