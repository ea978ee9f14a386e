//! The demonstration: a trace of chats goes through CPU tier, `log` and `fs`; then a new process replays it on the
//! same folder, and the disk serves what the first one stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests;
use crate::step::Runner;

/// A few thousand requests, so that each replay takes seconds.
const REQUESTS: &str = "2000";

/// Chunks that the CPU tier holds: a fraction of the trace's, so that the disk has something to serve.
const CAPACITY_CHUNKS: &str = "2000";

pub(crate) fn run(runner: &mut Runner) -> Result<()> {
    guests::build(runner)?;
    runner.cargo("kvtier", "build", &["--release", "--package", "kvtier-cli"])?;
    let workspace = runner.workspace;
    let kvtier = workspace.target.join("release").join(format!("kvtier{}", std::env::consts::EXE_SUFFIX));

    let folder = workspace.target.join("kvtier-demo");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let data = folder.join("data");
    fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    let config = folder.join("demo.yaml");
    let text = config_text(&guests::folder(workspace), &data);
    fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;

    let trace = folder.join("chats.jsonl");
    let mut generate = Command::new(&kvtier);
    generate.args(["trace", "generate", "--requests", REQUESTS, "--seed", "1", "--out"]).arg(&trace);
    runner.run("trace", &mut generate)?;

    let runs = [
        ("first replay, on an empty disk", "first.html"),
        ("second replay, as a new process", "second.html"),
    ];
    let mut reports: Vec<PathBuf> = Vec::new();
    for (name, report) in runs {
        let report = folder.join(report);
        let mut replay = Command::new(&kvtier);
        replay.arg("replay").arg("--config").arg(&config).arg("--trace").arg(&trace);
        replay.args(["--capacity-chunks", CAPACITY_CHUNKS]).arg("--report").arg(&report);
        runner.run(name, &mut replay)?;
        reports.push(report);
    }
    runner.done("demo done");
    println!("\nThe first replay's chunks were still on disk for the second one: compare the line `disk`.");
    for report in reports {
        println!("report: {}", report.display());
    }
    Ok(())
}

fn config_text(components: &Path, data: &Path) -> String {
    // Quoted as YAML's single-quoted text: only the quote itself is special there.
    let quote =
        |path: &Path, suffix: &str| format!("'{}{suffix}'", path.display().to_string().replace('\'', "''"));
    format!(
        "# Written by `cargo xtask demo`.
chunk_size: 256
local_cpu: true
max_local_cpu_size: 1          # GiB
external_backends: \"log, disk\"
extra_config:
  external_backend.log.module_path: {log}
  external_backend.log.class_name: ExternalLogBackend
  external_backend.disk.module_path: {fs}
  external_backend.disk.class_name: FsBackend
  external_backend.disk.config.root: /data
  external_backend.disk.allow.fs: [{grant}]
",
        log = quote(&components.join("log.wasm"), ""),
        fs = quote(&components.join("fs.wasm"), ""),
        grant = quote(data, ":/data:rw"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_in_the_configuration() {
        let text = config_text(Path::new("/it's/guests"), Path::new("/data folder"));
        assert!(text.contains("log.module_path: '/it''s/guests/log.wasm'\n"), "{text}");
        assert!(text.contains("allow.fs: ['/data folder:/data:rw']\n"), "{text}");
    }
}
