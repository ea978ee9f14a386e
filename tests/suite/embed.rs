//! Runs the examples as a new user would.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;

#[test]
fn the_embedding_example_stores_a_prompt_and_finds_its_prefix_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let config = write_config(directory.path(), &data);
    let printed = printed_by(Command::new(example("embed")).arg(&config));
    assert_eq!(printed, "256 of 356 tokens found\n192 of 256 tokens found, chunks [0, 1, 2]");
    let n_files = walk(&data);
    assert_eq!(n_files, 4, "the disk backend has every chunk");
}

#[test]
fn the_example_that_readme_shows_finds_in_a_second_process_what_it_stored_in_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    write_config(directory.path(), &data);
    for found in ["0 of 256 tokens found", "256 of 256 tokens found"] {
        let printed = printed_by(Command::new(example("serve")).current_dir(directory.path()));
        assert_eq!(printed, found);
    }
}

/// Writes a configuration with a disk backend, and returns its path.
fn write_config(directory: &Path, data: &Path) -> PathBuf {
    let config = directory.join("kvtier.yaml");
    let yaml = format!(
        "chunk_size: 64\n\
         max_local_cpu_size: 0.01\n\
         external_backends: disk\n\
         extra_config:\n\
         \x20 external_backend.disk.module_path: '{}'\n\
         \x20 external_backend.disk.class_name: FsBackend\n\
         \x20 external_backend.disk.allow.fs: ['{}:/data:rw']\n\
         {}\
         \x20 kvtier.on_load_error: fail\n",
        support::component("fs").display(),
        data.display(),
        support::patient_lines("  external_backend.disk."),
    );
    std::fs::write(&config, yaml).unwrap();
    config
}

#[test]
fn the_example_on_keys_stores_and_finds_chunks_under_keys_of_its_own() {
    let printed = printed_by(&mut Command::new(example("keys")));
    assert_eq!(printed, "3 chunks stored\n3 of 4 chunks found\nchunks [0, 1, 2]\n3 removed");
}

#[test]
fn the_example_that_starts_one_backend_finds_what_it_put() {
    let mut command = Command::new(example("backend"));
    let printed = printed_by(command.arg(support::component("memory")).arg("MemoryBackend"));
    assert_eq!(printed, "3 of 4 found\nserved: [true, true, true, false]");
}

/// Returns the program of an example. `cargo test` builds the examples beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(example.exists(), "run `cargo build --package kvtier --examples` first");
    example
}

fn printed_by(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn walk(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => walk(&path),
                Some(extension) if extension == "kv" => 1,
                _ => 0,
            }
        })
        .sum()
}
