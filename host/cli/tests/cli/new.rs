//! `kvtier new`: what it writes, and what it refuses. `cargo xtask templates` builds the projects and runs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::{kvtier, shown};

const LANGUAGES: [&str; 4] = ["rust", "python", "javascript", "c"];

/// Runs `kvtier` with these words in a folder, and shows what it prints.
fn run(folder: &TempDir, words: &str) -> String {
    shown(&mut kvtier(folder.path(), words))
}

/// Returns all files below a folder, with their paths.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], BTreeMap::new());
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Returns the templates that `--list` names, as a language and a medium.
fn listed(folder: &TempDir) -> Vec<(String, String)> {
    let text = run(folder, "new --list");
    let rows = text.lines().skip(2).map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    });
    rows.collect()
}

#[test]
fn each_listed_template_becomes_a_project_with_names_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let templates = listed(&folder);
    assert!(
        LANGUAGES.iter().all(|language| templates.contains(&(language.to_string(), "memory".to_owned())))
    );
    for (language, medium) in templates {
        let name = format!("my-{language}-{medium}");
        let text = run(&folder, &format!("new {name} --lang {language} --on {medium}"));
        assert!(text.starts_with(&format!("exit 0\nmade ./{name}: ")), "{text}");
        let files = files(&folder.path().join(&name));
        for expected in [".gitignore", ".github/workflows/ci.yml", "README.md", "kvtier.yaml"] {
            assert!(files.contains_key(expected), "{language}: {expected}");
        }
        assert_eq!(files.contains_key("wit/deps/kvtier-storage/backend.wit"), language != "rust");
        for (path, bytes) in &files {
            let text = String::from_utf8_lossy(bytes);
            for word in ["KVTIER_", "new-backend", "new_backend", "NewBackend"] {
                assert!(!text.contains(word), "{language}: {path} has the word {word} of the template");
            }
            assert!(Path::new(path).extension().is_none_or(|ending| ending != "in"), "{path}");
        }
        let lines = String::from_utf8_lossy(&files["README.md"]).lines().count();
        assert!(lines <= 45, "{language}: a README of {lines} lines is more than a screen");
        let text = run(&folder, &format!("config {name}/kvtier.yaml"));
        assert!(text.contains("does not exist"), "only the component is missing: {text}");
    }
}

#[test]
fn projects_carry_the_contract_of_this_program() {
    let folder = tempfile::tempdir().unwrap();
    run(&folder, "new cache --lang python");
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
    let carried = files(&folder.path().join("cache/wit/deps/kvtier-storage"));
    assert!(carried.contains_key("backend.wit") && carried.contains_key("streams.wit"));
    for (name, bytes) in carried {
        assert_eq!(bytes, fs::read(wit.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn rust_depends_on_the_sdk_of_this_version_or_on_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = |name: &str| fs::read_to_string(folder.path().join(name).join("Cargo.toml")).unwrap();
    let hint = "for that of a checkout, give --sdk CHECKOUT/guest-sdk";
    assert!(run(&folder, "new published --lang rust").contains(hint));
    let version = format!("kvtier-guest = {{ version = \"{}\" }}", env!("CARGO_PKG_VERSION"));
    assert!(manifest("published").contains(&version), "{}", manifest("published"));
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk").canonicalize().unwrap();
    assert!(!run(&folder, &format!("new local --lang rust --sdk {}", sdk.display())).contains(hint));
    assert!(manifest("local").contains(&format!("kvtier-guest = {{ path = \"{}\" }}", sdk.display())));
    let refused = run(&folder, &format!("new other --lang rust --sdk {}", sdk.join("macros").display()));
    assert!(refused.contains("is the folder of another crate; give that of kvtier-guest"), "{refused}");
    assert!(!folder.path().join("other").exists());
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    run(&folder, "new cache --lang c");
    let before = files(folder.path());
    insta::assert_snapshot!(run(&folder, "new cache --lang python"), @r"
    exit 1
    error: `./cache` exists, and `kvtier new` overwrites nothing; choose another name, or remove it
    ");
    assert!(files(folder.path()) == before);
    insta::assert_snapshot!(run(&folder, "new cache --lang c --in none"), @r"
    exit 1
    error: cannot make the folder `none/cache`; the folder above it must exist
      because: No such file or directory (os error 2)
    ");
}

#[test]
fn names_and_options_that_cannot_work_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(run(&folder, "new MyCache --lang c"), @r"
    exit 1
    error: `MyCache` cannot name a project
      because: use 1 to 64 lower-case letters and digits, with `-` or `_` between words and a letter first, such as `my-cache`
    ");
    insta::assert_snapshot!(run(&folder, "new kvtier-guest --lang rust"), @r"
    exit 1
    error: `kvtier-guest` cannot name a project
      because: this name is taken: it is a keyword or a crate; add a word, such as `kvtier-guest-cache`
    ");
    insta::assert_snapshot!(run(&folder, "new local_disk --lang c"), @r"
    exit 1
    error: the name cannot be used
      because: configuration text: `external_backends`: the backend name `local_disk` belongs to a built-in tier; choose another name
    ");
    insta::assert_snapshot!(run(&folder, "new cache --lang c --sdk ."), @r"
    exit 1
    error: --sdk is for Rust; projects in c do not use the crate kvtier-guest
    ");
    insta::assert_snapshot!(run(&folder, "new cache --lang rust --sdk none"), @r"
    exit 1
    error: --sdk none: cannot be read
      because: No such file or directory (os error 2)
    ");
    assert!(
        run(&folder, "new cache --lang rust --sdk .").contains("is not the folder of a crate; give that of")
    );
    assert!(run(&folder, "new cache --lang go").starts_with("exit 2\nerror: invalid value 'go' for"));
    assert!(files(folder.path()).is_empty());
}

#[test]
fn missing_tools_are_named_with_what_installs_them() {
    let folder = tempfile::tempdir().unwrap();
    for (language, tool, install) in [
        ("rust", "rustup", "https://rustup.rs"),
        ("python", "componentize-py", "pip install -r requirements.txt"),
        ("javascript", "npm", "Debian: apt-get install npm; others: https://nodejs.org"),
        ("c", "zig", "pip install -r requirements.txt (or use clang, as Makefile says)"),
    ] {
        let mut new = kvtier(folder.path(), &format!("new of-{language} --lang {language}"));
        let text = shown(new.env("PATH", "/nowhere"));
        assert!(text.starts_with("exit 0\n"), "the project is written: {text}");
        assert!(text.contains(&format!("missing: {tool}; to install it: {install}\n")), "{text}");
    }
}
