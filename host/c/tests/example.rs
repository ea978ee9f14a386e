//! The example in C, compiled and run as its own comment says; and the header in C++.
#![expect(clippy::unwrap_used, reason = "a test fails where it cannot run a compiler")]

use std::path::{Path, PathBuf};
use std::process::Command;

use kvtier_tests::support;

const FLAGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reports whether a compiler exists, and says what is not tested if it does not.
fn exists(compiler: &str, what: &str) -> bool {
    let exists = Command::new(compiler).arg("--version").output().is_ok();
    if !exists {
        eprintln!("NOT TESTED: {what}: no `{compiler}` on PATH");
    }
    exists
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// The folder in which cargo has put the library for this test.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn compile(directory: &Path) -> PathBuf {
    let program = directory.join("prompt");
    let libraries = libraries();
    succeed(
        Command::new("cc")
            .args(FLAGS)
            .args(["-std=c11", "-I"])
            .arg(folder().join("include"))
            .arg(folder().join("examples/prompt.c"))
            .arg("-L")
            .arg(&libraries)
            .arg(format!("-Wl,-rpath,{}", libraries.display()))
            .args(["-lkvtier_c", "-o"])
            .arg(&program),
    );
    program
}

#[test]
fn the_example_stores_a_prompt_and_a_page_and_finds_them_in_other_engines() {
    if !exists("cc", "the example in C") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = compile(directory.path());
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let config = directory.path().join("kvtier.yaml");
    let yaml = format!(
        "chunk_size: 64\n\
         max_local_cpu_size: 0.01\n\
         external_backends: disk\n\
         extra_config:\n\
         \x20 external_backend.disk.module_path: '{}'\n\
         \x20 external_backend.disk.class_name: FsBackend\n\
         \x20 external_backend.disk.allow.fs: ['{}:/data:rw']\n\
         {}\
         \x20 kvtier.compile_cache: '{}'\n\
         \x20 kvtier.compiler: off\n\
         \x20 kvtier.on_load_error: fail\n",
        support::component("fs").display(),
        data.display(),
        support::patient_lines("  external_backend.disk."),
        support::compile_cache().display(),
    );
    std::fs::write(&config, yaml).unwrap();
    let printed = succeed(Command::new(&program).arg(&config));
    let expected = "4 of 4 chunks stored\n\
                    4 found in the second engine, 4 right\n\
                    page stored in `disk`\n\
                    present: 1 0, page of 5000 bytes fetched\n\
                    1 removed";
    assert_eq!(printed, expected);
    // A failure is a message and an exit code.
    let output = Command::new(&program).arg(directory.path().join("none.yaml")).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("open: ") && message.contains("none.yaml"), "{message}");
}

#[test]
fn the_header_is_valid_in_c_plus_plus() {
    if !exists("c++", "the header in C++") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("header.cpp");
    std::fs::write(&source, "#include \"kvtier.h\"\nint main() { return kvtier_version() == nullptr; }\n")
        .unwrap();
    let mut compiler = Command::new("c++");
    succeed(
        compiler
            .args(FLAGS)
            .args(["-std=c++17", "-fsyntax-only", "-I"])
            .arg(folder().join("include"))
            .arg(source),
    );
}
