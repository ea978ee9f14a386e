//! Builds the WebAssembly components: the example backends and the tests' guests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use serde::Deserialize;

use crate::step::{self, Runner, Workspace};

pub(crate) const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "guest";

/// The folders of the packages, with the prefix of their names that the component's file name leaves out.
const FOLDERS: [(&str, &str); 2] =
    [("example-backends", "kvtier-backend-"), ("tests/guests", "kvtier-test-guest-")];

/// Builds all guests, copies them to [`folder`], and returns the names of their packages.
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
        place(&from, &folder.join(format!("{name}.wasm")))
            .with_context(|| format!("cannot copy {} to {}", from.display(), folder.display()))?;
    }
    // Components of removed packages must not be found.
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

/// Replaces a component in one step, so that readers of the old one are not disturbed.
fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    let part = to.with_extension("part");
    fs::copy(from, &part)?;
    fs::rename(&part, to)
}

/// Returns the folder of the built components.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("kvtier-guests")
}

/// Returns cargo's arguments that select the guests, their target and their profile.
pub(crate) fn target_arguments(packages: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = ["--target", TARGET, "--profile", PROFILE].map(str::to_owned).into();
    arguments.extend(packages.iter().flat_map(|package| ["--package".to_owned(), package.clone()]));
    arguments
}

/// The output of `cargo metadata`, as far as it is needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// A package that builds a component.
#[derive(Debug, PartialEq, Eq)]
struct Guest {
    package: String,
    /// The file name of the built component, without `.wasm`.
    artifact: String,
}

/// Returns the guests by the name of their component.
fn discover(workspace: &Workspace) -> Result<BTreeMap<String, Guest>> {
    let mut cargo = step::cargo("metadata", &["--no-deps", "--format-version", "1"]);
    let output = cargo.current_dir(&workspace.root).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice(&output.stdout).context("cannot understand cargo's metadata")?;
    guests_in(metadata, &workspace.root)
}

fn guests_in(metadata: Metadata, root: &Path) -> Result<BTreeMap<String, Guest>> {
    let mut guests = BTreeMap::new();
    for Package { name: package, manifest_path, targets } in metadata.packages {
        let Some((_, prefix)) =
            FOLDERS.iter().find(|(folder, _)| manifest_path.starts_with(root.join(folder)))
        else {
            continue;
        };
        let component =
            targets.into_iter().find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"));
        let artifact =
            component.with_context(|| format!("`{package}` is not a cdylib"))?.name.replace('-', "_");
        let name = package.strip_prefix(prefix).unwrap_or(&package).to_owned();
        if let Some(other) = guests.insert(name.clone(), Guest { package: package.clone(), artifact }) {
            bail!("two packages make {name}.wasm: `{}` and `{package}`", other.package);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, targets: &[(&str, &str)]) -> Package {
        let targets = targets
            .iter()
            .map(|(name, kind)| Target { name: (*name).into(), crate_types: vec![(*kind).into()] });
        Package {
            name: name.into(),
            manifest_path: Path::new("/root").join(folder).join("Cargo.toml"),
            targets: targets.collect(),
        }
    }

    fn guests(packages: Vec<Package>) -> Result<Vec<(String, String, String)>> {
        let guests = guests_in(Metadata { packages }, Path::new("/root"))?;
        Ok(guests.into_iter().map(|(name, guest)| (name, guest.package, guest.artifact)).collect())
    }

    #[test]
    fn components_have_the_names_of_their_packages_without_the_prefix() {
        let found = guests(vec![
            package("kvtier-backend-log", "example-backends/log", &[("build", "bin"), ("log", "cdylib")]),
            package("kvtier-test-guest-x", "tests/guests/x", &[("kvtier-test-guest-x", "cdylib")]),
            package("kvtier", "host", &[("kvtier", "lib")]),
        ]);
        let named = |names: [&str; 3]| names.map(str::to_owned).into();
        assert_eq!(
            found.unwrap(),
            [
                named(["log", "kvtier-backend-log", "log"]),
                named(["x", "kvtier-test-guest-x", "kvtier_test_guest_x"])
            ]
        );
    }

    #[test]
    fn a_guest_that_builds_no_component_or_some_other_is_refused() {
        let refused = |packages| guests(packages).unwrap_err().to_string();
        let lib = package("kvtier-backend-log", "example-backends/log", &[("log", "lib")]);
        assert_eq!(refused(vec![lib]), "`kvtier-backend-log` is not a cdylib");
        let guest = |name: &str| package(name, "tests/guests/x", &[("x", "cdylib")]);
        let same_file =
            "`kvtier-test-guest-x` and `kvtier-test-guest-y` build the same file x.wasm; rename one [lib]";
        assert_eq!(refused(vec![guest("kvtier-test-guest-x"), guest("kvtier-test-guest-y")]), same_file);
        assert!(refused(Vec::new()).starts_with("no guest packages under "));
    }
}
