//! The servers that the tests start: found, or installed, or switched off by name.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::step::Runner;

/// Tells the tests which servers they do without, by names with commas between them.
pub(crate) const WITHOUT: &str = "KVTIER_TESTS_WITHOUT";

/// A server that tests need: its name, the program, and Debian's package.
struct Server {
    name: &'static str,
    program: &'static str,
    package: &'static str,
}

/// The S3 server is not among them: it is a crate, and built with the tests.
const SERVERS: [Server; 1] = [Server { name: "redis", program: "redis-server", package: "redis-server" }];

/// Sees to it that all servers are there but for those that are switched off: with `--without NAME[,NAME]`, or by the
/// variable [`WITHOUT`]. Returns the ones switched off, for the tests.
pub(crate) fn ensure(runner: &mut Runner, arguments: &[String]) -> Result<String> {
    let without = match arguments {
        [] => env::var(WITHOUT).unwrap_or_default(),
        [flag, names] if flag == "--without" => names.clone(),
        _ => {
            bail!("`cargo xtask test` takes only `--without NAME[,NAME]`, but got `{}`", arguments.join(" "))
        }
    };
    let off: Vec<&str> = without.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    for name in &off {
        ensure!(
            SERVERS.iter().any(|server| server.name == *name),
            "there is no server `{name}` to do without; there are {}",
            SERVERS.map(|server| server.name).join(", ")
        );
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let needed = SERVERS.iter().filter(|server| !off.contains(&server.name));
    let missing: Vec<&Server> = needed.filter(|server| !is_on(&path, server.program)).collect();
    if !missing.is_empty() {
        install(runner, &missing)?;
    }
    for name in &off {
        eprintln!("    NOT TESTED: what needs the server {name}, which is switched off");
    }
    Ok(off.join(","))
}

fn is_on(path: &OsStr, program: &str) -> bool {
    env::split_paths(path).any(|folder| folder.join(program).is_file())
}

/// Lists what is missing, with the command that installs it, and runs that where it may be run without asking.
fn install(runner: &mut Runner, missing: &[&Server]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|server| server.package).collect();
    let command = format!("apt-get install --yes {}", packages.join(" "));
    eprintln!("==> missing servers");
    for Server { name, program, package } in missing {
        eprintln!("    {name}: no `{program}` on PATH; Debian's package {package} has it");
    }
    let is_root = Path::new("/proc/self").metadata().is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    if !(is_root && is_on(&env::var_os("PATH").unwrap_or_default(), "apt-get")) {
        let names: Vec<&str> = missing.iter().map(|server| server.name).collect();
        bail!(
            "servers are missing; install them with `sudo {command}`, or do without their tests: \
             `cargo xtask test --without {}`",
            names.join(",")
        );
    }
    runner.run("list of packages", Command::new("apt-get").args(["update", "--quiet"]))?;
    // They are started by the tests, on ports of their own, and not by the system.
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&packages);
    runner.run("servers", install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
}
