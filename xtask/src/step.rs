//! Runs commands one after the other, prints each with its time, and stops at the first that fails.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The repository's folders.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the repository that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.parent().context("xtask is not inside a workspace")?.to_owned();
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
        Ok(Self { root, target })
    }
}

/// Runs steps in the repository's root.
pub(crate) struct Runner<'a> {
    pub(crate) workspace: &'a Workspace,
    start: Instant,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(workspace: &'a Workspace) -> Self {
        Self { workspace, start: Instant::now() }
    }

    /// Runs `cargo COMMAND ARGUMENTS`.
    pub(crate) fn cargo(&mut self, name: &str, command: &str, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
        self.run(name, &mut cargo(command, arguments))
    }

    /// Runs `cargo COMMAND ARGUMENTS` with a variable in its environment.
    pub(crate) fn cargo_with(
        &mut self,
        name: &str,
        command: &str,
        arguments: &[impl AsRef<OsStr>],
        (variable, value): (&str, &str),
    ) -> Result<()> {
        self.run(name, cargo(command, arguments).env(variable, value))
    }

    /// Runs one step, which inherits the standard output and error.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let shown = show(command, &self.workspace.root);
        eprintln!("==> {name}: {shown}");
        let start = Instant::now();
        let status = command
            .current_dir(&self.workspace.root)
            .status()
            .with_context(|| format!("step `{name}` failed: cannot start `{shown}`"))?;
        if !status.success() {
            bail!("step `{name}` failed ({status}): {shown}");
        }
        eprintln!("    {name}: done in {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Prints that everything is done, and how long it took.
    pub(crate) fn done(&self, what: &str) {
        eprintln!("==> {what} in {:.1} s", self.start.elapsed().as_secs_f64());
    }
}

/// Returns the command `cargo COMMAND ARGUMENTS`.
pub(crate) fn cargo(command: &str, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(command).args(arguments);
    cargo
}

/// Reports whether a folder of `PATH` has this program.
pub(crate) fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Returns the command as a user would type it in the repository's root: cargo by its name, our programs by their path.
fn show(command: &Command, root: &Path) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let shown = program.strip_prefix(root).map_or(name, Path::as_os_str);
    let words = std::iter::once(shown).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
