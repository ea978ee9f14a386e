//! Licences, bans, sources and advisories of all dependencies, by cargo-deny.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::step::Runner;

/// The version to install if there is none.
const VERSION: &str = "0.20.2";

/// Runs the checks that need no database, or the named ones. `install` only installs cargo-deny.
pub(crate) fn run(runner: &mut Runner, checks: &[String]) -> Result<()> {
    let cargo_deny = find_or_install(runner)?;
    if checks == ["install"] {
        return Ok(());
    }
    let mut command = Command::new(cargo_deny);
    // As cargo would start it.
    command.args(["deny", "--all-features", "check", "--hide-inclusion-graph"]);
    if checks.is_empty() {
        command.args(["licenses", "bans", "sources"]);
    } else {
        command.args(checks);
    }
    runner.run("dependencies", &mut command)
}

fn find_or_install(runner: &mut Runner) -> Result<PathBuf> {
    let tools = runner.workspace.target.join("tools");
    let ours = tools.join("bin/cargo-deny");
    for found in [PathBuf::from("cargo-deny"), ours.clone()] {
        let mut ask = Command::new(&found);
        ask.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if ask.status().is_ok_and(|status| status.success()) {
            return Ok(found);
        }
    }
    let root = tools.into_os_string();
    let arguments = ["--locked", "cargo-deny", "--version", VERSION, "--root"].map(Into::into);
    runner.cargo("cargo-deny, once", "install", &[&arguments[..], &[root]].concat())?;
    Ok(ours)
}
