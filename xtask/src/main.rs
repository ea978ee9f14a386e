//! The commands of this repository: `cargo xtask help`.

mod aarch64;
mod bench;
mod demo;
mod deny;
mod features;
mod fuzz;
mod guests;
mod packages;
mod python;
mod servers;
mod step;
mod stress;
mod templates;
// By path, so that cargo does not compile the host before xtask.
#[expect(unreachable_pub, reason = "it is public in the crate that it belongs to")]
#[path = "../../host/cli/src/table.rs"]
mod table;

use std::env::consts::EXE_SUFFIX;
use std::num::NonZeroUsize;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::step::{Runner, Workspace};

/// The commands of kvtier's repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, generate a trace, and replay it twice through CPU tier, log and fs.
    Demo,
    /// Check and test everything: format, guests, lints, features, packages, documentation, tests with real servers.
    ///
    /// Installs a missing redis-server if root runs this on Debian.
    Test {
        /// Leave out the tests that need these: redis, python, template-python, template-javascript, template-c.
        #[arg(long, value_name = "NAME[,NAME]")]
        without: Option<String>,
        /// Also test the Python adapters inside LMCache, vLLM and SGLang.
        ///
        /// Installs these from PyPI where they are missing: 7 GB, into the folder that `KVTIER_RUNTIMES` names, by
        /// default ~/.cache/kvtier-runtimes.
        #[arg(long)]
        with_runtimes: bool,
    },
    /// Measure everything, or parts, beside references.
    ///
    /// `faults` measures what faults of backends cost, `python` the Python package beside LMCache. `--help` lists the
    /// other parts and the options.
    #[command(disable_help_flag = true)]
    Bench {
        /// Parts and options of the bench.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Repeatedly kill a process that stores chunks, and check what it leaves behind.
    #[command(disable_help_flag = true)]
    Crash {
        /// Options of the harness: `--kills N`, `--seed S`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz each target for a while. Needs a C++ compiler.
    Fuzz(fuzz::Options),
    /// Run all tests several times while four threads compute.
    Stress {
        /// Number of runs.
        #[arg(value_name = "N", default_value = "10")]
        runs: NonZeroUsize,
    },
    /// Check the host for aarch64 and test the CPU tier there, emulated. Needs gcc and QEMU for it.
    Aarch64,
    /// Build the WebAssembly components into target/kvtier-guests.
    Guests,
    /// Make a project of each template of `kvtier new`, build it, and run it in a chain.
    ///
    /// The tools come from PyPI and npm, into target/templates.
    Templates {
        /// Leave out these: template-python, template-javascript, template-c.
        #[arg(long, value_name = "NAME[,NAME]")]
        without: Option<String>,
    },
    /// Build the Python package into target/python.
    Python,
    /// Test the Python adapters inside LMCache, vLLM and SGLang: the part of `test --with-runtimes` that comes last.
    ///
    /// The rest of `test` has been run before.
    Runtimes {
        /// Only install what is missing.
        #[arg(long)]
        install: bool,
        /// Leave out the tests that are marked as long.
        #[arg(long, conflicts_with = "install")]
        quick: bool,
    },
    /// Build the Python wheels for x86-64 and aarch64 into target/wheels, and try them.
    Wheel,
    /// Pack the published crates, and compile the packages.
    Packages,
    /// Check licences, bans and sources of all dependencies.
    Deny {
        /// What to check instead, for instance `advisories`; `install` only installs cargo-deny.
        checks: Vec<String>,
    },
}

fn main() -> ExitCode {
    match fuzz::wrap_rustc().and_then(|()| run(Cli::parse().task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    let mut runner = Runner::new(&workspace);
    match task {
        Task::Demo => demo::run(&mut runner),
        Task::Test { without, with_runtimes } => test(&mut runner, without, with_runtimes),
        Task::Bench { arguments } => bench::run(&mut runner, &arguments),
        Task::Crash { arguments } => crash(&mut runner, &arguments),
        Task::Fuzz(options) => fuzz::run(&mut runner, &options),
        Task::Stress { runs } => stress::run(&mut runner, runs.get()),
        Task::Aarch64 => aarch64::check(&mut runner),
        Task::Guests => guests::build(&mut runner).map(drop),
        Task::Templates { without } => templates::run(&mut runner, without),
        Task::Python => {
            guests::build(&mut runner)?;
            python::build(&mut runner).map(drop)
        }
        Task::Runtimes { install: true, .. } => python::install_runtimes(&mut runner),
        Task::Runtimes { quick, .. } => python::test_runtimes(&mut runner, quick),
        Task::Wheel => python::build_wheels(&mut runner),
        Task::Packages => packages::check(&mut runner),
        Task::Deny { checks } => deny::run(&mut runner, &checks),
    }
}

/// Repeatedly kills a process that stores chunks; the harness is `tests/crash`.
fn crash(runner: &mut Runner, arguments: &[String]) -> Result<()> {
    guests::build(runner)?;
    runner.cargo("harness", "build", &["--workspace", "--bin", "kvtier-crash"])?;
    let harness = runner.workspace.target.join("debug").join(format!("kvtier-crash{EXE_SUFFIX}"));
    runner.run("kills", Command::new(harness).args(arguments))
}

/// The native steps take the same packages, profile and flags, so that no dependency is compiled twice.
fn test(runner: &mut Runner, without: Option<String>, with_runtimes: bool) -> Result<()> {
    let without = servers::ensure(runner, without)?;
    runner.cargo("format", "fmt", &["--all", "--check"])?;
    let packages = guests::build(runner)?;
    runner.cargo("lints", "clippy", &["--workspace", "--all-targets", "--", "-D", "warnings"])?;
    let mut arguments = guests::target_arguments(&packages);
    arguments.extend(["--", "-D", "warnings"].map(str::to_owned));
    runner.cargo("lints of the guests", "clippy", &arguments)?;
    features::check(runner)?;
    aarch64::check(runner)?;
    packages::check(runner)?;
    runner.cargo_with(
        "documentation",
        "doc",
        &["--workspace", "--no-deps", "--lib"],
        ("RUSTDOCFLAGS", "-D warnings"),
    )?;
    runner.cargo_with("tests", "test", &["--workspace"], (servers::WITHOUT, &without))?;
    // The tests have built the command.
    templates::test(runner, &without)?;
    if !without.split(',').any(|name| name == servers::PYTHON) {
        python::test(runner)?;
    }
    if with_runtimes {
        python::test_runtimes(runner, false)?;
    }
    runner.done("all checks passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent_and_options_reach_the_programs() {
        Cli::command().debug_assert();
        let words = "cargo-xtask bench cpu --quick --help".split(' ');
        let Task::Bench { arguments } = Cli::try_parse_from(words).expect("valid").task else {
            panic!("bench")
        };
        assert_eq!(arguments, ["cpu", "--quick", "--help"]);
    }
}
