//! `kvtier compile`, and the components that commands compile or look into.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{KVTIER, digest, laborious, script};
use crate::support;

/// Writes a configuration with two backends, the second of which is given, and returns its path.
fn write_config(folder: &Path, second: &str, more: &str) -> PathBuf {
    let path = folder.join("kvtier.yaml");
    let text = format!(
        "external_backends: [first, second]\nextra_config:\n  kvtier.compile_cache: cache\n  external_backend.first: \
         {{module_path: '{}', class_name: AlphaBackend}}\n  external_backend.second: {second}\n{more}",
        support::component("plain").display()
    );
    fs::write(&path, text).unwrap();
    path
}

/// Runs `kvtier compile` and returns its exit code, its lines without times, and its errors.
fn run_compile(words: &[&Path]) -> (i32, Vec<String>, String) {
    let output = support::kvtier().arg("compile").args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let lines = text(output.stdout).lines().map(str::to_owned).collect();
    (output.status.code().unwrap(), lines, text(output.stderr))
}

#[test]
fn the_command_compiles_what_a_configuration_names_and_reports_each() {
    let folder = tempfile::tempdir().unwrap();
    let memory = support::component("memory");
    let second = format!("{{module_path: '{}', class_name: MemoryBackend}}", memory.display());
    let config = write_config(folder.path(), &second, "");
    let (flag, extra) = (Path::new("--config"), support::component("fs"));
    let words = [flag, &config, &extra];
    for state in ["compiled", "cached already"] {
        let (code, lines, errors) = run_compile(&words);
        assert_eq!((code, errors.as_str()), (0, ""), "{lines:?}");
        assert_eq!(lines.len(), 4, "{lines:#?}");
        for (line, path) in lines[1..].iter().zip([&support::component("plain"), &memory, &extra]) {
            let digest = digest(path).to_string();
            assert!(line.starts_with(path.to_str().unwrap()), "{line}");
            assert!(line.contains(&format!("  {state}  ")) && line.contains(&digest), "{line}");
        }
    }
    assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), 3);
    // Not the cache of the configuration.
    let (other, flag_cache) = (folder.path().join("other"), Path::new("--cache-dir"));
    let (code, ..) = run_compile(&[flag_cache, &other, &extra]);
    assert_eq!((code, fs::read_dir(&other).unwrap().count()), (0, 1));
}

#[test]
fn a_limit_of_the_process_that_is_too_small_is_named_with_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kvtier.yaml");
    let text = format!(
        "chunk_size: 16\nmax_local_cpu_size: 0.01\nexternal_backends: store\nextra_config:\n  kvtier.compile_cache: \
         cache\n  external_backend.store: {{module_path: '{}', class_name: AlphaBackend}}\n",
        support::component("plain").display()
    );
    fs::write(&config, text).unwrap();
    let trace = folder.path().join("trace.jsonl");
    fs::write(&trace, "{\"timestamp\":0,\"input_length\":16,\"output_length\":1,\"hash_ids\":[1]}\n")
        .unwrap();
    let replay = |kib: u64| {
        let mut shell = Command::new("/bin/sh");
        let line = format!("ulimit -v {kib} && exec '{KVTIER}' replay \"$1\" --config \"$0\"");
        let output = shell.arg("-c").arg(line).arg(&config).arg(&trace).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // Too little for the compiler as well.
    let error = replay(1 << 20);
    assert!(error.contains(" (ulimit -v, RLIMIT_AS)"), "{error}");
    let (code, _, _) = run_compile(&[Path::new("--config"), &config]);
    assert_eq!(code, 0);
    let error = replay(3 << 20);
    assert!(
        error.contains("MiB of address space: this process may have 3 GiB (ulimit -v, RLIMIT_AS)"),
        "{error}"
    );
    assert!(error.contains("raise that limit, since each memory of a component reserves 4 GiB"), "{error}");
}

