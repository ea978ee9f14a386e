//! Replays through the command's own code, over the real engine: hit ratios against an independent simulator, wrong
//! bytes, damaged files, chunks of a model's real size.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Result;
use clap::Parser as _;
use kvtier::tier::{Pinning, Sealer, Sinks, Sources, Tier, TierError, TierFuture};
use kvtier::{ChunkKey, EngineBuilder};
use kvtier_cli::args::{Cli, Command, ReplayArgs};
use kvtier_cli::commands::replay::{self as command, Ready};
use kvtier_cli::engine::{self, EngineChain};
use kvtier_cli::generate::{self, Generator, Workload};
use kvtier_cli::replay::{Fault, FaultyBackends, WrongBytes};
use kvtier_cli::trace::Request;
use kvtier_tests::simulator::{Policy, Retrieval, Simulator};
use serde_json::Value;

use crate::support::{self, CHUNK_BYTES};

/// Parses `kvtier replay --json` with further words, none of which contains a space.
fn replay_args(trace: &Path, words: &str) -> ReplayArgs {
    let line = format!("kvtier replay --json {} {words}", trace.display());
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        Command::Replay(args) => args,
        other => panic!("{other:?}"),
    }
}

/// Replays like the command, and returns its JSON object, whatever it judges of the backends.
fn replay(trace: &Path, words: &str) -> Result<Value> {
    let args = replay_args(trace, words);
    let mut out = Vec::new();
    let replayed = command::replay(&args, "kvtier replay", &mut out, || engine::open(&args, &|_| {}));
    if let Err(error) = replayed
        && !error.is::<FaultyBackends>()
    {
        return Err(error);
    }
    Ok(serde_json::from_slice(&out)?)
}

fn requests(workload: &Workload, n_requests: usize) -> Vec<Request> {
    Generator::new(workload.clone()).take(n_requests).collect()
}

fn write_trace(folder: &Path, requests: &[Request]) -> PathBuf {
    let path = folder.join("trace.jsonl");
    let mut text = Vec::new();
    for request in requests {
        generate::write_line(&mut text, request).unwrap();
    }
    fs::write(&path, text).unwrap();
    path
}

/// Writes a configuration with one backend, called `disk`, in `folder`, and returns its path.
fn write_config(folder: &Path, component: &str, class_name: &str, settings: &[&str]) -> PathBuf {
    let path = folder.join("disk.yaml");
    let module_path = support::component(component);
    let settings = settings.join("\n    ");
    let limits = support::patient_lines("    ");
    let text = format!(
        "chunk_size: 256
max_local_cpu_size: 1
lookup_timeout_ms: 600000
blocking_timeout_secs: 600
external_backends: disk
extra_config:
  external_backend.disk:
    module_path: '{}'
    class_name: {class_name}
    {settings}
{limits}",
        module_path.display()
    );
    fs::write(&path, text).unwrap();
    path
}

/// Writes a configuration with the `fs` backend, which keeps its files under `folder`.
fn disk_config(folder: &Path, capacity: &str) -> PathBuf {
    fs::create_dir_all(folder.join("data")).unwrap();
    let capacity = format!("config.capacity: {capacity}");
    let settings = ["config.root: /data", &capacity, "allow.fs: ['data:/data:rw']"];
    write_config(folder, "fs", "FsBackend", &settings)
}

