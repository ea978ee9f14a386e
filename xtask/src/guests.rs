//! Builds the WebAssembly components: the example backends, and the tests' guests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::manifest;
use crate::step::{Runner, Workspace};

pub(crate) const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "guest";

/// Where the packages are, and the prefix of their names that the component's file name leaves out.
const FOLDERS: [(&str, &str); 2] =
    [("example-backends", "kvtier-backend-"), ("tests/guests", "kvtier-test-guest-")];

/// Builds all guests, copies them to [`folder`], and answers their packages' names.
pub(crate) fn build(runner: &mut Runner) -> Result<Vec<String>> {
    let workspace = runner.workspace;
    let guests = discover(workspace)?;
    ensure_target(runner)?;
    let packages: Vec<String> = guests.values().map(|guest| guest.package.clone()).collect();
    runner.cargo("guests", "build", &target_arguments(&packages))?;

    let built = workspace.target.join(TARGET).join(PROFILE);
    let folder = folder(workspace);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, guest) in &guests {
        let from = built.join(format!("{}.wasm", guest.artifact));
        place(&from, &folder.join(format!("{name}.wasm"))).with_context(|| {
            format!(
                "cannot copy {} to {}; is `{}` a cdylib?",
                from.display(),
                folder.display(),
                guest.package
            )
        })?;
    }
    // A component that nobody builds any more must not be found.
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let known = path.file_stem().and_then(OsStr::to_str).is_some_and(|name| guests.contains_key(name));
        if !known || path.extension() != Some(OsStr::new("wasm")) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    eprintln!("    {} components in {}", guests.len(), folder.display());
    Ok(packages)
}

/// Copies a component in one step, for whoever is reading the old one.
fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    let part = to.with_extension("part");
    fs::copy(from, &part)?;
    fs::rename(&part, to)
}

/// The folder of the built components.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("kvtier-guests")
}

/// Cargo's arguments that select the guests, their target and their profile.
pub(crate) fn target_arguments(packages: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = ["--target", TARGET, "--profile", PROFILE].map(str::to_owned).into();
    arguments.extend(packages.iter().flat_map(|package| ["--package".to_owned(), package.clone()]));
    arguments
}

/// Finds the guests, by the name of their component.
fn discover(workspace: &Workspace) -> Result<BTreeMap<String, manifest::Names>> {
    let mut guests = BTreeMap::new();
    for (folder, prefix) in FOLDERS {
        let folder = workspace.root.join(folder);
        if !folder.exists() {
            continue;
        }
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path().join("Cargo.toml");
            if !path.exists() {
                continue;
            }
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let names =
                manifest::names(&text).with_context(|| format!("cannot understand {}", path.display()))?;
            let name = names.package.strip_prefix(prefix).unwrap_or(&names.package).to_owned();
            if let Some(other) = guests.insert(name.clone(), names) {
                bail!("two packages make {name}.wasm: `{}` and the one of {}", other.package, path.display());
            }
        }
    }
    ensure!(
        !guests.is_empty(),
        "no guest packages under {}",
        FOLDERS.map(|(folder, _)| folder).join(" and ")
    );
    let mut artifacts = BTreeMap::new();
    for guest in guests.values() {
        if let Some(other) = artifacts.insert(&guest.artifact, &guest.package) {
            bail!(
                "`{other}` and `{}` build the same file {}.wasm; rename one [lib]",
                guest.package,
                guest.artifact
            );
        }
    }
    Ok(guests)
}

/// Installs the standard library of the guests' target if it is missing.
fn ensure_target(runner: &mut Runner) -> Result<()> {
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(&runner.workspace.root)
        .output()
        .context("cannot start `rustc`; install Rust with rustup, see https://rustup.rs")?;
    let folder = String::from_utf8_lossy(&asked.stdout);
    if asked.status.success() && has_libraries(Path::new(folder.trim())) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    runner.run("wasm target", rustup.args(["target", "add", TARGET])).with_context(|| {
        format!(
            "the Rust target {TARGET} is missing. It is installed with `rustup target add {TARGET}`, which needs \
             rustup (https://rustup.rs) and the network; with another Rust installation, add the target's standard \
             library to {}",
            folder.trim()
        )
    })
}

fn has_libraries(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.path().extension() == Some(OsStr::new("rlib")))
    })
}
