//! The code map in `docs/architecture.md` names every module of the library down to the second level.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot read a file")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the names of the modules in a folder, without those of tests, and the folders among them.
fn modules(folder: &Path) -> BTreeSet<(String, bool)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path.is_dir()))
        .filter(|(name, _)| name != "mod" && !name.contains("test"))
        .collect()
}

#[test]
fn the_code_map_names_every_module_of_the_first_two_levels() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, map) = text.split_once("\n## Code map\n").unwrap();
    let map = map.split("\n## ").next().unwrap();
    let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let named: BTreeSet<&str> =
        map.split('`').skip(1).step_by(2).flat_map(|code| code.split(|c| !is_word(c))).collect();
    let source = root.join("host/src");
    let mut missing = Vec::new();
    for (module, is_folder) in modules(&source) {
        let inner = if is_folder { modules(&source.join(&module)) } else { BTreeSet::new() };
        missing.extend(inner.into_iter().map(|(name, _)| name).filter(|name| !named.contains(name.as_str())));
        if !named.contains(module.as_str()) {
            missing.push(module);
        }
    }
    assert!(missing.is_empty(), "the code map lacks {missing:?}");
}
