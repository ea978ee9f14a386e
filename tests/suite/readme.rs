//! The README's Rust: each of its lines is in a file that other tests compile and run.

use std::fs;
use std::path::Path;

/// The files that README shows, in its order: `embed` runs the first one, `single` and `contract` the second one.
const SHOWN: [&str; 2] = ["host/examples/serve.rs", "tests/guests/map/src/lib.rs"];

#[test]
fn each_line_of_rust_in_readme_is_compiled_and_run() {
    let readme = read("README.md");
    let blocks: Vec<String> = rust_blocks(&readme).collect();
    assert_eq!(blocks.len(), SHOWN.len(), "a block of README has no source file");
    for (block, path) in blocks.iter().zip(SHOWN) {
        assert!(block.len() > 300, "{block}");
        assert!(is_in(block, &read(path)), "README shows code that is not in {path}:\n{block}");
    }
    let changed = blocks[0].replace("retrieve", "receive");
    assert!(!is_in(&changed, &read(SHOWN[0])), "a changed block is found too");
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

fn rust_blocks(markdown: &str) -> impl Iterator<Item = String> {
    markdown.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned())
}

/// Reports whether the file contains the code. README breaks lines in fewer places, and groups its imports.
fn is_in(code: &str, file: &str) -> bool {
    let body = |text: &str| -> String {
        let lines = text.lines().filter(|line| !line.starts_with("use ") && !line.starts_with("//"));
        lines.flat_map(str::split_whitespace).collect()
    };
    body(file).contains(&body(code))
}
