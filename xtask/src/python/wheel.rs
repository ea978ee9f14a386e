//! Wheels for `manylinux_2_28`: x86-64, and aarch64 by cross-compilation. zig is the C compiler and linker, because it
//! links for the older C library that these wheels promise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::environment::{Environment, find_python};
use super::{COMPONENTS, copy_components, emulated};
use crate::guests;
use crate::step::Runner;

const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// Builds the wheels into `target/wheels`, and tries each as far as this machine can.
pub(crate) fn build(runner: &mut Runner) -> Result<()> {
    let python = find_python()?
        .context("wheels need Python 3.11 or later with venv; Debian: apt-get install python3-venv")?;
    guests::build(runner)?;
    let wheels = runner.workspace.target.join("wheels");
    if wheels.exists() {
        fs::remove_dir_all(&wheels).with_context(|| format!("cannot remove {}", wheels.display()))?;
    }
    let components = runner.workspace.root.join("host/python/kvtier/components");
    copy_components(runner.workspace, &components)?;
    let built = build_all(runner, &python, &wheels);
    for name in COMPONENTS {
        // They are part of wheels, not of the sources.
        fs::remove_file(components.join(format!("{name}.wasm"))).unwrap_or_default();
    }
    built?;
    for wheel in files(&wheels)? {
        let megabytes = wheel.metadata()?.len() as f64 / 1e6;
        eprintln!("    {} ({megabytes:.1} MB)", wheel.display());
    }
    try_natively(runner, &python, &wheels)?;
    let foreign = files(&wheels)?.into_iter().find(|wheel| wheel.to_string_lossy().contains("aarch64"));
    emulated::try_wheel(runner, &foreign.context("there is no wheel for aarch64")?)
}

fn build_all(runner: &mut Runner, python: &Path, wheels: &Path) -> Result<()> {
    let folder = runner.workspace.target.join("wheel-environment");
    let steps = runner.workspace.root.join("host/python/build-environment.txt");
    let tools = Environment::ensure(runner, python, folder, &steps)?;
    for target in TARGETS {
        runner.run(&format!("target {target}"), Command::new("rustup").args(["target", "add", target]))?;
        let mut maturin = tools.python();
        // It looks for `python3 -m ziglang` there.
        maturin.env("PATH", tools.search_path()?);
        maturin
            .args(["-m", "maturin", "build", "--release", "--strip", "--zig"])
            .args(["--compatibility", "manylinux_2_28", "--target", target])
            .args(["--manifest-path", "host/python/Cargo.toml", "--out"])
            .arg(wheels);
        runner.run(&format!("wheel for {target}"), &mut maturin)?;
    }
    Ok(())
}

/// Installs the wheel of this machine into an empty environment, and runs the first example there.
fn try_natively(runner: &mut Runner, python: &Path, wheels: &Path) -> Result<()> {
    let folder = runner.workspace.target.join("wheel-trial");
    let shown = folder.display().to_string();
    runner.run("empty environment", Command::new(python).args(["-m", "venv", "--clear", &shown]))?;
    let environment = Environment { folder };
    let mut pip = environment.python();
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--find-links",
    ]);
    runner.run("installation", pip.arg(wheels).arg("kvtier"))?;
    let example = runner.workspace.root.join("host/python/examples/quickstart.py");
    runner.run("first example", environment.python().arg("-I").arg(example))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.collect::<std::io::Result<Vec<_>>>()?.into_iter().map(|entry| entry.path()).collect())
}
