//! The commands of this repository: `cargo xtask help`.

mod bench;
mod demo;
mod deny;
mod fuzz;
mod guests;
mod manifest;
mod packages;
mod servers;
mod step;
mod stress;

use std::env;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::step::{Runner, Workspace};

const HELP: &str = "\
Usage: cargo xtask COMMAND

  demo     build, generate a trace, and replay it through CPU tier, log and fs, twice
  test     check and test everything: guests, format, lints, tests, on real servers (Redis is installed if root runs
           this on Debian and it is missing; `--without redis` leaves its tests out)
  bench    measure everything, or parts, beside references: [PART...] [--quick] [--trace FILE]; `--help` lists the parts;
           `faults` prints what faults of backends cost
  crash    kill a process that stores chunks, again and again: `--kills N`, `--seed S`
  fuzz     fuzz each target for a while: [--seconds N] [TARGET...]; needs a C++ compiler
  stress   run all tests N times (10) while four threads compute: `cargo xtask stress [N]`
  guests   build the WebAssembly components into target/kvtier-guests
  packages pack what is published, and compile what was packed
  deny     check licences, bans and sources of all dependencies, or what is named: `cargo xtask deny advisories`
  help     show this
";

fn main() -> ExitCode {
    let arguments = || env::args().skip(1).collect::<Vec<String>>();
    match fuzz::wrap_rustc().and_then(|()| run(&arguments())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        bail!("no command\n\n{HELP}");
    };
    if !["bench", "crash", "deny", "fuzz", "stress", "test"].contains(&command.as_str()) && !rest.is_empty() {
        bail!("`cargo xtask {command}` takes no arguments, but got `{}`\n\n{HELP}", rest.join(" "));
    }
    let workspace = Workspace::find()?;
    let mut runner = Runner::new(&workspace);
    match command.as_str() {
        "demo" => demo::run(&mut runner)?,
        "test" => test(&mut runner, rest)?,
        "bench" => bench::run(&mut runner, rest)?,
        "deny" => deny::run(&mut runner, rest)?,
        "crash" => crash(&mut runner, rest)?,
        "fuzz" => fuzz::run(&mut runner, rest)?,
        "stress" => stress::run(&mut runner, rest)?,
        "packages" => packages::check(&mut runner)?,
        "guests" => _ = guests::build(&mut runner)?,
        "help" | "--help" | "-h" => print!("{HELP}"),
        _ => bail!("there is no command `{command}`\n\n{HELP}"),
    }
    Ok(())
}

/// Kills a process that stores chunks; the harness is `tests/crash`.
fn crash(runner: &mut Runner, arguments: &[String]) -> Result<()> {
    guests::build(runner)?;
    runner.cargo("harness", "build", &["--workspace", "--bin", "kvtier-crash"])?;
    let harness = format!("kvtier-crash{}", env::consts::EXE_SUFFIX);
    let harness = runner.workspace.target.join("debug").join(harness);
    runner.run("kills", Command::new(harness).args(arguments))
}

/// The native steps take the same packages, profile and flags, so that no dependency is compiled twice.
fn test(runner: &mut Runner, arguments: &[String]) -> Result<()> {
    let without = servers::ensure(runner, arguments)?;
    runner.cargo("format", "fmt", &["--all", "--check"])?;
    let packages = guests::build(runner)?;
    runner.cargo("lints", "clippy", &["--workspace", "--all-targets", "--", "-D", "warnings"])?;
    let mut arguments = guests::target_arguments(&packages);
    arguments.extend(["--", "-D", "warnings"].map(str::to_owned));
    runner.cargo("lints of the guests", "clippy", &arguments)?;
    packages::check(runner)?;
    runner.cargo_with(
        "documentation",
        "doc",
        &["--workspace", "--no-deps", "--lib"],
        ("RUSTDOCFLAGS", "-D warnings"),
    )?;
    runner.cargo_with("tests", "test", &["--workspace"], (servers::WITHOUT, &without))?;
    runner.done("all checks passed");
    Ok(())
}