#[test]
fn hits_and_evictions_are_exactly_the_simulators_for_every_policy_and_capacity() {
    let folder = tempfile::tempdir().unwrap();
    let requests = requests(&Workload { seed: 5, sessions: 6, ..Workload::default() }, 400);
    let trace = write_trace(folder.path(), &requests);
    let names = ["fifo", "lru", "lfu", "mru", "s3-fifo", "sieve"];
    assert_eq!(names.len(), kvtier::EvictionPolicy::ALL.len());
    for (policy, name) in Policy::ALL.into_iter().zip(names) {
        let mut hits = Vec::new();
        for capacity in [1, 7, 40, 150, 600, 100_000] {
            let mut simulator = Simulator::new(policy, capacity, Retrieval::Touches);
            for request in &requests {
                simulator.request(&request.block_ids);
            }
            let expected = simulator.counts();
            let words = format!("--policy {name} --capacity-chunks {capacity} --chunk-bytes 100");
            let found = replay(&trace, &words).unwrap();
            assert_eq!(found["chunks"], expected.chunks);
            for (found, expected) in
                [(&found["hits"]["cpu"], expected.hits), (&found["evictions"], expected.evictions)]
            {
                // Without ranks, a chunk that a request holds during an eviction returns as the newest, which the
                // simulator does not model. Otherwise they behave the same (`cpu/queue_tests.rs` in the host).
                let has_ranks = !matches!(name, "s3-fifo" | "sieve");
                let most = if has_ranks { 0 } else { expected / 500 };
                let found = found.as_u64().unwrap();
                assert!(found.abs_diff(expected) <= most, "{name}, {capacity}: {found}, not {expected}");
            }
            assert_eq!((&found["lost"], &found["stored"]["refused"]), (&0.into(), &0.into()));
            hits.push(expected.hits);
        }
        // The capacities make a difference.
        let distinct: HashSet<u64> = hits.iter().copied().collect();
        assert!(distinct.len() >= 5 && hits.is_sorted(), "{name}: {hits:?}");
    }
}

/// Claims to have every chunk that was put, and serves wrong bytes under a valid seal.
struct Forger {
    sealer: Sealer,
    keys: Mutex<HashSet<ChunkKey>>,
}

fn ready<'a, T: Send + 'a>(answer: T) -> TierFuture<'a, Result<T, TierError>> {
    Box::pin(async { Ok(answer) })
}

impl Tier for Forger {
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        _: Pinning,
        _: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>> {
        let known = self.keys.lock().unwrap();
        ready(keys.iter().take_while(|key| known.contains(key)).count())
    }

    fn put(
        &self,
        keys: Arc<[ChunkKey]>,
        _: Sources,
        _: Instant,
    ) -> TierFuture<'_, Result<Vec<Result<(), TierError>>, TierError>> {
        self.keys.lock().unwrap().extend(keys.iter());
        ready(vec![Ok(()); keys.len()])
    }

    fn get(
        &self,
        keys: Arc<[ChunkKey]>,
        into: Sinks,
        _: Instant,
    ) -> TierFuture<'_, Result<Vec<Result<Option<u64>, TierError>>, TierError>> {
        let forge = |(index, key): (usize, &ChunkKey)| {
            let mut payload = vec![0; into.capacity(index).unwrap() - kvtier::tier::TRAILER_BYTES];
            kvtier_cli::content::fill(*key, &mut payload);
            payload[1_000] ^= 1;
            let trailer = self.sealer.seal(*key, &payload);
            into.lease(index).unwrap().write(0, &[&payload[..], &trailer[..]].concat()).unwrap();
            Ok(into.capacity(index).map(|capacity| capacity as u64))
        };
        ready(keys.iter().enumerate().map(forge).collect())
    }

    fn pin(&self, keys: Arc<[ChunkKey]>, _: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        ready(keys.len())
    }

    fn unpin(&self, keys: Arc<[ChunkKey]>, _: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        ready(keys.len())
    }

    fn remove(&self, _: Arc<[ChunkKey]>, _: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        ready(0)
    }

    fn close(&self, _: Instant) -> TierFuture<'_, Result<(), TierError>> {
        ready(())
    }
}

