//! The bindings for C that `kvtier new` writes are those of the contract.

use std::fs;
use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{AsyncFilterSet, Files};

/// What the functions of C are called after: the interface alone, and not its package and version.
const NAMES: [(&str, &str); 5] = [
    ("kvtier:storage/types@0.1.0", "types"),
    ("kvtier:storage/buffers@0.1.0", "buffers"),
    ("kvtier:storage/directory@0.1.0", "directory"),
    ("kvtier:storage/logging@0.1.0", "logging"),
    ("kvtier:storage/backend@0.1.0", "backend"),
];

/// Returns the generated files: a header, a source file, and an object that describes the world.
///
/// Asynchronous functions are ordinary functions of C. The host still sees an asynchronous class, so that an instance
/// survives a call that expires.
fn generate(package: &Path) -> Files {
    let mut resolve = Resolve::default();
    let template = package.join("templates/c/any/wit/world.wit");
    resolve.push_path(package.join("wit")).unwrap();
    let (project, _) = resolve.push_path(template).unwrap();
    let world = resolve.select_world(&[project], Some("component")).unwrap();
    let options = wit_bindgen_c::Opts {
        rename: NAMES.map(|(from, to)| (from.to_owned(), to.to_owned())).to_vec(),
        rename_world: Some("backend".to_owned()),
        async_: AsyncFilterSet::all(false),
        ..wit_bindgen_c::Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).unwrap();
    files
}

#[test]
fn the_bindings_for_c_are_those_of_the_contract() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = package.join("templates/c/any/bindings");
    let files = generate(package);
    let names: Vec<&str> = files.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["backend.c", "backend.h", "backend_component_type.o"]);
    for (name, bytes) in files.iter() {
        let path = folder.join(name);
        if std::env::var_os("KVTIER_BINDINGS").is_some_and(|what| what == "write") {
            fs::write(&path, bytes).unwrap();
        }
        let is_current = fs::read(&path).is_ok_and(|committed| committed == bytes);
        assert!(is_current, "{} differs; KVTIER_BINDINGS=write in the environment writes it", path.display());
    }
}
