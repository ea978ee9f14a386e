//! A chain of three on real servers: CPU tier, Redis, S3. Runs the files of `docs/examples` unchanged, except for the
//! servers' addresses and time limits.

use std::fs;
use std::path::{Path, PathBuf};

use kvtier_cli::generate::{self, Generator, Workload};
use kvtier_servers::redis::{Redis, RedisOptions, available};
use kvtier_servers::s3::{ACCESS_KEY, S3Options, S3Server, SECRET_KEY};
use serde_json::Value;

use crate::support;

/// The capacity of the CPU tier in chunks: few, so that the others have something to serve.
const CAPACITY_CHUNKS: &str = "20";

fn config(redis: &Redis, s3: &S3Server, folder: &Path) -> PathBuf {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/redis-then-s3.yaml");
    let mut text = support::patient_example(&fs::read_to_string(example).unwrap());
    for (from, to) in [
        ("127.0.0.1:6379", redis.addr().to_string()),
        ("http://127.0.0.1:9000", s3.endpoint()),
        ("../../target/kvtier-guests/redis.wasm", support::component("redis").display().to_string()),
        ("../../target/kvtier-guests/s3.wasm", support::component("s3").display().to_string()),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, &to);
    }
    let path = folder.join("redis-then-s3.yaml");
    fs::write(&path, text).unwrap();
    path
}

fn replay(config: &Path, trace: &Path) -> Value {
    let mut replay = support::kvtier();
    replay.args(["replay", "--json", "--capacity-chunks", CAPACITY_CHUNKS]);
    replay.arg(trace).arg("--config").arg(config);
    replay.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    replay.env("XDG_CACHE_HOME", support::compile_cache());
    let output = replay.output().unwrap();
    // The command verified every byte that came back; otherwise it would fail.
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_trace_is_served_by_whichever_store_has_it() {
    if !available("stores::a_trace_is_served_by_whichever_store_has_it") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(RedisOptions::default()).unwrap();
    let s3 =
        S3Server::start(Path::new(env!("CARGO_BIN_EXE_kvtier-s3-server")), &S3Options::default()).unwrap();
    let config = config(&redis, &s3, folder.path());
    let trace = folder.path().join("chats.jsonl");
    let mut text = Vec::new();
    for request in Generator::new(Workload { seed: 5, sessions: 6, ..Workload::default() }).take(60) {
        generate::write_line(&mut text, &request).unwrap();
    }
    fs::write(&trace, text).unwrap();
    let hits = |outcome: &Value, tier: &str| outcome["hits"][tier].as_u64().unwrap();

    let first = replay(&config, &trace);
    assert!(hits(&first, "cpu") > 0 && hits(&first, "redis") > 0, "{first}");
    assert_eq!(hits(&first, "s3"), 0, "Redis comes first, and has all: {first}");

    // A new process, and Redis has lost everything. Chunks that come from S3 are stored in Redis again.
    redis.restart().unwrap();
    let second = replay(&config, &trace);
    assert!(hits(&second, "s3") > 0, "{second}");
    assert_eq!(
        (&second["hit_ratio"], &second["lost"]),
        (&1.0.into(), &0.into()),
        "all of it is in S3: {second}"
    );
}
