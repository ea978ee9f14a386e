//! The Python package: builds it, tests it, and packs it as a wheel.
//!
//! Tests use the package from a folder, `target/python`: the Python files by symbolic links, the extension, and the
//! example components.

mod emulated;
mod environment;
mod runtimes;
mod wheel;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub(crate) use self::environment::{Environment, find_python};
pub(crate) use self::runtimes::{bench, install as install_runtimes, test as test_runtimes};
pub(crate) use self::wheel::build as build_wheels;
use crate::guests;
use crate::step::{Runner, Workspace};

/// The folder of the package's Python files.
const SOURCES: &str = "host/python/kvtier";
/// The example components that the package contains.
const COMPONENTS: [&str; 5] = ["fs", "log", "memory", "redis", "s3"];
/// The folders whose Python is formatted and checked.
const FORMATTED: [&str; 3] = ["host/python", "tests/python", "host/cli/templates/python"];
/// The extension and the command are built in one call: their features are the same, and wasmtime is compiled once.
const PACKAGES: [&str; 4] = ["--package", "kvtier-python", "--package", "kvtier-cli"];

/// The profile that the extension is built with.
#[derive(Clone, Copy)]
enum Profile {
    Dev,
    Release,
}

/// Builds the package into `target/python`. Guests have been built.
pub(crate) fn build(runner: &mut Runner) -> Result<PathBuf> {
    build_with(runner, Profile::Dev)
}

fn build_with(runner: &mut Runner, profile: Profile) -> Result<PathBuf> {
    let options: &[&str] = match profile {
        Profile::Dev => &[],
        Profile::Release => &["--release"],
    };
    runner.cargo("extension for Python", "build", &[&PACKAGES[..], options].concat())?;
    stage(runner.workspace, profile)
}

/// Puts the package together from what was built, and returns the folder that Python finds it in.
fn stage(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let (built, folder) = match profile {
        Profile::Dev => ("debug", "python"),
        Profile::Release => ("release", "python-release"),
    };
    let folder = workspace.target.join(folder);
    put_together(workspace, &folder.join("kvtier"), built)
        .context("cannot put the Python package together")?;
    Ok(folder)
}

/// Tests the package, without any serving engine. The tests in Rust have built the extension.
pub(crate) fn test(runner: &mut Runner) -> Result<()> {
    let Some(python) = find_python()? else {
        eprintln!(
            "    NOT TESTED: the Python package: no Python of 3.11 or later (Debian: apt-get install python3-venv)"
        );
        return Ok(());
    };
    let package = stage(runner.workspace, Profile::Dev)?;
    let folder = runner.workspace.target.join("python-environment");
    let steps = runner.workspace.root.join("tests/python/environment.txt");
    let environment = Environment::ensure(runner, &python, folder, &steps)?;
    for (name, words) in [("format of Python", "format --check"), ("lints of Python", "check")] {
        let mut ruff = environment.python();
        ruff.args(["-m", "ruff"]).args(words.split(' ')).args(["--no-cache", "--quiet", "--config"]);
        runner.run(name, ruff.arg("host/python/pyproject.toml").args(FORMATTED))?;
    }
    let mut pytest = pytest(runner.workspace, &environment, &package, &["tests/python/core"]);
    // CPython checks what is written beside its memory, and fills what is freed.
    runner.run("tests in Python", pytest.env("PYTHONMALLOC", "debug"))
}

/// Returns the command that runs tests in an environment, with the package on the path.
fn pytest(workspace: &Workspace, environment: &Environment, package: &Path, arguments: &[&str]) -> Command {
    let mut pytest = environment.python();
    pytest
        .args(["-X", "faulthandler", "-m", "pytest", "--quiet", "-p", "no:cacheprovider"])
        .args(arguments)
        .env("PYTHONPATH", package)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KVTIER_GUESTS", guests::folder(workspace));
    pytest
}

/// Puts the package together: links to the sources, the extension, the components.
fn put_together(workspace: &Workspace, package: &Path, built: &str) -> Result<()> {
    if package.exists() {
        fs::remove_dir_all(package)?;
    }
    link_sources(&workspace.root.join(SOURCES), package)?;
    let library = format!("{}kvtier_python{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    // There cargo puts it also if it is built for a test.
    fs::copy(workspace.target.join(built).join("deps").join(library), package.join("_kvtier.abi3.so"))?;
    copy_components(workspace, &package.join("components"))
}

fn link_sources(sources: &Path, package: &Path) -> Result<()> {
    fs::create_dir_all(package)?;
    for entry in fs::read_dir(sources)? {
        let entry = entry?;
        let (source, to) = (entry.path(), package.join(entry.file_name()));
        let is_source =
            source.extension().is_some_and(|kind| kind == "py" || kind == "pyi" || kind == "typed");
        if source.is_dir() && entry.file_name() != "__pycache__" {
            link_sources(&source, &to)?;
        } else if is_source {
            std::os::unix::fs::symlink(&source, &to)?;
        }
    }
    Ok(())
}

fn copy_components(workspace: &Workspace, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for name in COMPONENTS {
        let file = format!("{name}.wasm");
        fs::copy(guests::folder(workspace).join(&file), to.join(&file))
            .with_context(|| format!("cannot copy the component {name}"))?;
    }
    Ok(())
}
