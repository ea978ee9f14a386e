//! `cargo xtask fuzz`: runs the fuzz targets one after the other, and says what came of it.
//!
//! libFuzzer finds its way by the edges of the program that an input has reached. Only the workspace's own crates
//! count them: this program stands between cargo and rustc for these, and adds the flags.

mod options;
mod outcome;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use self::outcome::Outcome;
use crate::guests;
use crate::step::{Runner, Workspace};
use options::Options;

/// Set where this program is run in rustc's place.
const WRAPS_RUSTC: &str = "KVTIER_XTASK_WRAPS_RUSTC";

/// Makes rustc count edges for libFuzzer, and report what integers are compared with.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// The targets, with the largest input in bytes and the time in seconds after which one input is a hang. Their
/// functions are in `kvtier_tests::fuzz`.
const TARGETS: [(&str, u64, u64); 8] = [
    ("config", 4 << 10, 10),
    ("values", 512, 10),
    ("component", 256 << 10, 60),
    ("class", 512, 30),
    ("trailer", 512, 10),
    ("trace", 4 << 10, 10),
    ("resp", 4 << 10, 10),
    ("chain", 8 + 4 * 400, 60),
];

/// Memory of one target in MiB; more is a crash.
const MEMORY_MIB: u64 = 3072;

/// Runs rustc with coverage, if this program was started by cargo in rustc's place; then it does not return.
pub(crate) fn wrap_rustc() -> Result<()> {
    if env::var_os(WRAPS_RUSTC).is_none() {
        return Ok(());
    }
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().context("cargo gave no compiler")?;
    let error = Command::new(rustc).args(arguments).args(COVERAGE).exec();
    Err(error).context("cannot start the compiler")
}

/// Fuzzes.
pub(crate) fn run(runner: &mut Runner, arguments: &[String]) -> Result<()> {
    let names: Vec<&str> = TARGETS.iter().map(|(name, ..)| *name).collect();
    let options = Options::parse(arguments, &names)?;
    guests::build(runner)?;
    let program = build(runner)?;
    let mut outcomes = Vec::new();
    for (name, bytes_max, seconds_max) in TARGETS {
        if options.targets.iter().any(|target| target == name) {
            let fuzzed = fuzz(runner.workspace, &program, (name, bytes_max, seconds_max), options.seconds);
            outcomes.push(fuzzed.with_context(|| format!("target `{name}`"))?);
        }
    }
    println!("{}", outcome::table(&outcomes));
    let crashes: Vec<&PathBuf> = outcomes.iter().flat_map(|outcome| &outcome.crashes).collect();
    if let Some(first) = crashes.first() {
        let target = first.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        bail!(
            "{} crashes, the first in {}; repeat it with `KVTIER_FUZZ_TARGET={target} {} {}`, and keep it in \
             tests/fuzz/crashes/{target} once it is mended",
            crashes.len(),
            first.display(),
            program.display(),
            first.display()
        );
    }
    Ok(())
}

/// Builds the program with coverage in the workspace's own crates.
fn build(runner: &mut Runner) -> Result<PathBuf> {
    let this = env::current_exe().context("cannot find this program")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "kvtier-fuzz", "--features", "engine"]);
    cargo.env("RUSTC_WORKSPACE_WRAPPER", this).env(WRAPS_RUSTC, "1");
    runner.run("fuzz targets", &mut cargo).context("libFuzzer needs a C++ compiler (`c++`)")?;
    Ok(runner.workspace.target.join("debug/kvtier-fuzz"))
}

/// Runs one target for some time.
fn fuzz(
    workspace: &Workspace,
    program: &Path,
    (name, bytes_max, seconds_max): (&str, u64, u64),
    seconds: u64,
) -> Result<Outcome> {
    let folder = workspace.target.join("kvtier-fuzz");
    let (corpus, crashes) = (folder.join("corpus").join(name), folder.join("crashes").join(name));
    for folder in [&corpus, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let known = files(&crashes)?;
    let n_before = files(&corpus)?.len();
    let mut fuzzer = Command::new(program);
    fuzzer.arg(&corpus);
    fuzzer.args(seeds(workspace, name));
    fuzzer.arg(format!("-max_total_time={seconds}"));
    fuzzer.arg(format!("-max_len={bytes_max}"));
    fuzzer.arg(format!("-timeout={seconds_max}"));
    fuzzer.arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    fuzzer.args(["-print_final_stats=1", "-reload=0", "-detect_leaks=0"]);
    fuzzer.arg(format!("-artifact_prefix={}/", crashes.display()));
    fuzzer.env("KVTIER_FUZZ_TARGET", name).current_dir(&folder);
    let log = folder.join(format!("{name}.log"));
    eprintln!("==> {name}: {seconds} s, log in {}", log.display());
    let text = watch(&mut fuzzer, name, &log)?;

    let crashes = files(&crashes)?.into_iter().filter(|file| !known.contains(file)).collect();
    Ok(Outcome::read(name, &text, n_before, files(&corpus)?.len(), crashes))
}

/// Runs the fuzzer to its end, keeps what it says in a file, and shows the latest line on a terminal.
fn watch(fuzzer: &mut Command, name: &str, log: &Path) -> Result<String> {
    let mut file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    fuzzer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = fuzzer.spawn().context("cannot start the fuzzer")?;
    let lines = BufReader::new(child.stderr.take().context("no standard error")?);
    let is_shown = io::stderr().is_terminal();
    let mut text = String::new();
    for line in lines.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(file, "{line}")?;
        if is_shown && line.starts_with('#') {
            let shown: String = line.chars().take(90).collect();
            eprint!("\r\x1b[2K    {name} {}", shown.replace('\t', " "));
        }
        outcome::keep(&mut text, &line);
    }
    if is_shown {
        eprint!("\r\x1b[2K");
    }
    let status = child.wait()?;
    ensure!(status.code() != Some(2), "the fuzzer did not start; see {}", log.display());
    Ok(text)
}

/// The folders of a target's inputs beside its corpus: those in the repository, and for components the guests.
fn seeds(workspace: &Workspace, name: &str) -> Vec<OsString> {
    let fuzz = workspace.root.join("tests/fuzz");
    let mut folders = vec![fuzz.join("seeds").join(name), fuzz.join("crashes").join(name)];
    if name == "component" {
        folders.push(guests::folder(workspace));
    }
    folders.retain(|folder| folder.is_dir());
    folders.into_iter().map(OsString::from).collect()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
