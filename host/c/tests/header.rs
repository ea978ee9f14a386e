//! The header in `include/` is the one that the functions give. `KVTIER_HEADER=write cargo test -p kvtier-c` writes it.
#![expect(clippy::unwrap_used, reason = "a test fails where it cannot read a file")]

use std::fs;
use std::path::Path;

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, ExportConfig, Language, RenameRule, Style};

/// The sources, in the order of the header.
const SOURCES: [&str; 7] = ["error", "arguments", "engine", "find", "store", "lent", "receipt"];

/// Types, and their names in C.
const NAMES: [(&str, &str); 20] = [
    ("Status", "kvtier_status"),
    ("Key", "kvtier_key"),
    ("Tiers", "kvtier_tiers"),
    ("EngineHandle", "kvtier_engine"),
    ("ConfigSource", "kvtier_config"),
    ("TokenMetadata", "kvtier_token_metadata"),
    ("KeyMetadata", "kvtier_key_metadata"),
    ("Tag", "kvtier_tag"),
    ("Bytes", "kvtier_bytes"),
    ("ChunkHandle", "kvtier_chunk"),
    ("AllocationHandle", "kvtier_allocation"),
    ("MissingChunk", "kvtier_missing_chunk"),
    ("Release", "kvtier_release_callback"),
    ("Lent", "kvtier_lent"),
    ("FetchOutcome", "kvtier_fetch_outcome"),
    ("FetchResult", "kvtier_fetch_result"),
    ("Completed", "kvtier_completed_callback"),
    ("ReceiptHandle", "kvtier_receipt"),
    ("PutOutcome", "kvtier_put_outcome"),
    ("PutResult", "kvtier_put_result"),
];

const INTRODUCTION: &str = "\
/**
 * kvtier: tiered storage for KV caches of large language models, with storage backends in a sandbox.
 *
 * Results. A function that can fail returns a kvtier_status, and kvtier_error() has the text. Arguments are checked
 * before anything is done; panics are caught.
 *
 * Waiting. Functions that may ask a backend block the calling thread, at most until the limit that the configuration
 * sets for the operation, or the limit that they are given.
 *
 * Ownership. Handles are opaque. Each is released once, by the function that its comment names. Handles and results
 * outlive the engine they come from. What a caller passes is read during the call only, except lent memory.
 *
 * Threads. Any thread may use a handle, several at a time, unless its comment says otherwise. The release of a handle
 * comes after all other uses. After fork(), the child calls kvtier_abandon() first.
 *
 * Texts are UTF-8 and end with a zero. Arrays of no elements may be NULL.
 *
 * This file is made of the sources in host/c/src; a test compares it.
 */";

fn header() -> String {
    let config = Config {
        language: Language::C,
        header: Some(INTRODUCTION.to_owned()),
        include_guard: Some("KVTIER_H".to_owned()),
        no_includes: true,
        sys_includes: ["stdbool.h", "stddef.h", "stdint.h"].map(str::to_owned).to_vec(),
        cpp_compat: true,
        usize_is_size_t: true,
        style: Style::Both,
        documentation_style: DocumentationStyle::Doxy,
        line_length: 100,
        tab_width: 4,
        export: ExportConfig {
            rename: NAMES.map(|(rust, c)| (rust.to_owned(), c.to_owned())).into(),
            ..ExportConfig::default()
        },
        enumeration: EnumConfig {
            rename_variants: RenameRule::ScreamingSnakeCase,
            prefix_with_name: true,
            ..EnumConfig::default()
        },
        ..Config::default()
    };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let builder = Builder::new().with_config(config);
    let builder =
        SOURCES.iter().fold(builder, |builder, name| builder.with_src(sources.join(format!("{name}.rs"))));
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap().replace(" * # Safety\n", " * Required:\n")
}

#[test]
fn the_header_is_that_of_the_functions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/kvtier.h");
    let header = header();
    if std::env::var_os("KVTIER_HEADER").is_some_and(|what| what == "write") {
        fs::write(&path, &header).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(committed == header, "host/c/include/kvtier.h differs; KVTIER_HEADER=write writes it:\n{header}");
    let sources: String = SOURCES
        .map(|name| {
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/{name}.rs"))).unwrap()
        })
        .concat();
    let n_functions = sources.matches("#[unsafe(no_mangle)]").count();
    assert_eq!(
        header.matches(" * Required:\n").count() + 2,
        n_functions,
        "each has its comment, two need nothing"
    );
}
