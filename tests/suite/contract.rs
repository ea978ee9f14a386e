//! The contract: its text, the components that fulfil it, and how classes are found by name.

use std::fs;
use std::path::{Path, PathBuf};

use kvtier::__internal::wasm::{MethodReport, inspect};
use kvtier::{CONTRACT_VERSION, HotCache, Sha256Digest, Tiers, block_on};
use sha2::Digest as _;
use wit_parser::{Docs, Resolve, Stability, TypeDefKind};

use crate::support;

fn wit() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wit")
}

fn wit_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            wit_files(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Existing components are built against this text. A change to a published version's files, even to a comment, has to
/// be made here too, deliberately.
#[test]
fn the_text_of_the_contract_is_pinned() {
    let mut files = Vec::new();
    wit_files(&wit(), &mut files);
    files.sort();
    let line = |path: &PathBuf| {
        let digest = Sha256Digest(sha2::Sha256::digest(fs::read(path).unwrap()).into()).to_string();
        format!("{} {digest}\n", path.strip_prefix(wit()).unwrap().display())
    };
    let text: String = files.iter().map(line).collect();
    insta::assert_snapshot!(text, @r"
    backend.wit sha256:74c843b70eb3b1e2647bfbac7463588f7995f3f49c16432f7ffbbd052b1f4a2f
    buffers.wit sha256:c4ac72f8151c2f4adc1747aed32f2b0ce9bdd033563677bbec9667a0a3329973
    class-names.txt sha256:bf77e0aebc79089a353208dd05fa1b771b55f5c0152774a939c2b592ffa8278e
    deps/clocks-0.3/system-clock.wit sha256:9a4a78fccb29e63ef9ff1f67d57f62f3cb6a4c08928918032a821823dbd76eb2
    deps/filesystem-0.2/types.wit sha256:17eab61a3acd669a72146687c3ec6743d4df8c9abeaedc36dba31acf7258c0d6
    deps/filesystem-0.3/preopens.wit sha256:2fad0f1db5cb457785118d813fd5715db9881281de2adc33471cf8655232eec4
    deps/filesystem-0.3/types.wit sha256:69057d9eb665993e22ddf893afff0994d4a2bfdcb7e7db55390540d0567fa024
    directory.wit sha256:19833ed4fecb638b5b2dd31ec789b5776ddfae3e6083dff0e999390d23b31061
    files.wit sha256:7fba84929ec297307c94690b591e700b46e3d5fef0e0532479b784a06c784532
    limits.wit sha256:3afff752676a823a3136e508cd52017888fecdfae77386de8437b7314799d0a4
    logging.wit sha256:f8a047d7fca8473b09b8f1baa3796044825e79aa7667eab5b8711b3d82fe1a9f
    streams.wit sha256:87d9bb0107a939605c0b3a61c0a1c9017c1fa8413da9f7c031019d1852fac950
    types.wit sha256:da990579ccbd062b20c11ede9f8541f85cf0d388321639d4acc6987397fea0e6
    values.txt sha256:2f2eb524f91a7b9faa8b8b7d1375982b78636ff588aba1d51ae56d77e7049907
    worlds.wit sha256:18a6b176d52c64d96ec7484eae2cb44ba3609b7bed44493026b4966a2d277899
    ");
}

fn assert_documented(what: &str, docs: &Docs, stability: &Stability) {
    assert!(docs.contents.as_ref().is_some_and(|text| text.len() > 10), "{what} has no documentation");
    match stability {
        Stability::Stable { since, .. } => assert_eq!(since.to_string(), "0.1.0", "{what}"),
        other => panic!("{what} has no @since: {other:?}"),
    }
}

#[test]
fn every_item_of_the_contract_is_documented_and_dated() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit()).unwrap();
    let package = &resolve.packages[package];
    assert_eq!(package.name.to_string(), format!("kvtier:storage@{CONTRACT_VERSION}"));
    let mut interfaces: Vec<&str> = package.interfaces.keys().map(String::as_str).collect();
    interfaces.sort_unstable();
    assert_eq!(
        interfaces,
        [
            "backend",
            "buffers",
            "directory",
            "directory-blocking",
            "files",
            "files-blocking",
            "limits",
            "logging",
            "streams",
            "types"
        ]
    );
    let mut n_items = 0;
    for (name, id) in &package.interfaces {
        let interface = &resolve.interfaces[*id];
        assert_documented(name, &interface.docs, &interface.stability);
        for (function_name, function) in &interface.functions {
            assert_documented(&format!("{name}: {function_name}"), &function.docs, &function.stability);
            n_items += 1;
        }
        for (type_name, id) in &interface.types {
            let ty = &resolve.types[*id];
            let what = format!("{name}: {type_name}");
            let parts: Vec<(&String, &Docs)> = match &ty.kind {
                // `use`: documented where it is defined.
                TypeDefKind::Type(_) => continue,
                TypeDefKind::Record(record) => record.fields.iter().map(|f| (&f.name, &f.docs)).collect(),
                TypeDefKind::Variant(variant) => variant.cases.iter().map(|c| (&c.name, &c.docs)).collect(),
                TypeDefKind::Enum(of) => of.cases.iter().map(|c| (&c.name, &c.docs)).collect(),
                _ => Vec::new(),
            };
            assert_documented(&what, &ty.docs, &ty.stability);
            for (part, docs) in parts {
                assert!(docs.contents.is_some(), "{what}: {part} has no documentation");
            }
            n_items += 1;
        }
    }
    assert!(n_items > 25, "{n_items}");
    for (name, id) in &package.worlds {
        let world = &resolve.worlds[*id];
        assert_documented(name, &world.docs, &world.stability);
    }
}

