//! Tests with the real serving engines: LMCache, vLLM and SGLang, on the CPU.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::environment::{Environment, find_python};
use super::{Profile, build_with, pytest, stage};
use crate::guests;
use crate::step::Runner;

/// Names the folder of the environment. Tests that start programs of their own find it there too.
const VARIABLE: &str = "KVTIER_RUNTIMES";

/// What every run needs on a machine without a GPU. `OMP_NUM_THREADS` keeps the threads of OpenMP from spinning.
const VARIABLES: [(&str, &str); 10] = [
    ("CUDA_VISIBLE_DEVICES", ""),
    ("HF_HUB_OFFLINE", "1"),
    ("LMCACHE_TRACK_USAGE", "false"),
    ("MKL_NUM_THREADS", "1"),
    ("OMP_NUM_THREADS", "1"),
    ("PYTHONHASHSEED", "0"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("VLLM_CPU_KVCACHE_SPACE", "1"),
    ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
    ("VLLM_NO_USAGE_STATS", "1"),
];

/// The serving engines, by the folders of their tests.
const ENGINES: [&str; 3] = ["lmcache", "vllm", "sglang"];

/// The benches, each with its options for a quick run.
const BENCHES: [(&str, &[&str]); 2] =
    [("side_by_side.py", &["--quick"]), ("vllm_decoding.py", &["--rounds", "3"])];

/// Tests the adapters inside the serving engines. Installs these, 7 GB, if the environment does not have them. The
/// tests in Rust have built the extension. A quick run leaves out the tests that are marked as `long`.
pub(crate) fn test(runner: &mut Runner, is_quick: bool) -> Result<()> {
    let environment = ensure(runner)?;
    let package = stage(runner.workspace, Profile::Dev)?;
    for engine in ENGINES {
        // Each in a process of its own, as they do not share one.
        let folder = format!("tests/python/runtimes/{engine}");
        let mut arguments = vec!["-o", "markers=long: left out in quick runs", &folder];
        if is_quick {
            arguments.extend(["-m", "not long"]);
        }
        let mut pytest = pytest(runner.workspace, &environment, &package, &arguments);
        runner.run(&format!("tests in {engine}"), with_variables(&mut pytest, &environment))?;
    }
    Ok(())
}

/// Installs what the tests need, if it is missing.
pub(crate) fn install(runner: &mut Runner) -> Result<()> {
    ensure(runner).map(drop)
}

/// Measures the package beside LMCache, and vLLM beside a backend that hangs. Guests have been built.
pub(crate) fn bench(runner: &mut Runner, is_quick: bool) -> Result<()> {
    let environment = ensure(runner)?;
    let package = build_with(runner, Profile::Release)?;
    for (program, quick) in BENCHES {
        let mut bench = environment.python();
        bench.arg(runner.workspace.root.join("tests/python/bench").join(program));
        if is_quick {
            bench.args(quick);
        }
        bench.env("PYTHONPATH", &package).env("KVTIER_GUESTS", guests::folder(runner.workspace));
        runner.run(program, with_variables(&mut bench, &environment))?;
    }
    Ok(())
}

fn ensure(runner: &mut Runner) -> Result<Environment> {
    let python = find_python()?
        .context("the serving engines need Python 3.11 or later; Debian: apt-get install python3-venv")?;
    let steps = runner.workspace.root.join("tests/python/runtimes/environment.txt");
    Environment::ensure(runner, &python, folder()?, &steps)
}

fn with_variables<'a>(command: &'a mut Command, environment: &Environment) -> &'a mut Command {
    command
        .envs(VARIABLES)
        .env("KVTIER_LMCACHE_037", environment.folder.join("lmcache-0.3.7"))
        .env("KVTIER_SGLANG", environment.folder.join("sglang-0.5.23"))
}

/// Returns the folder of the environment: outside the checkout, because it is large and outlives it.
fn folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os(VARIABLE).filter(|folder| !folder.is_empty()) {
        return std::path::absolute(folder).with_context(|| format!("{VARIABLE} is not a path"));
    }
    let cache = env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let cache = cache
        .with_context(|| format!("there is no home folder; set {VARIABLE} to a folder with 8 GB of room"))?;
    Ok(cache.join("kvtier-runtimes"))
}
