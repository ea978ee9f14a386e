//! The order of this folder's modules, checked: each names only itself and those before it.

use std::collections::HashMap;
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

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == module)
}

/// Returns the Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Returns the path of the module in a file of this folder.
fn module_of(file: &str) -> Vec<&str> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    std::iter::once("wasm").chain(path.split('/')).collect()
}

fn is_part_of_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// Adds the paths of the tree, or the one path, with which `text` begins, each after `prefix`. Returns the text after
/// it.
fn paths<'a>(text: &'a str, prefix: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> &'a str {
    let mut path = prefix.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(mut tree) = rest.strip_prefix('{') {
            loop {
                tree = paths(tree, &path, found);
                let Some(end) = tree.find([',', '}']) else { return "" };
                let is_last = tree[end..].starts_with('}');
                tree = &tree[end + 1..];
                if is_last {
                    return tree;
                }
            }
        }
        let (word, after) = rest.split_at(rest.find(|c| !is_part_of_word(c)).unwrap_or(rest.len()));
        path.push(word);
        match after.strip_prefix("::") {
            Some(next) if !word.is_empty() => rest = next,
            _ => {
                found.push(path);
                return after;
            }
        }
    }
}

/// Returns the absolute paths that the file of `module` names from `crate` or `super` on.
fn named(text: &str, module: &[&str]) -> Vec<Vec<String>> {
    let mut named = Vec::new();
    // The modules that are written out in the file, with their indentation.
    let mut inline: Vec<(usize, &str)> = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let code = line.trim();
        let indentation = line.len() - line.trim_start().len();
        if let Some((_, name)) = code.strip_suffix(" {").and_then(|head| head.rsplit_once("mod ")) {
            inline.push((indentation, name));
        } else if code == "}" && inline.last().is_some_and(|(of_module, _)| *of_module == indentation) {
            inline.pop();
        }
        let is_comment = code.starts_with("//");
        for (at, _) in line.match_indices("crate").chain(line.match_indices("super")).filter(|_| !is_comment)
        {
            if line[..at].ends_with(|c| is_part_of_word(c) || c == ':') {
                continue;
            }
            let mut found = Vec::new();
            paths(&text[offset + at..], &[], &mut found);
            for path in found {
                let here = module.iter().copied().chain(inline.iter().map(|(_, name)| *name));
                let mut absolute: Vec<&str> = here.collect();
                for word in path {
                    match word {
                        "crate" => absolute.clear(),
                        "super" => drop(absolute.pop()),
                        "self" | "" => {}
                        word => absolute.push(word),
                    }
                }
                named.push(absolute.into_iter().map(str::to_owned).collect());
            }
        }
        offset += line.len();
    }
    named
}

/// The names that `mod.rs` exports, with the module that each is from.
fn exports(text: &str) -> HashMap<&str, &str> {
    let mut found = Vec::new();
    for export in text.split("pub use ").skip(1) {
        paths(export, &[], &mut found);
    }
    found.into_iter().filter_map(|path| Some((*path.last()?, *path.first()?))).collect()
}

/// Returns the layers that the file of `module` names.
fn layers_named(text: &str, module: &[&str], exports: &HashMap<&str, &str>) -> Vec<usize> {
    let layer = |path: &Vec<String>| match path.as_slice() {
        [wasm, name, ..] if wasm == "wasm" => rank(exports.get(name.as_str()).unwrap_or(&name.as_str())),
        _ => None,
    };
    named(text, module).iter().filter_map(layer).collect()
}

#[test]
fn no_module_names_one_above_it_and_policy_does_not_name_wasmtime() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wasm");
    let root = fs::read_to_string(folder.join("mod.rs")).unwrap();
    let exports = exports(&root);
    assert_eq!(exports["WasmTier"], "tier");
    let mut n_checked = 0;
    for path in files(&folder) {
        let file = path.strip_prefix(&folder).unwrap().to_str().unwrap();
        let module = module_of(file);
        let Some(own) = rank(module[1]) else {
            assert!(["mod.rs", "layers.rs"].contains(&file), "{file} has no place among the layers");
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        let layers = layers_named(&text, &module, &exports);
        n_checked += layers.len();
        let above: Vec<_> = layers.into_iter().filter(|layer| *layer > own).map(|at| LAYERS[at]).collect();
        assert!(above.is_empty(), "{file} names {above:?}");
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            assert!(module[1] != "policy" || !line.contains("wasmtime"), "{file}: {line}");
        }
    }
    assert!(n_checked > 100, "{n_checked}");
}

#[test]
fn every_form_of_a_path_is_resolved() {
    let exports = HashMap::from([("WasmTier", "tier")]);
    let names_tier = |file: &str, text: &str| {
        layers_named(text, &module_of(file), &exports).iter().any(|&layer| LAYERS[layer] == "tier")
    };
    for (file, text) in [
        ("lane/call.rs", "use crate::wasm::tier::WasmTier;"),
        ("lane/call.rs", "use crate::wasm::WasmTier;"),
        ("lane/call.rs", "use crate::wasm::{\n    engine,\n    tier::{self, WasmTier},\n};"),
        ("lane/call.rs", "use crate::{limits::MAX, wasm::tier};"),
        ("lane/call.rs", "pub(in crate::wasm) use super::super::tier::WasmTier;"),
        ("lane/call.rs", "let tier = super::super::tier::WasmTier::new();"),
        ("lane/call.rs", "use super::super::{engine::Ticker, tier};"),
        ("lane/call.rs", "use super::{super::tier, serve};"),
        ("lane/call.rs", "mod tests {\n    use super::super::super::tier;\n}"),
        ("lane/call.rs", "$crate::wasm::tier::shadow!()"),
        ("lane/mod.rs", "use super::tier::WasmTier;"),
        ("lane/mod.rs", "use super::{engine, tier};"),
        ("store.rs", "use super::{engine, tier};"),
        ("store.rs", "mod tests {\n    use super::*;\n    use super::super::tier;\n}"),
        ("store.rs", "mod tests {\n}\nuse super::tier;"),
    ] {
        assert!(names_tier(file, text), "{file}: {text}");
    }
    for (file, text) in [
        ("lane/call.rs", "use super::{tier, serve};"),
        ("lane/mod.rs", "mod tests {\n    use super::tier;\n}"),
        ("lane/call.rs", "/// See [`crate::wasm::tier`].\nuse crate::tier::Tier;"),
        ("lane/call.rs", "use crate::wasm::engine::tier;"),
    ] {
        assert!(!names_tier(file, text), "{file}: {text}");
    }
}
