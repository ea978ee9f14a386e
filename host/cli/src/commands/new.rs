//! `kvtier new`: a project for a backend's author.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;
use kvtier::Config;

use super::print;
use crate::args::NewArgs;
use crate::project::{File, Language, Medium, Name, Project, Tool, files, missing, write};
use crate::table::table;

/// Makes a project, or lists the templates.
///
/// # Errors
/// If the name cannot be used, if the folder exists, or if a file cannot be written.
pub fn new(args: &NewArgs, out: &mut impl Write) -> Result<()> {
    let (Some(text), Some(language)) = (&args.name, args.lang) else {
        return print(out, &list());
    };
    let name = Name::parse(text).with_context(|| format!("`{text}` cannot name a project"))?;
    ensure!(
        args.sdk.is_none() || language == Language::Rust,
        "--sdk is for Rust; projects in {} do not use the crate kvtier-guest",
        language.name()
    );
    let sdk = args.sdk.as_deref().map(checked_sdk).transpose()?;
    let project = Project { name, language, medium: args.on, sdk };
    let files = files(&project);
    check_configuration(&files)?;
    let folder = args.folder.join(project.name.as_str());
    write(&folder, &files)?;
    print(out, &next_steps(&project, &folder))
}

/// The crate that projects in Rust use.
const SDK: &str = "kvtier-guest";

/// Returns the SDK's folder as an absolute path: the project may be elsewhere.
fn checked_sdk(folder: &Path) -> Result<std::path::PathBuf> {
    let folder =
        folder.canonicalize().with_context(|| format!("--sdk {}: cannot be read", folder.display()))?;
    ensure!(
        folder.join("Cargo.toml").is_file(),
        "--sdk {}: is not the folder of a crate; give that of kvtier-guest",
        folder.display()
    );
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml"))
        .with_context(|| format!("--sdk {}: Cargo.toml cannot be read", folder.display()))?;
    ensure!(
        manifest.lines().any(|line| line == format!("name = \"{SDK}\"")),
        "--sdk {}: is the folder of another crate; give that of {SDK}",
        folder.display()
    );
    ensure!(
        folder.to_str().is_some_and(|text| !text.contains(char::is_control)),
        "--sdk {}: the path cannot stand in a manifest; move the crate",
        folder.display()
    );
    Ok(folder)
}

/// Checks the project's configuration: names of built-in tiers cannot name a backend.
fn check_configuration(files: &[File]) -> Result<()> {
    for file in files.iter().filter(|file| file.path == Path::new("kvtier.yaml")) {
        let text = String::from_utf8_lossy(&file.bytes);
        Config::from_yaml(&text, ".", std::iter::empty()).context("the name cannot be used")?;
    }
    Ok(())
}

fn next_steps(project: &Project, folder: &Path) -> String {
    let Project { language, medium, .. } = project;
    let mut text = format!(
        "made {}: a backend in {} that keeps chunks in {}; README.md there has the steps\n\n  cd {}\n",
        folder.display(),
        language.name(),
        medium.name(),
        folder.display()
    );
    for command in language.build_commands().iter().chain(&["kvtier check --config kvtier.yaml"]) {
        text.extend(["  ", command, "\n"]);
    }
    if *language == Language::Rust && project.sdk.is_none() {
        let version = env!("CARGO_PKG_VERSION");
        text.extend(["\nCargo.toml names ", SDK, " ", version, " of crates.io"]);
        text.push_str("; for that of a checkout, give --sdk CHECKOUT/guest-sdk\n");
    }
    for Tool { name, install, .. } in missing(*language) {
        text.extend(["\nmissing: ", name, "; to install it: ", install, "\n"]);
    }
    text
}

fn list() -> String {
    let rows = Language::value_variants().iter().flat_map(|language| {
        Medium::value_variants().iter().map(|medium| {
            let command = format!("kvtier new NAME --lang {} --on {}", language.name(), medium.name());
            [language.name().to_owned(), medium.name().to_owned(), command]
        })
    });
    table(&["language", "keeps chunks in", "command"], 3, rows)
}
