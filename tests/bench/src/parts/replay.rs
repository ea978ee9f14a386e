//! The replay of a trace by the `kvtier` command, CPU tier only: the whole process, from its start to its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvtier_cli::generate::{Generator, Workload, write_line};
use kvtier_cli::trace;

use crate::bench::{About, Bench, candidate};
use crate::report::{Quantity, Target};
use crate::sample::{Effort, once};

/// The first argument that makes this program the `kvtier` command.
pub(crate) const AS_KVTIER: &str = "as-kvtier";

/// Requests of a generated trace: as many as in the published one of conversations.
const N_REQUESTS: usize = 12_031;

const CAPACITY_CHUNKS: &str = "10000";

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir_in(&bench.setting.scratch).context("cannot make a folder")?;
    let (path, name) = match &bench.setting.trace {
        Some(path) => (path.clone(), "the trace given"),
        None => (generate(folder.path(), bench.pick(N_REQUESTS, 200))?, "a generated trace"),
    };
    let n_requests = trace::count_requests(&path, u64::MAX)?.context("the trace is not a file")?;
    // An error here has a message; a sample could only panic.
    let hit_ratio = replay(&path)?;
    bench.row(
        About::new(format!("replay of {name}, whole process"), Quantity::Requests(n_requests))
            .target(Target::AtLeast(20e3))
            .note(format!(
                "{n_requests} requests, LRU, {CAPACITY_CHUNKS} chunks of 4 KiB, hit ratio {hit_ratio:.4}"
            ))
            .effort(Effort::LONG),
        vec![
            candidate("kvtier", || once(|| _ = replay(&path).expect("it was replayed before"))),
            candidate("reading the trace alone", || {
                once(|| _ = trace::count_requests(&path, u64::MAX).expect("it was read before"))
            }),
        ],
    );
    Ok(())
}

fn generate(folder: &Path, n_requests: usize) -> Result<PathBuf> {
    let path = folder.join("chats.jsonl");
    let mut file = std::io::BufWriter::new(File::create(&path)?);
    for request in Generator::new(Workload { seed: 1, ..Workload::default() }).take(n_requests) {
        write_line(&mut file, &request)?;
    }
    Ok(path)
}

/// Runs the command and returns its hit ratio.
fn replay(trace: &Path) -> Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([AS_KVTIER, "replay", "--json", "--policy", "lru", "--capacity-chunks", CAPACITY_CHUNKS]);
    let output = command.arg(trace).output().context("cannot start the replay")?;
    ensure!(output.status.success(), "the replay failed: {}", String::from_utf8_lossy(&output.stderr));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    outcome["hit_ratio"].as_f64().context("the replay printed no hit ratio")
}
