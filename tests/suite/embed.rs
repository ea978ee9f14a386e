//! The embedding example, as a stranger runs it.

use std::process::Command;

use crate::support;

#[test]
fn the_embedding_example_stores_a_prompt_and_finds_its_prefix_for_another() {
    // `cargo test` builds the examples beside the tests.
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples/embed");
    assert!(example.exists(), "run `cargo build --package kvtier --example embed` first");
    let directory = tempfile::tempdir().unwrap();
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
         \x20 kvtier.on_load_error: fail\n",
        support::component("fs").display(),
        data.display(),
        support::patient_lines("  external_backend.disk."),
    );
    std::fs::write(&config, yaml).unwrap();
    let output = Command::new(example).arg(&config).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "256 of 356 tokens found\n192 of 256 tokens found, chunks [0, 1, 2]";
    assert_eq!(printed.trim(), expected);
    let n_files = walk(&data);
    assert_eq!(n_files, 4, "the disk backend has every chunk");
}

fn walk(directory: &std::path::Path) -> usize {
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
