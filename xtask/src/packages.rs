//! The packages as a registry would deliver them: they are packed, unpacked, and compiled against each other.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::step::{Runner, cargo};

/// The published packages and their folders. A package comes after those that it depends on.
const PACKAGES: [(&str, &str); 5] = [
    ("kvtier-guest-macros", "guest-sdk/macros"),
    ("kvtier-guest", "guest-sdk"),
    ("kvtier", "host"),
    ("kvtier-check", "host/check"),
    ("kvtier-cli", "host/cli"),
];

/// Folders of the workspace beside those of the packages. Their crates are users of the packages.
const OTHERS: [&str; 5] = ["example-backends", "host/c", "host/python", "tests", "xtask"];

/// Packs the packages, replaces their folders by the results in a copy of the workspace, and compiles that.
///
/// The copy has the workspace's members and lock file, so cargo chooses the same features and compiles no dependency a
/// second time.
pub(crate) fn check(runner: &mut Runner) -> Result<()> {
    let mut arguments = vec!["--no-verify", "--allow-dirty", "--quiet"];
    for (name, _) in PACKAGES {
        arguments.extend(["--package", name]);
    }
    runner.cargo("packages", "package", &arguments)?;

    let copy = runner.workspace.target.join("package").join("workspace");
    if copy.exists() {
        fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    lay_out(runner, &copy)?;
    let mut check = cargo("check", &["--workspace", "--lib", "--bins", "--offline"]);
    check
        .arg("--manifest-path")
        .arg(copy.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&runner.workspace.target);
    runner.run("packages, unpacked", &mut check)
}

fn lay_out(runner: &mut Runner, copy: &Path) -> Result<()> {
    let root = &runner.workspace.root;
    fs::create_dir_all(copy).with_context(|| format!("cannot make {}", copy.display()))?;
    for folder in OTHERS {
        let link = copy.join(folder);
        let parent = link.parent().unwrap_or(copy);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        symlink(root.join(folder), link).with_context(|| format!("cannot link {folder}"))?;
    }
    let manifest = read(&root.join("Cargo.toml"))?;
    // A packed manifest names versions of the others, not their folders.
    let packed = PACKAGES.map(|(name, folder)| format!("{name} = {{ path = \"{folder}\" }}"));
    let manifest = format!("{manifest}\n[patch.crates-io]\n{}\n", packed.join("\n"));
    write(&copy.join("Cargo.toml"), &manifest)?;
    write(&copy.join("Cargo.lock"), &read(&root.join("Cargo.lock"))?)?;
    for (name, folder) in PACKAGES {
        let archive = archive(runner, name)?;
        let folder = copy.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&archive).arg("--strip-components=1").arg("-C").arg(&folder);
        runner.run("unpack", &mut tar)?;
        // Only the workspace's lock file counts.
        let lock = folder.join("Cargo.lock");
        if lock.exists() {
            fs::remove_file(&lock).with_context(|| format!("cannot remove {}", lock.display()))?;
        }
    }
    Ok(())
}

/// Returns the file that `cargo package` made: all packages have the version of the workspace, which is this program's.
fn archive(runner: &Runner, name: &str) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let archive = runner.workspace.target.join("package").join(format!("{name}-{version}.crate"));
    anyhow::ensure!(archive.is_file(), "`cargo package` did not make {}", archive.display());
    Ok(archive)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_every_member_of_the_workspace() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
        let metadata = cargo("metadata", &["--no-deps", "--offline", "--format-version", "1"])
            .current_dir(root)
            .output()
            .expect("cargo runs");
        let metadata: serde_json::Value =
            serde_json::from_slice(&metadata.stdout).expect("cargo prints JSON");
        let packages = metadata["packages"].as_array().expect("cargo lists packages");
        assert!(packages.len() > PACKAGES.len());
        for package in packages {
            let manifest = Path::new(package["manifest_path"].as_str().expect("a package has a manifest"));
            let folder = manifest
                .parent()
                .and_then(|folder| folder.strip_prefix(root).ok())
                .expect("a member's folder");
            let packed = PACKAGES.iter().any(|(_, packed)| folder == Path::new(packed));
            let linked = OTHERS.iter().any(|other| folder.starts_with(other));
            assert!(packed != linked, "{} is neither packed nor linked, or both", folder.display());
        }
    }
}