#[test]
fn every_class_of_the_examples_and_of_the_test_components_fulfils_the_contract() {
    let classes_of_the_examples: [(&str, &[&str]); 6] = [
        ("log", &["ExternalLogBackend"]),
        ("memory", &["LruMemoryBackend", "MemoryBackend"]),
        ("fs", &["FsBackend"]),
        ("redis", &["RedisBackend"]),
        ("s3", &["S3Backend"]),
        ("middleware", &["Backend"]),
    ];
    let components: Vec<_> = fs::read_dir(support::component("log").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    assert!(components.len() > classes_of_the_examples.len());
    std::thread::scope(|scope| {
        for path in &components {
            scope.spawn(move || {
                let name = path.file_stem().unwrap().to_str().unwrap();
                let inspection = inspect(path).unwrap();
                let mut found: Vec<&str> =
                    inspection.classes.iter().map(|class| class.name.as_str()).collect();
                found.sort_unstable();
                assert!(!found.is_empty(), "{name}");
                if let Some((_, classes)) = classes_of_the_examples.iter().find(|(other, _)| *other == name) {
                    assert_eq!(found, *classes, "{name}");
                }
                for class in &inspection.classes {
                    let flaws: Vec<_> = class.methods.iter().filter_map(MethodReport::flaw).collect();
                    assert!(class.fulfils_contract(), "{name}: {}: {flaws:?}", class.name);
                    // One style throughout; the constructor has none.
                    let n_async = class.methods[1..].iter().filter(|method| method.asynchronous).count();
                    assert!([0, class.methods.len() - 1].contains(&n_async), "{name}: {}", class.name);
                }
                assert_eq!(inspection.contract_version.as_deref(), Some(CONTRACT_VERSION));
                let bytes = fs::read(path).unwrap();
                assert_eq!(inspection.size_bytes, bytes.len() as u64);
                assert_eq!(inspection.digest, Sha256Digest(sha2::Sha256::digest(&bytes).into()));
            });
        }
    });
}

#[test]
fn inspection_names_the_grants_that_imports_need() {
    let imports = |component: &str| inspect(&support::component(component)).unwrap().imports;
    let grant = |imports: &[(String, Option<&str>)], prefix: &str| {
        let found = imports.iter().find(|(name, _)| name.starts_with(prefix));
        found.unwrap_or_else(|| panic!("{prefix} in {imports:?}")).1.map(str::to_owned)
    };
    let fs = imports("fs");
    assert_eq!(grant(&fs, "kvtier:storage/files@").as_deref(), Some("allow.fs"));
    assert_eq!(grant(&fs, "wasi:filesystem/types@0.3").as_deref(), Some("allow.fs"));
    assert_eq!(grant(&fs, "kvtier:storage/buffers@"), None);
    let s3 = imports("s3");
    assert_eq!(grant(&s3, "wasi:http/client@0.3").as_deref(), Some("allow.net"));
    let probe = imports("probe");
    assert_eq!(grant(&probe, "wasi:sockets/tcp@").as_deref(), Some("allow.net"));
    assert_eq!(grant(&probe, "wasi:cli/environment@").as_deref(), Some("allow.env"));
}

/// Stores three chunks in one backend, and gets them back from it alone, twice.
fn stores_and_serves(name: &str, component: &str, class_name: &str) {
    let engine = support::engine(support::config(vec![support::backend(name, component, class_name)]));
    let storage = engine.storage();
    let keys = support::keys(3);
    support::put_in(storage, &keys, name);
    assert_eq!(support::counted(storage, name).puts, 3, "{class_name}");
    storage.set_hot_cache(HotCache::Off);
    for _ in 0..2 {
        assert_eq!(support::served(&support::get(storage, &keys)), [1; 3], "{class_name}");
    }
    assert_eq!(block_on(storage.remove(&keys[1..2], &Tiers::only([name]))), Ok(1));
    assert_eq!(block_on(storage.contains(&keys, &Tiers::only([name]))).n_chunks, 1);
    assert_eq!(support::counted(storage, name).errors.len(), 0, "{:?}", support::counted(storage, name));
    support::assert_nothing_leaks(storage);
    engine.blocking().close().unwrap();
}

#[test]
fn both_classes_written_against_plain_wit_store_and_serve_chunks() {
    stores_and_serves("plain-alpha", "plain", "AlphaBackend");
    stores_and_serves("plain-beta", "plain", "BetaStore2");
}

#[test]
fn a_class_that_works_on_one_chunk_at_a_time_stores_and_serves_chunks() {
    stores_and_serves("one-by-one", "map", "MapBackend");
    stores_and_serves("inner", "inner", "Backend");
}

#[test]
fn a_class_in_blocking_style_stores_and_serves_chunks() {
    stores_and_serves("blocking-style", "blocking", "BlockingMemoryBackend");
}

#[test]
fn a_class_answers_to_its_rust_name_its_kebab_name_and_its_full_name() {
    let names = ["BetaStore2", "beta-store2", "kvtier-test:plain/second/beta-store2"];
    for (number, class_name) in names.into_iter().enumerate() {
        stores_and_serves(&format!("named-{number}"), "plain", class_name);
    }
}

#[test]
fn a_component_that_exports_the_template_interface_has_the_class_backend() {
    let names = [
        "Backend",
        "backend",
        "kvtier:storage/backend@0.1.0/backend",
        "kvtier:storage/backend/backend",
        "kvtier:storage/backend@0.1.0",
        "kvtier:storage/backend",
    ];
    for (number, class_name) in names.into_iter().enumerate() {
        stores_and_serves(&format!("template-{number}"), "template", class_name);
    }
}

/// Stores chunks of one size and fetches them into buffers of others.
fn a_shorter_chunk_is_served_and_a_larger_one_is_a_miss_that_stays(backend: kvtier::BackendConfig) {
    let name = backend.name.clone();
    let engine = support::engine(support::config(vec![backend]));
    let storage = engine.storage();
    storage.set_hot_cache(HotCache::Off);
    let keys = support::keys(3);
    support::put_in(storage, &keys, &name);
    let size_bytes = support::specs(&keys)[0].size_bytes;
    let lens = |change: isize| -> Vec<usize> {
        let sized = |key: &kvtier::ChunkKey| kvtier::ChunkSpec {
            key: *key,
            size_bytes: size_bytes.strict_add_signed(change),
        };
        let specs: Vec<_> = keys.iter().map(sized).collect();
        let found = block_on(storage.get(&specs, &Tiers::only([name.as_str()]), None));
        let is_larger = |missed: &kvtier::MissedChunk| missed.miss.reason() == "larger_than_buffer";
        assert!(found.misses.iter().all(is_larger), "{name}: {:?}", found.misses);
        found.chunks.iter().map(|chunk| chunk.len()).collect()
    };
    for larger in [1, 63, 64, 5_000] {
        assert_eq!(lens(larger), [size_bytes; 3], "{name}: {larger} bytes more than needed");
    }
    for smaller in [-1, -64, -1_000] {
        assert_eq!(lens(smaller), [0; 0], "{name}: {smaller}");
    }
    assert_eq!(lens(0), [size_bytes; 3], "{name}: it has stayed");
    let reading = storage.status().backends.swap_remove(0).reading;
    assert_eq!(reading.failures, 0, "{name}: {:?}", reading.last_cause);
    let errors = support::counted(storage, &name).errors;
    assert!(errors.is_empty(), "{name}: {errors:?}");
    support::assert_nothing_leaks(storage);
}

#[test]
fn capacities_are_upper_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let mut by_name = support::backend("size-by-name", "probe", "SpliceBackend");
    by_name.config.push(("by_name".into(), "1".into()));
    by_name.allow.fs = support::fs("", folder.path()).allow.fs;
    let mut backends: Vec<_> = [
        ("memory", "MemoryBackend"),
        ("memory", "LruMemoryBackend"),
        ("plain", "AlphaBackend"),
        ("plain", "BetaStore2"),
        ("template", "Backend"),
        ("map", "MapBackend"),
        ("blocking", "BlockingMemoryBackend"),
    ]
    .into_iter()
    .map(|(component, class)| support::backend(&format!("size-{class}"), component, class))
    .collect();
    let files = tempfile::tempdir().unwrap();
    backends.extend([by_name, support::fs("size-fs", files.path())]);
    for backend in backends {
        a_shorter_chunk_is_served_and_a_larger_one_is_a_miss_that_stays(backend);
    }
}

#[test]
fn the_name_of_an_interface_means_its_only_class() {
    stores_and_serves("interface-plain", "plain", "kvtier-test:plain/alpha");
}

#[test]
fn two_classes_of_one_component_are_two_backends_that_share_nothing() {
    let alpha = support::backend("share-alpha", "plain", "AlphaBackend");
    let beta = support::backend("share-beta", "plain", "BetaStore2");
    let engine = support::engine(support::config(vec![alpha, beta]));
    let storage = engine.storage();
    let keys = support::keys(2);
    support::put_in(storage, &keys, "share-beta");
    let n_in = |name: &str| block_on(storage.contains(&keys, &Tiers::only([name]))).n_chunks;
    assert_eq!((n_in("share-alpha"), n_in("share-beta")), (0, 2));
    assert_eq!(support::served(&support::get(storage, &keys)), [2, 2]);
}
