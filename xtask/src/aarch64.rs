//! The second target: checks the host for `aarch64-unknown-linux-gnu`, and tests there, on an emulated processor, the
//! modules that compute keys and move bytes.
//!
//! Both need tools that not every machine has. A missing tool is named, and its step is skipped.

use std::process::Command;

use anyhow::Result;

use crate::step::{Runner, cargo, is_on_path};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where Debian keeps the target's C library.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// The modules whose unit tests run: those that depend on byte order, vector instructions and memory ordering.
const TESTED: [&str; 6] = ["key::", "cpu::", "chunk::", "memory::", "integrity::", "transfer::"];
/// Left out: QEMU does not support what these tests request from the kernel (locked, huge and touched pages).
const NOT_EMULATED: &str = "memory::pool::options_tests";

/// Checks the host for the target, and runs the unit tests that need no wasmtime.
pub(crate) fn check(runner: &mut Runner) -> Result<()> {
    if !is_on_path(COMPILER) {
        skip("the host for aarch64", COMPILER, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross");
        return Ok(());
    }
    runner.run("target aarch64", Command::new("rustup").args(["target", "add", TARGET]))?;
    let packages =
        ["--package", "kvtier", "--package", "kvtier-cli", "--package", "kvtier-c", "--target", TARGET];
    runner.run("aarch64", &mut crossing("check", &packages))?;
    if !is_on_path(EMULATOR) {
        skip("the CPU tier on aarch64", EMULATOR, "qemu-user");
        return Ok(());
    }
    let mut arguments = vec!["--package", "kvtier", "--no-default-features", "--features", "yaml", "--lib"];
    arguments.extend(["--target", TARGET, "--"]);
    arguments.extend(TESTED);
    arguments.extend(["--skip", NOT_EMULATED]);
    runner.run("tests on aarch64", &mut crossing("test", &arguments))
}

fn skip(what: &str, program: &str, packages: &str) {
    eprintln!("    NOT TESTED: {what}: no `{program}` on PATH (Debian: apt-get install {packages})");
}

/// Returns a cargo command that compiles, links and runs for the target.
fn crossing(command: &str, arguments: &[&str]) -> Command {
    let mut cargo = cargo(command, arguments);
    cargo
        .env("CC_aarch64_unknown_linux_gnu", COMPILER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("{EMULATOR} -L {LIBRARIES}"));
    cargo
}
