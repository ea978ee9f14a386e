//! The `kvtier` command as its users see it: exit code, standard output, standard error.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod bindings;
mod componentize;
mod help;
mod new;
mod pipes;

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const GOOD_LINE: &str = r#"{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [0]}"#;

/// Returns `kvtier` with these words, to run in `folder`.
fn kvtier(folder: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvtier"));
    // Help is wrapped for the terminal, configurations and logs follow the environment.
    command.args(words.split_whitespace()).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// Runs a command and shows its exit code and everything that it prints.
fn shown(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    // Help pads empty lines.
    let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
    format!("exit {}\n{}", output.status.code().unwrap(), lines.collect::<String>())
}

/// Returns a folder with a good, a broken and an empty trace, and with two invalid configurations.
fn samples() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let broken = GOOD_LINE.replace("[0]", r#"[0, "x"]"#);
    write("good.jsonl", GOOD_LINE);
    write("broken.jsonl", &[GOOD_LINE, GOOD_LINE, &broken].join("\n"));
    write("empty.jsonl", "");
    write("bad.yaml", "chunk_sice: 256\n");
    let backend = "external_backend.disk";
    let lost = format!("{backend}.module_path: none.wasm\n  {backend}.class_name: FsBackend\n");
    write("lost.yaml", &format!("external_backends: disk\nextra_config:\n  {lost}"));
    folder
}

/// Runs `kvtier` with these words in a folder of [`samples`], and shows what it prints.
fn run(words: &str) -> String {
    let folder = samples();
    // Folders and sizes of this machine must not appear in an expected text.
    let home = folder.path().canonicalize().unwrap();
    let text = shown(&mut kvtier(&home, words)).replace(&format!("{}/", home.display()), "[folder]/");
    match text.split_once("machine's memory of ") {
        Some((before, after)) => {
            let (_, after) = after.split_once(';').unwrap();
            format!("{before}machine's memory of [memory];{after}")
        }
        None => text,
    }
}

#[test]
fn traces_that_cannot_be_replayed_are_named_with_the_line() {
    insta::assert_snapshot!(run("replay none.jsonl"), @r#"
    exit 1
    error: cannot open the trace none.jsonl
      because: No such file or directory (os error 2)
    "#);
    insta::assert_snapshot!(run("replay broken.jsonl"), @r#"
    exit 1
    error: trace broken.jsonl, line 3, column 77: invalid type: string "x", expected u64; each line is one object with timestamp, input_length, output_length and hash_ids
    "#);
    insta::assert_snapshot!(run("replay empty.jsonl"), @r#"
    exit 1
    error: the trace empty.jsonl is empty: it needs at least one request, one JSON object per line
    "#);
}

#[test]
fn configurations_that_cannot_be_used_are_named_with_what_to_do() {
    insta::assert_snapshot!(run("replay good.jsonl --config none.yaml"), @r#"
    exit 1
    error: configuration file `none.yaml`: cannot be read: No such file or directory (os error 2); check the path
    "#);
    insta::assert_snapshot!(run("replay good.jsonl --config bad.yaml"), @r#"
    exit 1
    error: configuration file `bad.yaml`: unknown key `chunk_sice`; did you mean `chunk_size`?
    "#);
    insta::assert_snapshot!(run("replay good.jsonl --config lost.yaml"), @r#"
    exit 1
    error: backend `disk`: component `[folder]/none.wasm` does not exist; give module_path relative to the configuration file
    "#);
}

#[test]
fn sizes_that_cannot_work_are_refused_before_anything_runs() {
    insta::assert_snapshot!(run("replay good.jsonl --capacity-chunks 1000000000000"), @r#"
    exit 1
    error: the CPU tier's pool of 3.6 PiB is larger than the machine's memory of [memory]; lower max_local_cpu_size or --capacity-chunks, or use smaller chunks with --chunk-bytes
    "#);
    insta::assert_snapshot!(run("replay good.jsonl --capacity-chunks 18446744073709551615"), @r#"
    exit 1
    error: a CPU tier of 18446744073709551615 chunks of 4096 bytes is beyond any machine; lower --capacity-chunks
    "#);
    insta::assert_snapshot!(run("replay good.jsonl --chunk-bytes 8000000000"), @r#"
    exit 1
    error: a chunk of 7.5 GiB does not fit the CPU tier's pool of 5.0 GiB; raise max_local_cpu_size or --capacity-chunks
    "#);
}

#[test]
fn wrong_usage_and_files_that_are_no_components() {
    insta::assert_snapshot!(run("replay"), @r#"
    exit 2
    error: the following required arguments were not provided:
      <TRACE>

    Usage: kvtier replay <TRACE>

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(run("replay good.jsonl --policy random"), @r#"
    exit 2
    error: invalid value 'random' for '--policy <NAME>'
      [possible values: LRU, LFU, FIFO, MRU, S3-FIFO, SIEVE]

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(run("inspect none.wasm"), @r#"
    exit 1
    error: cannot open the component none.wasm
      because: No such file or directory (os error 2)
    "#);
    insta::assert_snapshot!(run("inspect good.jsonl"), @r#"
    exit 1
    error: `good.jsonl` is not WebAssembly; build the backend with `cargo build --target wasm32-wasip2`
    "#);
}

#[test]
fn a_generated_trace_is_replayed_with_exit_code_0() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &str| shown(&mut kvtier(folder.path(), words));
    assert_eq!(run("generate --requests 40 --seed 3 --out chats.jsonl"), "exit 0\n");
    let text = run("replay chats.jsonl --capacity-chunks 100 --json --report report.html");
    let json: serde_json::Value = serde_json::from_str(text.strip_prefix("exit 0\n").unwrap()).unwrap();
    assert_eq!(json["requests"], 40);
    assert!(json["hits"]["cpu"].as_u64() > Some(0));
    let report = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(report.contains("kvtier replay chats.jsonl --capacity-chunks 100 --json"));

    let text = run("replay chats.jsonl --capacity-chunks 100");
    assert!(text.starts_with("exit 0\n40 requests, "), "{text}");
    assert_eq!(run("trace generate --requests 40 --seed 3"), run("generate --requests 40 --seed 3"));
}

#[test]
fn the_environment_names_a_configuration_or_is_one() {
    let folder = samples();
    for words in ["replay good.jsonl", "config"] {
        let text = shown(kvtier(folder.path(), words).env("LMCACHE_CONFIG_FILE", "bad.yaml"));
        assert!(
            text.starts_with("exit 1\nerror: configuration file `bad.yaml`: unknown key `chunk_sice`"),
            "{text}"
        );
        let text = shown(kvtier(folder.path(), words).env("LMCACHE_CHUNK_SIZE", "none"));
        assert!(text.starts_with("exit 1\nerror: ") && text.contains("LMCACHE_CHUNK_SIZE"), "{text}");
    }
    let replay = "replay good.jsonl --report report.html";
    let text = shown(kvtier(folder.path(), replay).env("LMCACHE_MAX_LOCAL_CPU_SIZE", "0.25"));
    assert!(text.starts_with("exit 0\n"), "{text}");
    let report = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(report.contains("256.0 MiB, 65,536 chunks, LRU"), "{report}");
}

#[test]
fn a_log_filter_of_unknown_words_is_refused() {
    let folder = samples();
    let text = shown(kvtier(folder.path(), "replay good.jsonl").env("KVTIER_LOG", "loud"));
    assert!(
        text.starts_with("exit 1\nerror: KVTIER_LOG=loud: `loud` is not a log level; give off, "),
        "{text}"
    );
    let text = shown(kvtier(folder.path(), "-q config").env("KVTIER_LOG", "loud"));
    assert!(
        text.starts_with("exit 0\n") && text.ends_with("no backends\n"),
        "the command line decides: {text}"
    );
}

#[test]
fn an_empty_configuration_is_reported_as_json_too() {
    let text = run("config --json");
    let json: serde_json::Value = serde_json::from_str(text.strip_prefix("exit 0\n").unwrap()).unwrap();
    assert_eq!((&json["backends"], &json["warnings"]), (&serde_json::json!([]), &serde_json::json!([])));
}

#[test]
fn completions_name_commands_and_options_and_none_that_is_hidden() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = run(&format!("completions {shell}"));
        assert!(text.starts_with("exit 0\n"), "{text}");
        for word in
            ["check", "dev", "replay", "generate", "inspect", "config", "compile", "capacity-chunks", "quiet"]
        {
            assert!(text.contains(word), "{shell}: {word}");
        }
        assert!(!text.contains("compile-one"), "{shell}");
    }
}