#[test]
fn wrong_bytes_under_a_valid_seal_end_the_replay_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let request =
        |ids: &[u64]| Request { timestamp_ms: 0, input_length: 1, output_length: 1, block_ids: ids.to_vec() };
    // Room for three chunks: those of the second request leave those of the first only in the other tier.
    let trace = write_trace(folder.path(), &[request(&[1, 2]), request(&[3, 4, 5]), request(&[1, 2])]);
    let args = replay_args(&trace, "");
    let mut config = support::config(Vec::new());
    config.pool_size_bytes = 3 * 4096;
    let metadata = support::metadata();
    let sealer = Sealer::checksum(kvtier::Namespace::new(&metadata));
    let forger = Forger { sealer, keys: Mutex::default() };
    let built =
        EngineBuilder::new(config, metadata).tier("forger", Arc::new(forger)).build_blocking().unwrap();

    let mut out = Vec::new();
    let chain = EngineChain::new(built.clone(), CHUNK_BYTES);
    let ready = Ready { chain, chunk_bytes: CHUNK_BYTES, settings: Vec::new(), facts: Vec::new() };
    let error = command::replay(&args, "kvtier replay", &mut out, || Ok(ready)).unwrap_err();
    assert!(out.is_empty(), "no result of a replay that cannot be trusted");
    let wrong: &WrongBytes = error.downcast_ref().unwrap();
    assert_eq!((wrong.tier.as_str(), wrong.request, wrong.chunk_index), ("forger", 3, 0));
    assert!(matches!(wrong.fault, Fault::Content(mismatch) if mismatch.offset == 1_000), "{wrong}");
    let text = kvtier_cli::explain(&error);
    assert!(
        text.starts_with("error: request 3 of the trace failed\n  because: tier `forger` served wrong bytes")
    );
    let prompt = built.prompt(&[0; support::CHUNK_SIZE], &kvtier::Salt::none());
    let closed = built.blocking().allocate(&prompt);
    assert!(closed.is_err(), "the chain is closed");
}

/// Finds the files of the `fs` backend that hold chunks.
fn chunk_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(chunk_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "kv") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn a_flipped_byte_on_disk_is_a_counted_miss_and_never_a_wrong_byte() {
    let folder = tempfile::tempdir().unwrap();
    let requests = requests(&Workload { seed: 2, sessions: 4, ..Workload::default() }, 60);
    let trace = write_trace(folder.path(), &requests);
    let words = format!("--config {} --chunk-bytes 5000", disk_config(folder.path(), "1GiB").display());
    let first = replay(&trace, &words).unwrap();
    assert_eq!(first["errors"]["disk"], Value::Object(serde_json::Map::new()), "{first}");

    let files = chunk_files(&folder.path().join("data"));
    assert_eq!(files.len() as u64, first["stored"]["new"].as_u64().unwrap());
    let damaged = &files[files.len() / 2];
    let mut bytes = fs::read(damaged).unwrap();
    bytes[4_321] ^= 0x40;
    fs::write(damaged, bytes).unwrap();

    // The CPU tier holds every chunk that was read or stored again, so the file is read once.
    let second = replay(&trace, &words).unwrap();
    assert_eq!(second["misses"]["disk"]["check_failed"], 1, "{second}");
    let (hits, lost) = (&second["hits"], second["lost"].as_u64().unwrap());
    let served = hits["cpu"].as_u64().unwrap() + hits["disk"].as_u64().unwrap();
    assert!(lost >= 1 && hits["disk"].as_u64().unwrap() > 0, "{second}");
    assert_eq!(served + lost, second["chunks"].as_u64().unwrap(), "everything else was found and verified");

    let third = replay(&trace, &words).unwrap();
    assert_eq!(third["hit_ratio"], 1.0, "the chunk was stored again: {third}");
}

