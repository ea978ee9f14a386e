//! The wheel for aarch64 on a machine of another kind: Debian's Python for aarch64, run by QEMU.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::step::{Runner, is_on_path};

const EMULATOR: &str = "qemu-aarch64";

/// Debian's packages of a Python that can import an extension.
const PACKAGES: [&str; 8] = [
    "libc6",
    "libexpat1",
    "libgcc-s1",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "python3.11-minimal",
    "zlib1g",
];

/// Opens a chain without a backend, and derives a key.
const PROGRAM: &str = "import kvtier, platform; \
    storage = kvtier.Storage.from_dict({'max_local_cpu_size': 0.01}, kvtier.StorageMetadata('m', 'l', 64)); \
    print(platform.machine(), kvtier.__version__, storage.keys(['name']).hex()); storage.close()";

/// Imports the wheel and opens a chain. Skipped, by name, without QEMU or Debian's tools.
pub(super) fn try_wheel(runner: &mut Runner, wheel: &Path) -> Result<()> {
    for (program, package) in
        [(EMULATOR, "qemu-user"), ("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("unzip", "unzip")]
    {
        if !is_on_path(program) {
            eprintln!(
                "    NOT TESTED: the wheel for aarch64: no `{program}` on PATH (Debian: apt-get install {package})"
            );
            return Ok(());
        }
    }
    let folder = runner.workspace.target.join("python-aarch64");
    let (root, package) = (folder.join("root"), folder.join("package"));
    if !root.join("usr/bin/python3.11").exists()
        && let Err(error) = install(runner, &folder, &root)
    {
        eprintln!("    NOT TESTED: the wheel for aarch64: Debian 12 has the Python for it: {error:#}");
        return Ok(());
    }
    if package.exists() {
        fs::remove_dir_all(&package).with_context(|| format!("cannot remove {}", package.display()))?;
    }
    runner.run("unpacking", Command::new("unzip").arg("-q").arg(wheel).arg("-d").arg(&package))?;
    let mut python = Command::new(EMULATOR);
    python.arg("-L").arg(&root).arg(root.join("usr/bin/python3.11")).args(["-c", PROGRAM]);
    runner.run("wheel on aarch64", python.env("PYTHONHOME", root.join("usr")).env("PYTHONPATH", &package))
}

/// Downloads Debian's packages of the other architecture, without a change to the system.
fn install(runner: &mut Runner, folder: &Path, root: &Path) -> Result<()> {
    for part in ["lists/partial", "cache/archives/partial", "packages", "root"] {
        let part = folder.join(part);
        fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
    }
    fs::write(folder.join("status"), "")?;
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        for (name, value) in
            [("Dir::State::lists", "lists"), ("Dir::Cache", "cache"), ("Dir::State::status", "status")]
        {
            apt.arg("-o").arg(format!("{name}={}", folder.join(value).display()));
        }
        apt.args(["-q", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64"]).args(words);
        apt
    };
    runner.run("list of packages", &mut apt(&["update"]))?;
    let mut words = vec!["download"];
    words.extend(PACKAGES);
    let packages = folder.join("packages");
    // The step runs in the repository's root, and apt downloads into the current folder.
    let mut download = Command::new("env");
    let apt = apt(&words);
    download.arg("--chdir").arg(&packages).arg(apt.get_program()).args(apt.get_args());
    runner.run("Python for aarch64", &mut download)?;
    for package in fs::read_dir(&packages)? {
        runner.run("unpacking", Command::new("dpkg-deb").arg("-x").arg(package?.path()).arg(root))?;
    }
    Ok(())
}
