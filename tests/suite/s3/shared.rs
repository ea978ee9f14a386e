//! Runs the example with two nodes: its files, except for the server's address and time limits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use kvtier_cli::generate::{self, Generator, Workload};
use kvtier_servers::s3::{ACCESS_KEY, S3Server, SECRET_KEY};
use serde_json::Value;

use super::server;
use crate::support;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/shared-s3")
}

/// Copies a file of the example to a folder, with the server's address and with paths that are valid there.
fn node(name: &str, server: &S3Server, folder: &Path) -> PathBuf {
    let text = fs::read_to_string(example().join(name)).unwrap();
    assert_eq!(text.matches("http://127.0.0.1:9000").count(), 2);
    let text = support::patient_example(&text).replace("http://127.0.0.1:9000", &server.endpoint());
    let module = support::component("s3");
    assert!(text.contains("../../../target/kvtier-guests/s3.wasm"));
    let text = text.replace("../../../target/kvtier-guests/s3.wasm", module.to_str().unwrap());
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn replay(config: &Path, trace: &Path) -> Child {
    let mut replay = support::kvtier();
    replay.args(["replay", "--json", "--config"]).arg(config).arg(trace);
    replay.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    replay.env("XDG_CACHE_HOME", support::compile_cache());
    // As little memory as suffices, because tests run side by side.
    replay.env("LMCACHE_MAX_LOCAL_CPU_SIZE", "0.05");
    replay.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn outcome(replay: Child) -> Value {
    let output = replay.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains(SECRET_KEY) && !errors.contains(ACCESS_KEY), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn one_node_serves_what_the_other_stored() {
    let (server, folder) = (server(), tempfile::tempdir().unwrap());
    let (a, b) = (node("node-a.yaml", &server, folder.path()), node("node-b.yaml", &server, folder.path()));
    let trace = folder.path().join("chats.jsonl");
    let mut text = Vec::new();
    for request in Generator::new(Workload { seed: 3, sessions: 4, ..Workload::default() }).take(40) {
        generate::write_line(&mut text, &request).unwrap();
    }
    fs::write(&trace, text).unwrap();

    let first = outcome(replay(&a, &trace));
    assert_eq!(first["hits"]["s3"], 0, "{first}");
    let n_objects = server.objects().unwrap().len() as u64;
    assert!(n_objects > 0, "{first}");
    // Both at once; a third node begins with everything that they have stored.
    let (second, third) = (replay(&b, &trace), replay(&a, &trace));
    for found in [outcome(second), outcome(third)] {
        assert_eq!(found["hits"]["s3"], n_objects, "each chunk comes once from the bucket: {found}");
        assert_eq!((&found["lost"], &found["stored"]["refused"]), (&0.into(), &0.into()), "{found}");
    }
    assert_eq!(server.objects().unwrap().len() as u64, n_objects);
}