#[test]
fn a_backend_that_traps_costs_no_hit_of_the_cpu_tier_and_shows_in_the_results() {
    let folder = tempfile::tempdir().unwrap();
    let requests = requests(&Workload { seed: 7, sessions: 4, ..Workload::default() }, 40);
    let trace = write_trace(folder.path(), &requests);
    let config = write_config(folder.path(), "misbehaving", "TrapBackend", &["config.in: put"]);
    let alone = replay(&trace, "").unwrap();
    let found = replay(&trace, &format!("--config {}", config.display())).unwrap();
    assert_eq!((&found["hits"]["cpu"], &found["lost"]), (&alone["hits"]["cpu"], &0.into()), "{found}");
    let of_disk = |what: &str, kind: &str| found[what]["disk"][kind].as_u64().unwrap_or(0);
    assert!(of_disk("errors", "put_trap") > 0 && of_disk("events", "lane_restarted") > 0, "{found}");
    // Every put was lost and counted. Later requests offer the chunks again that the CPU tier still has.
    let n_dropped = of_disk("dropped", "lost") + of_disk("dropped", "breaker_open");
    assert!(n_dropped >= found["stored"]["new"].as_u64().unwrap(), "{found}");
    assert!(of_disk("events", "writing_breaker_opened") > 0 && of_disk("skipped", "writing") > 0, "{found}");
    assert!(
        found["last_causes"]["disk"]["writing"].as_str().is_some_and(|cause| cause.contains("trap")),
        "{found}"
    );
    assert_eq!(found["bytes"]["disk"]["written"], 0, "{found}");
}

#[test]
fn puts_that_a_backend_has_no_space_for_are_refused_and_not_errors() {
    let folder = tempfile::tempdir().unwrap();
    let requests = requests(&Workload { seed: 7, sessions: 2, ..Workload::default() }, 5);
    let trace = write_trace(folder.path(), &requests);
    let config = write_config(folder.path(), "log", "ExternalLogBackend", &[]);
    let found = replay(&trace, &format!("--config {}", config.display())).unwrap();
    let n_refused = found["refused"]["disk"]["no_space"].as_u64().unwrap();
    // A chunk that is offered again while its put waits is not put twice.
    let offered = found["stored"]["new"].as_u64().unwrap()..=found["chunks"].as_u64().unwrap();
    assert!(offered.contains(&n_refused), "{found}");
    assert_eq!(found["errors"]["disk"], serde_json::json!({}), "{found}");
}

#[test]
fn chunks_of_32_mib_move_through_the_disk_without_any_trouble() {
    let folder = tempfile::tempdir().unwrap();
    // Eight prompts that share nothing, sent twice. The second time the CPU tier has only the last prompts.
    let workload = Workload {
        seed: 1,
        sessions: 8,
        system_prompts: 64,
        system_tokens: 4_096,
        message_tokens: 64,
        answer_tokens: 64,
        turns: 1,
    };
    let once = requests(&workload, 8);
    let trace = write_trace(folder.path(), &[once.clone(), once].concat());
    let config = disk_config(folder.path(), "4GiB");
    let found = replay(&trace, &format!("--config {} --model llama-3-8b", config.display())).unwrap();

    assert_eq!(found["chunk_bytes"], 32 << 20);
    let n = |value: &Value| value.as_u64().unwrap();
    let n_distinct = n(&found["stored"]["new"]);
    assert!((56..=80).contains(&n_distinct), "about twice the 32 chunks of the CPU tier: {n_distinct}");
    let (cpu, disk) = (n(&found["hits"]["cpu"]), n(&found["hits"]["disk"]));
    // Every stored chunk comes back, so each chunk is either new or a hit.
    assert_eq!(cpu + disk, n(&found["chunks"]) - n_distinct, "{found}");
    assert!(disk > 4 * cpu, "{cpu} hits by the CPU tier, {disk} by the disk");
    assert_eq!(n(&found["bytes_verified"]), (cpu + disk) * (32 << 20));
    let nothing = Value::Object(serde_json::Map::new());
    assert_eq!((&found["errors"]["cpu"], &found["errors"]["disk"]), (&nothing, &nothing), "{found}");
    assert_eq!(found["misses"]["disk"], nothing, "{found}");
    assert_eq!(
        n(&found["misses"]["cpu"]["not_found"]),
        disk,
        "the CPU tier lacked what the disk served: {found}"
    );
    assert_eq!((n(&found["lost"]), n(&found["stored"]["refused"])), (0, 0));
}

