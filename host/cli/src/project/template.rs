//! The templates, which are embedded in this program.
//!
//! A project gets the files of `templates/MEDIUM`, of `templates/LANGUAGE/any` and of `templates/LANGUAGE/MEDIUM`. The
//! languages that need the contract's WIT get the files that the template uses.
//!
//! Templates are sources that build. Four names in them stand for those of the project: `new-backend`, `new_backend`,
//! `NewBackend`, and `KVTIER_…` for facts about this program. The ending `.in` of a file is dropped; it hides a
//! manifest and a list of ignored files from the tools of this repository.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::{Language, Medium, Project};

static TEMPLATES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/templates");
static CONTRACT: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/wit");

/// Ends the names of files that tools of this repository would take for their own.
const HIDDEN: &str = "in";

/// Generated files, which are copied as they are.
const GENERATED: &str = "bindings";

/// Where a project keeps the contract.
const CONTRACT_FOLDER: &str = "wit/deps/kvtier-storage";

/// A file of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path in the project.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Cow<'static, [u8]>,
}

/// Returns the files of a project in the order of their paths.
pub fn files(project: &Project) -> Vec<File> {
    let language = project.language.name();
    let medium = project.medium.name();
    let layers = [medium.to_owned(), format!("{language}/any"), format!("{language}/{medium}")];
    let names = names(project);
    let mut files = Vec::new();
    for layer in layers.iter().filter_map(|layer| TEMPLATES.get_dir(layer)) {
        collect(layer, layer.path(), &names, &mut files);
    }
    let interfaces = contract(project).iter();
    files.extend(interfaces.filter_map(|name| CONTRACT.get_file(format!("{name}.wit"))).map(|file| File {
        path: Path::new(CONTRACT_FOLDER).join(file.path()),
        bytes: Cow::Borrowed(file.contents()),
    }));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Returns the parts of the contract that a template uses. The tool for JavaScript does not read all of them.
fn contract(project: &Project) -> &'static [&'static str] {
    match (project.language, project.medium) {
        (Language::Rust, _) => &[],
        (Language::Python, Medium::Memory) => {
            &["types", "buffers", "limits", "logging", "streams", "backend"]
        }
        (Language::Javascript, Medium::Memory) => &["types", "buffers", "limits", "logging", "backend"],
        // The bindings for C are the same for both.
        (Language::C, _) | (_, Medium::Files) => &["types", "buffers", "logging", "directory", "backend"],
    }
}

/// Returns the row of the README's table about the part that only projects on files have.
fn file_names(project: &Project) -> Option<&'static str> {
    match (project.language, project.medium) {
        (_, Medium::Memory) => None,
        (Language::Rust, _) => Some("`src/file.rs` | the names of files"),
        (Language::Python, _) => Some("`files.py`, `test_files.py` | the names of files, and their tests"),
        (Language::Javascript, _) => {
            Some("`src/files.js`, `test/files.test.js` | the names of files, and their tests")
        }
        (Language::C, _) => {
            Some("`src/files.c`, `src/files.h`, `tests/test_files.c` | the names of files, and their tests")
        }
    }
}

/// Returns the names in templates, each with what replaces it. Longer ones come first.
fn names(project: &Project) -> Vec<(&'static str, String)> {
    let version = env!("CARGO_PKG_VERSION");
    let sdk = match &project.sdk {
        Some(folder) => format!("path = {:?}", folder.display().to_string()),
        None => format!("version = \"{version}\""),
    };
    let (language, medium) = (project.language, project.medium.name());
    let own = [
        ("new-backend", project.name.as_str().to_owned()),
        ("new_backend", project.name.module()),
        ("NewBackend", project.name.class()),
    ];
    let mut names = vec![
        ("KVTIER_COMPONENT", replace(language.component(), &own)),
        ("KVTIER_CLASS", replace(language.class(), &own)),
        ("KVTIER_MEDIUM", format!("in {medium}")),
        ("KVTIER_FILE_NAMES\n", file_names(project).map(|row| format!("| {row} |\n")).unwrap_or_default()),
        ("KVTIER_MEMORY", language.memory().to_owned()),
        ("KVTIER_VERSION", version.to_owned()),
        ("KVTIER_RUST", env!("CARGO_PKG_RUST_VERSION").to_owned()),
        ("KVTIER_SDK", sdk),
    ];
    names.extend(own);
    names
}

fn collect(
    folder: &'static Dir<'static>,
    layer: &Path,
    names: &[(&'static str, String)],
    files: &mut Vec<File>,
) {
    for file in folder.files() {
        let path = file.path().strip_prefix(layer).unwrap_or(file.path());
        let is_hidden = path.extension().is_some_and(|ending| ending == HIDDEN);
        let bytes = match file.contents_utf8() {
            Some(text) if !path.starts_with(GENERATED) => Cow::Owned(replace(text, names).into_bytes()),
            _ => Cow::Borrowed(file.contents()),
        };
        let path = if is_hidden { path.with_extension("") } else { path.to_owned() };
        files.push(File { path, bytes });
    }
    for folder in folder.dirs() {
        collect(folder, layer, names, files);
    }
}

/// Replaces names in one pass: a value may have a name in it.
fn replace(text: &str, names: &[(&'static str, String)]) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let next = names.iter().filter_map(|(name, value)| Some((rest.find(name)?, name, value)));
        let Some((at, name, value)) = next.min_by_key(|(at, ..)| *at) else {
            return replaced + rest;
        };
        replaced.push_str(&rest[..at]);
        replaced.push_str(value);
        rest = &rest[at + name.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_has_a_name_in_it_stays_as_it_is() {
        let names =
            [("new-backend", "my-new-backend".to_owned()), ("new_backend", "my_new_backend".to_owned())];
        assert_eq!(replace("new_backend new-backend x", &names), "my_new_backend my-new-backend x");
    }
}
