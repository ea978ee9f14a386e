//! The features of dependencies: the command and programs that embed the library share one build of wasmtime.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot run cargo")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Packages with the features that they are compiled with. A package can have several sets.
type Features = BTreeMap<String, BTreeSet<String>>;

/// `cargo build -p kvtier --examples` after `cargo build -p kvtier-cli` must not compile wasmtime a second time, and
/// cargo does so if wasmtime, or anything that it depends on, gets other features there.
#[test]
fn the_command_and_the_examples_share_wasmtime_and_what_it_depends_on() {
    let command = features(&["--package", "kvtier-cli", "--edges", "normal,build"]);
    let examples = features(&["--package", "kvtier", "--edges", "normal,build,dev"]);
    let wasmtime = features(&["--package", "wasmtime-wasi-http", "--edges", "normal,build"]);
    assert!(wasmtime.len() > 100, "only {} packages", wasmtime.len());
    let library = features(&["--package", "kvtier", "--edges", "normal,build"]);
    // Alone, wasmtime depends on what other members of the workspace add to tokio; in the library it does not.
    let shared: Vec<_> = wasmtime.keys().filter(|package| library.contains_key(*package)).collect();
    assert!(shared.len() > 100, "only {} packages", shared.len());
    let different: Vec<_> =
        shared.iter().filter(|package| command.get(**package) != examples.get(**package)).collect();
    assert!(different.is_empty(), "packages with different features: {different:?}");
    // Without the examples' own dependencies the two differ, so the comparison sees a difference where there is one.
    assert!(shared.iter().any(|package| command.get(*package) != library.get(*package)));
}

fn features(arguments: &[&str]) -> Features {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--prefix", "none", "--no-dedupe", "--format", "{p}|{f}"]);
    let output = cargo.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all = Features::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (package, features) = line.split_once('|').unwrap();
        // By name and version, without the marks behind them.
        let package: Vec<&str> = package.split(' ').take(2).collect();
        all.entry(package.join(" ")).or_default().insert(features.replace(" (*)", ""));
    }
    all
}
