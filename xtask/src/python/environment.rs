//! Virtual environments with what tests need from PyPI.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::step::{Runner, is_on_path};

/// Names the interpreter to use instead of `python3`.
const VARIABLE: &str = "KVTIER_PYTHON";

/// Prints `yes` in an interpreter that the package supports and that can make environments.
const PROBE: &str = "import sys, ensurepip; print('yes' if sys.version_info >= (3, 11) else 'no')";

/// Marks a folder as an environment of this program, which may be made again.
const MARKER: &str = "kvtier-environment";

/// Holds the steps that were installed.
const STAMP: &str = "kvtier-installed.txt";

/// A virtual environment.
pub(crate) struct Environment {
    pub(crate) folder: PathBuf,
}

/// Returns an interpreter of 3.11 or later: the one that `KVTIER_PYTHON` names, or `python3`. `None` if there is none.
pub(crate) fn find_python() -> Result<Option<PathBuf>> {
    let named = env::var_os(VARIABLE).filter(|program| !program.is_empty());
    let python = PathBuf::from(named.as_deref().unwrap_or("python3".as_ref()));
    if named.is_none() && !is_on_path("python3") {
        return Ok(None);
    }
    let probe = Command::new(&python).args(["-c", PROBE]).output();
    let is_usable = probe.as_ref().is_ok_and(|probe| probe.stdout.trim_ascii() == b"yes");
    if !is_usable && named.is_some() {
        bail!("{VARIABLE} names {}, which is not a Python of 3.11 or later with ensurepip", python.display());
    }
    Ok(is_usable.then_some(python))
}

impl Environment {
    /// Makes an environment and installs the steps, unless that was done before. Each line of `steps` that is no
    /// comment has the arguments of one `pip install`.
    pub(crate) fn ensure(runner: &mut Runner, python: &Path, folder: PathBuf, steps: &Path) -> Result<Self> {
        let text = fs::read_to_string(steps).with_context(|| format!("cannot read {}", steps.display()))?;
        let stamp = folder.join(STAMP);
        let environment = Self { folder };
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == text) {
            return Ok(environment);
        }
        let folder = environment.folder.display().to_string();
        let marker = environment.folder.join(MARKER);
        let is_empty = fs::read_dir(&environment.folder).map_or(true, |mut entries| entries.next().is_none());
        ensure!(
            is_empty || marker.exists(),
            "{folder} has files that are not kvtier's; name an empty folder"
        );
        runner.run("environment", Command::new(python).args(["-m", "venv", "--clear", &folder]))?;
        fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))?;
        for line in lines(&text) {
            let mut pip = environment.python();
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]);
            pip.args(line.split_whitespace().map(|word| word.replace("{folder}", &folder)));
            runner.run("packages", &mut pip).context(
                "PyPI is needed once for the tests in Python; leave them out with `cargo xtask test --without python`",
            )?;
        }
        fs::write(&stamp, text).with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(environment)
    }

    /// Returns `PATH` with the environment's programs first.
    pub(crate) fn search_path(&self) -> Result<OsString> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.join("bin")).chain(env::split_paths(&path));
        env::join_paths(folders).context("PATH cannot be extended by the environment's programs")
    }

    /// Returns a command that starts the environment's interpreter.
    pub(crate) fn python(&self) -> Command {
        Command::new(self.folder.join("bin/python"))
    }
}

/// Returns the lines that are steps.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_steps() {
        assert_eq!(lines("# torch\n\n a b \n#c\n--no-deps d\n").collect::<Vec<_>>(), ["a b", "--no-deps d"]);
    }
}
