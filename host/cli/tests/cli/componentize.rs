//! `kvtier componentize`. `cargo xtask templates` tries it with a real compiler.

use std::fs;

use tempfile::TempDir;
use wit_bindgen_core::wit_parser::Resolve;
use wit_component::{StringEncoding, embed_component_metadata};

use crate::{kvtier, shown};

fn run(folder: &TempDir, words: &str) -> String {
    shown(&mut kvtier(folder.path(), words))
}

/// Writes a core module, with the description of a world that exports `run`.
fn write_module(folder: &TempDir, name: &str, text: &str) {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("a.wit", "package a:b; world w { export run: func(); }").unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    fs::write(folder.path().join(name), module).unwrap();
}

#[test]
fn a_module_becomes_the_component_that_it_describes() {
    let folder = tempfile::tempdir().unwrap();
    write_module(&folder, "core.wasm", r#"(module (func (export "run")))"#);
    let text = run(&folder, "componentize core.wasm -o out.wasm");
    assert!(text.starts_with("exit 0\nout.wasm: "), "{text}");
    let component = fs::read(folder.path().join("out.wasm")).unwrap();
    assert_eq!(component[..8], *b"\0asm\x0d\0\x01\0");
    // Again, as a Makefile does after a change.
    assert!(run(&folder, "componentize core.wasm -o out.wasm").starts_with("exit 0\n"));
    insta::assert_snapshot!(run(&folder, "componentize out.wasm -o again.wasm"), @r"
    exit 1
    error: cannot make a component of out.wasm
      because: it is not a core module; a component needs no further step
    ");
}

#[test]
fn modules_that_cannot_become_a_component_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let wasi = r#"(module (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
        (func (export "run")))"#;
    write_module(&folder, "wasi.wasm", wasi);
    write_module(&folder, "empty.wasm", "(module)");
    fs::write(folder.path().join("plain.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
    fs::write(folder.path().join("text.wasm"), "text").unwrap();
    let refused = |name: &str| {
        let text = run(&folder, &format!("componentize {name}.wasm -o out.wasm"));
        assert!(!folder.path().join("out.wasm").exists());
        text
    };
    insta::assert_snapshot!(refused("wasi"), @r"
    exit 1
    error: cannot make a component of wasi.wasm
      because: it imports functions of wasi_snapshot_preview1, which the C library uses for files, printf, clocks or the environment; use the contract's own interfaces instead, or `wasm-tools component new --adapt`
    ");
    insta::assert_snapshot!(refused("empty"), @r"
    exit 1
    error: cannot make a component of empty.wasm
      because: failed to decode world from module
      because: module was not valid
      because: failed to find export of function `run`
    ");
    insta::assert_snapshot!(refused("plain"), @r"
    exit 1
    error: cannot make a component of plain.wasm
      because: it does not describe a component; link the object that belongs to the bindings (`backend_component_type.o`)
    ");
    insta::assert_snapshot!(refused("text"), @r"
    exit 1
    error: cannot make a component of text.wasm
      because: it is not WebAssembly
    ");
    insta::assert_snapshot!(refused("none"), @r"
    exit 1
    error: cannot open the module none.wasm
      because: No such file or directory (os error 2)
    ");
}
