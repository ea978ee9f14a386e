//! `cargo xtask stress [N]`: runs all tests N times while four threads compute without a pause. A test that passes only
//! on a quiet machine is a bug, and this finds such tests. Everything is built before the threads start, so that they
//! compete with the tests and not with the compiler.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::guests;
use crate::servers;
use crate::step::{self, Runner};

/// Threads that compute beside the tests. On two cores they leave the tests a third of the time.
const BUSY_THREADS: usize = 4;

/// The end of a line that names a failed test.
const FAILED: &str = " ... FAILED";

pub(crate) fn run(runner: &mut Runner, n_runs: usize) -> Result<()> {
    let without = servers::ensure(runner, None)?;
    guests::build(runner)?;
    runner.cargo("tests, built", "test", &["--workspace", "--no-run"])?;

    let folder = runner.workspace.target.join("kvtier-stress");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut failed_runs = 0;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..BUSY_THREADS {
            scope.spawn(|| compute_until(&stop));
        }
        for run in 1..=n_runs {
            let output = folder.join(format!("run-{run}.txt"));
            let started = Instant::now();
            let failed = test(runner, &without, &output)?;
            let seconds = started.elapsed().as_secs();
            match failed {
                None => println!("run {run:>2} of {n_runs}   passed   {seconds:>5} s"),
                Some(tests) => {
                    failed_runs += 1;
                    println!("run {run:>2} of {n_runs}   FAILED   {seconds:>5} s   see {}", output.display());
                    for test in tests {
                        println!("    {test}");
                    }
                }
            }
        }
        anyhow::Ok(())
    })?;
    ensure!(failed_runs == 0, "{failed_runs} of {n_runs} runs failed");
    runner.done(&format!("{n_runs} of {n_runs} runs passed beside {BUSY_THREADS} busy threads"));
    Ok(())
}

/// Runs all tests once. Returns the names of the tests that failed, or `None` if everything passed.
fn test(runner: &Runner, without: &str, output: &Path) -> Result<Option<Vec<String>>> {
    let file = File::create(output).with_context(|| format!("cannot create {}", output.display()))?;
    let errors = file.try_clone().context("cannot use a file twice")?;
    let mut tests: Command = step::cargo("test", &["--workspace", "--no-fail-fast"]);
    let status = tests
        .current_dir(&runner.workspace.root)
        .env(servers::WITHOUT, without)
        .stdout(file)
        .stderr(errors)
        .status()
        .context("cannot start cargo")?;
    if status.success() {
        return Ok(None);
    }
    let bytes = fs::read(output).with_context(|| format!("cannot read {}", output.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.lines().filter_map(|line| line.strip_suffix(FAILED)).map(str::to_owned).collect()))
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn compute_until(stop: &AtomicBool) {
    let mut state = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        // Any work that the compiler keeps.
        state = std::hint::black_box(state.wrapping_add(1));
    }
}