#[test]
fn the_examples_configuration_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/demo.yaml");
    let read = kvtier::Config::from_file_with_env(&path, []).unwrap();
    assert!(read.warnings.is_empty(), "{:?}", read.warnings);
    for backend in &read.config.backends {
        let name = backend.module_path.file_stem().unwrap().to_str().unwrap();
        assert!(support::component(name).exists());
    }
}

/// Runs `kvtier` and returns the JSON object that it prints.
fn reported(words: &[&Path]) -> Value {
    let output = support::kvtier().args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_command_that_reports_has_json() {
    let folder = tempfile::tempdir().unwrap();
    let config = disk_config(folder.path(), "1GiB");
    let (json, component) = (Path::new("--json"), support::component("fs"));
    let inspected = reported(&[Path::new("inspect"), &component, json]);
    assert_eq!(inspected["classes"][0]["name"], "FsBackend", "{inspected}");
    assert_eq!(
        (&inspected["classes"][0]["fulfils"], &inspected["size_bytes"].is_u64()),
        (&true.into(), &true)
    );

    let shown = reported(&[Path::new("config"), &config, json]);
    let disk = &shown["backends"][0];
    assert_eq!((&disk["name"], &disk["loadable"]), (&"disk".into(), &true.into()), "{shown}");
    assert_eq!(disk["digest"], inspected["digest"]);
    assert!(disk["grants"].as_array().unwrap().iter().any(|grant| grant["result"] == "granted"), "{shown}");
    let setting =
        |key: &str| shown["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key);
    assert!(setting("chunk_size").is_some(), "{shown}");

    let compile =
        [Path::new("compile"), Path::new("--cache-dir"), &folder.path().join("cache"), &component, json];
    let compiled = reported(&compile);
    assert_eq!(compiled["components"][0]["digest"], inspected["digest"], "{compiled}");
    assert_eq!(
        (&compiled["components"][0]["cached"], &compiled["failures"]),
        (&false.into(), &Value::Array(vec![]))
    );
    assert_eq!(reported(&compile)["components"][0]["cached"], true);
}

#[test]
fn a_replay_fails_backends_that_break_the_contract_and_strictly_those_that_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    let requests = requests(&Workload { seed: 7, sessions: 3, ..Workload::default() }, 40);
    let trace = write_trace(folder.path(), &requests);
    let exit_code = |class_name: &str, words: &[&str]| {
        let mut settings = vec!["breaker.failures: 0"];
        if class_name == "FailBackend" {
            settings.push("config.in: put");
        }
        let config = write_config(folder.path(), "misbehaving", class_name, &settings);
        let mut command = support::kvtier();
        command.arg("replay").arg(&trace).arg("--config").arg(&config);
        // So small a CPU tier that the backend has to serve.
        let output =
            command.args(["--capacity-chunks", "20", "--chunk-bytes", "512"]).args(words).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains(" verified byte by byte"), "{class_name}: results come first: {output:?}");
        (output.status.code().unwrap(), shown + &String::from_utf8_lossy(&output.stderr))
    };
    for class_name in ["GoodBackend", "PhantomBackend"] {
        assert_eq!(exit_code(class_name, &[]).0, 0, "{class_name}");
    }
    assert_eq!(exit_code("GoodBackend", &["--strict"]).0, 0);
    for class_name in [
        "TrapBackend",
        "PanicBackend",
        "ExitBackend",
        "WrongCountBackend",
        "WrongBytesBackend",
        "HalfBackend",
    ] {
        let (code, shown) = exit_code(class_name, &[]);
        assert_eq!(code, 3, "{class_name}: {shown}");
        assert!(shown.contains("`disk` broke the contract: "), "{class_name}: {shown}");
    }
    assert!(exit_code("TrapBackend", &[]).1.contains("_trap`; the last: the guest trapped: "));
    assert_eq!(exit_code("FailBackend", &[]).0, 0);
    assert_eq!(exit_code("FailBackend", &["--strict"]).0, 3);
}
