//! `cargo xtask fuzz`: runs the fuzz targets one after the other and reports the outcome.
//!
//! libFuzzer is guided by the edges of the program that an input reaches. Only the workspace's own crates count them:
//! cargo starts this program in place of rustc for these crates, and it adds the flags.

mod outcome;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::num::NonZeroU64;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValuesParser;

use self::outcome::Outcome;
use crate::guests;
use crate::step::{Runner, Workspace};

/// Set when cargo runs this program in place of rustc.
const WRAPS_RUSTC: &str = "KVTIER_XTASK_WRAPS_RUSTC";

/// Makes rustc count edges for libFuzzer and report the operands of integer comparisons.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// The targets, with the largest input in bytes and the seconds after which an input counts as a hang. Their functions
/// are in `kvtier_tests::fuzz`.
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

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, value_name = "N", default_value = "60")]
    seconds: NonZeroU64,
    /// Targets; all if none is named.
    #[arg(value_name = "TARGET", value_parser = PossibleValuesParser::new(TARGETS.map(|(name, ..)| name)))]
    targets: Vec<String>,
}

/// Memory of one target in MiB; more is a crash.
const MEMORY_MIB: u64 = 3072;

/// If cargo started this program in place of rustc, runs rustc with coverage and does not return.
pub(crate) fn wrap_rustc() -> Result<()> {
    if env::var_os(WRAPS_RUSTC).is_none() {
        return Ok(());
    }
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().context("cargo passed no compiler")?;
    let error = Command::new(rustc).args(arguments).args(COVERAGE).exec();
    Err(error).context("cannot start the compiler")
}

/// Runs the fuzz targets.
pub(crate) fn run(runner: &mut Runner, options: &Options) -> Result<()> {
    guests::build(runner)?;
    let program = build(runner)?;
    let mut outcomes = Vec::new();
    for (name, bytes_max, seconds_max) in TARGETS {
        if options.targets.is_empty() || options.targets.iter().any(|target| target == name) {
            let fuzzed =
                fuzz(runner.workspace, &program, (name, bytes_max, seconds_max), options.seconds.get());
            outcomes.push(fuzzed.with_context(|| format!("target `{name}`"))?);
        }
    }
    print!("{}", outcome::table(&outcomes));
    let crashes: Vec<&PathBuf> = outcomes.iter().flat_map(|outcome| &outcome.crashes).collect();
    if let Some(first) = crashes.first() {
        let target = first.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        bail!(
            "{} crashes, the first in {}; repeat it with `KVTIER_FUZZ_TARGET={target} {} {}`, and keep it in \
             tests/fuzz/crashes/{target} once it is fixed",
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

/// Runs the fuzzer to its end, writes its output to a file, and shows the latest line on a terminal.
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

/// Returns the folders of a target's inputs besides its corpus: those in the repository, and for components the guests.
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(text: &str) -> Result<Options, clap::Error> {
        Cli::try_parse_from(["fuzz"].into_iter().chain(text.split_whitespace())).map(|cli| cli.options)
    }

    #[test]
    fn seconds_and_targets_have_defaults() {
        let read = |text: &str| {
            let Options { seconds, targets } = parse(text).expect(text);
            (seconds.get(), targets.join(" "))
        };
        assert_eq!(read(""), (60, String::new()));
        assert_eq!(read("resp --seconds 600 chain"), (600, "resp chain".into()));
    }

    #[test]
    fn wrong_words_are_named() {
        for (text, word) in
            [("c", "'c'"), ("--seconds", "--seconds"), ("--seconds x", "'x'"), ("--seconds 0", "'0'")]
        {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
