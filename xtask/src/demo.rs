//! The demonstration: a trace of chats is replayed through CPU tier, `log` and `fs`. Then a new process replays it on
//! the same folder, and the disk serves what the first one stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests;
use crate::step::Runner;

/// A few thousand requests, so that each replay takes seconds.
const REQUESTS: &str = "2000";

/// Capacity of the CPU tier: a fraction of the trace's chunks, so that the disk has something to serve.
const CAPACITY_CHUNKS: &str = "1000";

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
    let example = workspace.root.join("docs/examples/demo.yaml");
    let text = fs::read_to_string(&example).with_context(|| format!("cannot read {}", example.display()))?;
    let text = config_text(&text, &workspace.target);
    fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;

    let trace = folder.join("chats.jsonl");
    let mut generate = Command::new(&kvtier);
    generate.args(["generate", "--requests", REQUESTS, "--seed", "1", "--out"]).arg(&trace);
    runner.run("trace", &mut generate)?;

    let runs = [
        ("first replay, on an empty disk", "first.html"),
        ("second replay, as a new process", "second.html"),
    ];
    let mut reports: Vec<PathBuf> = Vec::new();
    for (name, report) in runs {
        let report = folder.join(report);
        let mut replay = Command::new(&kvtier);
        replay.arg("replay").arg(&trace).arg("--config").arg(&config);
        replay.args(["--capacity-chunks", CAPACITY_CHUNKS]).arg("--report").arg(&report);
        runner.run(name, &mut replay)?;
        reports.push(report);
    }
    runner.done("demo done");
    println!("\nThe second replay found the first one's chunks on disk: compare the lines `disk`.");
    println!(
        "`log` logs and keeps nothing, so it answers `no-space` to every put: those are its refused puts."
    );
    for report in reports {
        println!("report: {}", report.display());
    }
    Ok(())
}

/// Adapts the configuration in `docs/examples`, which names the default target folder, to the one in use.
fn config_text(example: &str, target: &Path) -> String {
    // The paths are single-quoted YAML, where only the quote itself is special.
    let target = target.display().to_string().replace('\'', "''");
    example.replace("'../../target/", &format!("'{target}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_paths_of_the_example_move_to_the_target_folder() {
        let example = include_str!("../../docs/examples/demo.yaml");
        let text = config_text(example, Path::new("/it's"));
        for path in [
            "'/it''s/kvtier-guests/log.wasm'",
            "'/it''s/kvtier-guests/fs.wasm'",
            "'/it''s/kvtier-demo/data:/data:rw'",
        ] {
            assert!(text.contains(path), "{path} in {text}");
        }
        assert!(!text.contains("../"), "{text}");
    }
}