#[test]
fn the_command_goes_on_after_a_failure_and_ends_with_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let memory = support::component("memory");
    let pin = format!("sha256:{}", "0".repeat(64));
    let second =
        format!("{{module_path: '{}', class_name: MemoryBackend, digest: '{pin}'}}", memory.display());
    let config = write_config(folder.path(), &second, "");
    let (torn, fine) = (folder.path().join("torn.wasm"), support::component("fs"));
    fs::write(&torn, b"\0asm\x0d\0\x01\0torn").unwrap();
    let (code, lines, errors) = run_compile(&[Path::new("--config"), &config, &torn, &fine]);
    assert_eq!((code, lines.len()), (1, 3), "{lines:#?} {errors}");
    assert!(lines[2].starts_with(fine.to_str().unwrap()));
    let errors: Vec<&str> = errors.lines().collect();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert_eq!(errors[0], "error: 2 of 4 components failed");
    assert!(errors[1].contains("memory.wasm` has digest ") && errors[1].contains(&pin), "{errors:#?}");
    assert!(errors[2].contains("torn.wasm` does not compile: "), "{errors:#?}");

    let occupied = folder.path().join("a file");
    fs::write(&occupied, "").unwrap();
    let (code, lines, errors) = run_compile(&[Path::new("--cache-dir"), &occupied.join("below"), &fine]);
    assert_eq!((code, lines.len()), (1, 0), "{lines:#?}");
    assert!(errors.contains("could not be kept: the compile cache `"), "{errors}");
}

#[test]
fn a_replay_compiles_with_the_commands_own_program() {
    let folder = tempfile::tempdir().unwrap();
    let heavy = laborious(&folder, 1, 150_000);
    let second = format!("{{module_path: '{}', class_name: NoBackend}}", heavy.display());
    // The limit applies only in a compiler's process.
    let config = write_config(folder.path(), &second, "  kvtier.compile_memory: 128MiB\n");
    let trace = folder.path().join("trace.jsonl");
    fs::write(&trace, "{\"timestamp\": 0, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [0]}\n")
        .unwrap();
    let output = support::kvtier()
        .arg("replay")
        .args([Path::new("--config"), &config, &trace])
        .env("LMCACHE_MAX_LOCAL_CPU_SIZE", "0.01")
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("takes more than 128 MiB of memory; raise kvtier.compile_memory"), "{errors}");
}

#[test]
fn a_component_is_looked_into_only_if_it_is_the_pinned_one_and_not_too_large_and_by_the_compiler() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::copy(support::component("fs"), at("fs.wasm")).unwrap();
    // A compiler that is killed, and records each start.
    script(folder.path(), &format!("echo started >> '{}'\nkill -SEGV $$", at("mark").display()));
    let look = |setting: &str| {
        let text = format!(
            "external_backends: disk\nextra_config:\n  kvtier.compile_cache: off\n  kvtier.compiler: compiler\n  \
             external_backend.disk.module_path: fs.wasm\n  external_backend.disk.class_name: FsBackend\n  {setting}\n"
        );
        fs::write(at("kvtier.yaml"), text).unwrap();
        let backends = kvtier_cli::commands::config::look(Some(&at("kvtier.yaml")), &|_| {}).unwrap();
        assert!(kvtier_cli::commands::config::ensure_usable(&backends).is_err());
        kvtier_cli::commands::config::render(&backends)
    };
    let pin = format!("external_backend.disk.digest: \"sha256:{}\"", "0".repeat(64));
    let shown = look(&pin);
    assert!(shown.contains("but the configuration pins sha256:0000"), "{shown}");
    let shown = look("external_backend.disk.limits.component_bytes: 1024");
    assert!(shown.contains("more than the 1024 of limits.component_bytes"), "{shown}");
    assert!(!at("mark").exists(), "the compiler was started");
    let shown = look("");
    assert!(shown.contains("was ended by signal 11"), "{shown}");
    assert_eq!(fs::read_to_string(at("mark")).unwrap(), "started\n");
}
