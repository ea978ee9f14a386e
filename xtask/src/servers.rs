//! What the tests need from outside: finds it, installs it, or switches it off by name.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::step::{Runner, is_on_path};
use crate::templates;

/// Names the servers that are switched off, separated by commas.
pub(crate) const WITHOUT: &str = "KVTIER_TESTS_WITHOUT";

/// A server that tests need: its name, its program, and Debian's package.
struct Server {
    name: &'static str,
    program: &'static str,
    package: &'static str,
}

/// Switches off the tests in Python, which need packages from PyPI.
pub(crate) const PYTHON: &str = "python";

/// The S3 server is not among them: it is a crate, and built with the tests.
const SERVERS: [Server; 1] = [Server { name: "redis", program: "redis-server", package: "redis-server" }];

/// Ensures that all servers exist, except those that `without` or the variable [`WITHOUT`] switches off. Returns the
/// names of what is switched off, for the tests.
pub(crate) fn ensure(runner: &mut Runner, without: Option<String>) -> Result<String> {
    let without = switched_off(without)?;
    let off: Vec<&str> = without.split(',').collect();
    let needed = SERVERS.iter().filter(|server| !off.contains(&server.name));
    let missing: Vec<&Server> = needed.filter(|server| !is_on_path(server.program)).collect();
    if !missing.is_empty() {
        install(runner, &missing)?;
    }
    Ok(without)
}

/// Returns the names that `without` or the variable [`WITHOUT`] switches off, with commas between them, and prints that
/// they are not tested.
pub(crate) fn switched_off(without: Option<String>) -> Result<String> {
    let without = without.unwrap_or_else(|| env::var(WITHOUT).unwrap_or_default());
    let off: Vec<&str> = without.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let known = || SERVERS.iter().map(|server| server.name).chain([PYTHON]).chain(templates::switches());
    for name in &off {
        ensure!(
            known().any(|known| known == *name),
            "there is nothing called `{name}` to leave out; you can leave out {}",
            known().collect::<Vec<_>>().join(", ")
        );
    }
    for name in &off {
        eprintln!("    NOT TESTED: everything that needs {name}, which is switched off");
    }
    Ok(off.join(","))
}

/// Lists the missing servers and the command that installs them. Runs it where root may.
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
    if !(is_root && is_on_path("apt-get")) {
        let names: Vec<&str> = missing.iter().map(|server| server.name).collect();
        bail!(
            "servers are missing; install them with `sudo {command}`, or leave out their tests: \
             `cargo xtask test --without {}`",
            names.join(",")
        );
    }
    runner.run("list of packages", Command::new("apt-get").args(["update", "--quiet"]))?;
    // The tests start them on free ports; the system must not start them.
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&packages);
    runner.run("servers", install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_templates_are_switched_off_by_name_and_other_names_are_refused() {
        let without = |names: &str| switched_off(Some(names.to_owned()));
        assert_eq!(without(" redis, template-c,").unwrap(), "redis,template-c");
        let error = without("template-go").unwrap_err().to_string();
        assert!(
            error.ends_with("redis, python, template-python, template-javascript, template-c"),
            "{error}"
        );
    }
}
