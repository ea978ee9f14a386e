//! The order of this folder's modules, checked: each names only itself and those before it.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top.
const LAYERS: [&str; 16] = [
    "no_memory",
    "cpu_time",
    "engine",
    "component",
    "threads",
    "class",
    "contract",
    "policy",
    "state",
    "imports",
    "prepared",
    "store",
    "lane",
    "load",
    "tier",
    "report",
];

/// Returns the Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Returns the modules of this folder that a line of code names. `is_direct` is whether `super` is this folder.
fn named(line: &str, is_direct: bool) -> Vec<&str> {
    let through_super = if is_direct { line } else { "" }.split("use super::").skip(1);
    let first =
        |rest: &'_ str| rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    line.split("crate::wasm::").skip(1).chain(through_super).map(|rest| &rest[..first(rest)]).collect()
}

#[test]
fn no_module_names_one_above_it_and_policy_does_not_name_wasmtime() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wasm");
    let rank = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let mut n_checked = 0;
    for path in files(&folder) {
        let inside = path.strip_prefix(&folder).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let Some(own) = rank(first.trim_end_matches(".rs")) else {
            assert!(["mod.rs", "layers.rs"].contains(&first), "{first} has no place among the layers");
            continue;
        };
        let is_direct = inside.iter().count() == 1 || inside == Path::new(first).join("mod.rs");
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for module in named(line, is_direct) {
                let above = rank(module).is_some_and(|other| other > own);
                assert!(!above, "{}: {line}", inside.display());
                n_checked += 1;
            }
            assert!(first != "policy" || !line.contains("wasmtime"), "{}: {line}", inside.display());
        }
    }
    assert!(n_checked > 100, "{n_checked}");
}
