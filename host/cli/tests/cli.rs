//! The `kvtier` command as its users see it: exit code, standard output, standard error.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use std::path::Path;
use std::process::{Command, Stdio};

const GOOD_LINE: &str = r#"{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [0]}"#;

/// Runs `kvtier` with these words in `folder`, and shows all that it answers.
fn run_in(folder: &Path, words: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kvtier"))
        .args(words.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        // Help is wrapped for the terminal, configurations and logs follow the environment.
        .env_clear()
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    // Help pads empty lines.
    let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
    format!("exit {}\n{}", output.status.code().unwrap(), lines.collect::<String>())
}

/// As [`run_in`], in a folder with a good, a broken and an empty trace and two configurations that cannot be used.
fn run(words: &str) -> String {
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
    // Folders and sizes of this machine have no place in an expected text.
    let home = folder.path().canonicalize().unwrap();
    let text = run_in(&home, words).replace(&format!("{}/", home.display()), "[folder]/");
    match text.split_once("machine's memory of ") {
        Some((before, after)) => {
            let (_, after) = after.split_once(';').unwrap();
            format!("{before}machine's memory of [memory];{after}")
        }
        None => text,
    }
}

#[test]
fn help_of_the_command_and_its_small_commands() {
    insta::assert_snapshot!(run("--help"), @r#"
    exit 0
    Tiered storage for the KV cache of large language models

    Usage: kvtier <COMMAND>

    Commands:
      replay   Send a trace of requests through a chain of tiers, and verify every byte that comes back
      trace    Make traces
      inspect  Show a component's classes, whether they fulfil the contract, and what its imports are
               granted by
      compile  Compile components into the cache of compiled code, so that a host loads them at once
      help     Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Log lines go to the standard error; KVTIER_LOG, or else RUST_LOG, says how many (default: warn).
    "#);
    insta::assert_snapshot!(run("trace --help"), @r#"
    exit 0
    Make traces

    Usage: kvtier trace <COMMAND>

    Commands:
      generate  Generate multi-turn chats with shared system prompts
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help
    "#);
    insta::assert_snapshot!(run("trace generate --help"), @r#"
    exit 0
    Generate multi-turn chats with shared system prompts.

    Equal arguments give equal traces, on every machine. Lengths are the usual ones: single values lie
    between half and twice of them.

    Usage: kvtier trace generate [OPTIONS] --requests <N>

    Options:
          --requests <N>
              Number of requests

          --seed <S>
              Decides everything random

              [default: 0]

          --sessions <N>
              Chats that are open at a time

              [default: 64]

          --system-prompts <N>
              Distinct system prompts

              [default: 8]

          --system-tokens <N>
              Tokens of a system prompt

              [default: 2048]

          --message-tokens <N>
              Tokens of a message

              [default: 1024]

          --answer-tokens <N>
              Tokens of an answer

              [default: 384]

          --turns <N>
              Turns of a chat

              [default: 8]

          --out <FILE>
              Where to write; without it, to the standard output

      -h, --help
              Print help (see a summary with '-h')
    "#);
    insta::assert_snapshot!(run("compile --help"), @r#"
    exit 0
    Compile components into the cache of compiled code, so that a host loads them at once.

    Each component is compiled by a process of its own, within the limits kvtier.compile_memory,
    kvtier.compile_cpu_secs and kvtier.compile_timeout_ms; digests that the configuration pins are
    checked before. The cache must belong to the user that runs the host. Ends with exit code 1 if a
    component could not be compiled; the others are.

    Usage: kvtier compile [OPTIONS] [FILE.wasm]...

    Arguments:
      [FILE.wasm]...
              Components to compile, beside those of the configuration

    Options:
          --config <FILE>
              Configuration in LMCache's form (YAML), which names components, the cache and the limits

          --cache-dir <DIR>
              Directory of the cache, in the place of kvtier.compile_cache

      -h, --help
              Print help (see a summary with '-h')
    "#);
    insta::assert_snapshot!(run("inspect --help"), @r#"
    exit 0
    Show a component's classes, whether they fulfil the contract, and what its imports are granted by.

    With --config: what each backend of a configuration asks for, what it is granted, and the
    difference.

    Runs none of the component's code. Ends with exit code 1 if no configuration can use the component,
    or if the component of a backend of the configuration cannot be loaded. Whether directories, names
    and secrets exist shows when the engine starts.

    Usage: kvtier inspect <FILE.wasm|--config <FILE>>

    Arguments:
      [FILE.wasm]
              The component

    Options:
          --config <FILE>
              A configuration, whose backends are compared with their components

      -h, --help
              Print help (see a summary with '-h')
    "#);
}

#[test]
fn help_of_replay() {
    insta::assert_snapshot!(run("replay --help"), @r#"
    exit 0
    Send a trace of requests through a chain of tiers, and verify every byte that comes back.

    For each request: look up its prefix, retrieve what is there and compare every byte with what the
    chunk's key says, then offer all chunks of the request to all tiers. One block of the trace is one
    chunk, whatever chunk_size says. Ends with exit code 1 if a tier serves wrong bytes.

    Usage: kvtier replay [OPTIONS] --trace <FILE>

    Options:
          --config <FILE>
              Configuration in LMCache's form (YAML). Without it: a CPU tier alone. Whatever it says, a
              replay waits where a queue is full, and stops if a backend cannot be loaded

          --trace <FILE>
              Trace: one JSON object a line with timestamp, input_length, output_length and hash_ids

          --chunk-bytes <N>
              Payload of a chunk, in bytes

              [default: 4096]

          --model <MODEL>
              Take the chunk size of a model instead, for the configured chunk_size

              Possible values:
              - llama-3-8b:     Llama 3 8B and 3.1 8B
              - llama-3-70b:    Llama 3 70B, 3.1 70B and 3.3 70B
              - llama-3.1-405b: Llama 3.1 405B
              - mistral-7b:     Mistral 7B
              - qwen2.5-7b:     Qwen2.5 7B
              - qwen2.5-72b:    Qwen2.5 72B
              - qwen3-8b:       Qwen3 8B
              - qwen3-32b:      Qwen3 32B
              - deepseek-v3:    DeepSeek V3 and R1 (multi-head latent attention)

          --capacity-chunks <N>
              Capacity of the CPU tier in chunks, in the place of max_local_cpu_size

          --policy <NAME>
              Eviction policy of the CPU tier, in the place of the configured one

              Possible values:
              - lru:     Least recently used first
              - lfu:     Least often used first
              - fifo:    Oldest first
              - mru:     Most recently used first
              - s3-fifo: Three queues: what came once goes before what came again
              - sieve:   Oldest first, but once spared for each use

          --requests <N>
              Replay only the first N requests

          --json
              Print one JSON object instead of tables, and no progress bar

          --report <FILE.html>
              Write a report: one HTML file that needs no other

      -h, --help
              Print help (see a summary with '-h')
    "#);
}

#[test]
fn traces_that_cannot_be_replayed_are_named_with_the_line() {
    insta::assert_snapshot!(run("replay --trace none.jsonl"), @r#"
    exit 1
    error: cannot open the trace none.jsonl
      because: No such file or directory (os error 2)
    "#);
    insta::assert_snapshot!(run("replay --trace broken.jsonl"), @r#"
    exit 1
    error: trace broken.jsonl, line 3, column 77: invalid type: string "x", expected u64; each line is one object with timestamp, input_length, output_length and hash_ids
    "#);
    insta::assert_snapshot!(run("replay --trace empty.jsonl"), @r#"
    exit 1
    error: the trace empty.jsonl is empty: it needs at least one request, one JSON object a line
    "#);
}

#[test]
fn configurations_that_cannot_be_used_are_named_with_what_to_do() {
    insta::assert_snapshot!(run("replay --trace good.jsonl --config none.yaml"), @r#"
    exit 1
    error: configuration file `none.yaml`: cannot be read: No such file or directory (os error 2); check the path
    "#);
    insta::assert_snapshot!(run("replay --trace good.jsonl --config bad.yaml"), @r#"
    exit 1
    error: configuration file `bad.yaml`: unknown key `chunk_sice`; did you mean `chunk_size`?
    "#);
    insta::assert_snapshot!(run("replay --trace good.jsonl --config lost.yaml"), @r#"
    exit 1
    error: backend `disk`: component `[folder]/none.wasm` does not exist; give module_path relative to the configuration file
    "#);
}

#[test]
fn sizes_that_cannot_work_are_refused_before_anything_runs() {
    insta::assert_snapshot!(run("replay --trace good.jsonl --capacity-chunks 1000000000000"), @r#"
    exit 1
    error: the CPU tier's pool of 3.6 PiB is larger than the machine's memory of [memory]; lower max_local_cpu_size or --capacity-chunks, or take smaller chunks with --chunk-bytes
    "#);
    insta::assert_snapshot!(run("replay --trace good.jsonl --capacity-chunks 18446744073709551615"), @r#"
    exit 1
    error: a CPU tier of 18446744073709551615 chunks of 4096 bytes is beyond any machine; lower --capacity-chunks
    "#);
    insta::assert_snapshot!(run("replay --trace good.jsonl --chunk-bytes 8000000000"), @r#"
    exit 1
    error: a chunk of 7.5 GiB does not fit the CPU tier's pool of 5.0 GiB; raise max_local_cpu_size or --capacity-chunks
    "#);
}

#[test]
fn wrong_usage_and_files_that_are_no_components() {
    insta::assert_snapshot!(run("replay"), @r#"
    exit 2
    error: the following required arguments were not provided:
      --trace <FILE>

    Usage: kvtier replay --trace <FILE>

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(run("replay --trace good.jsonl --policy random"), @r#"
    exit 2
    error: invalid value 'random' for '--policy <NAME>'
      [possible values: lru, lfu, fifo, mru, s3-fifo, sieve]

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
    let generated = run_in(folder.path(), "trace generate --requests 40 --seed 3 --out chats.jsonl");
    assert_eq!(generated, "exit 0\n");
    let text =
        run_in(folder.path(), "replay --trace chats.jsonl --capacity-chunks 100 --json --report report.html");
    let json: serde_json::Value = serde_json::from_str(text.strip_prefix("exit 0\n").unwrap()).unwrap();
    assert_eq!(json["requests"], 40);
    assert!(json["hits"]["cpu"].as_u64() > Some(0));
    let report = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(report.contains("kvtier replay --trace chats.jsonl --capacity-chunks 100 --json"));

    let text = run_in(folder.path(), "replay --trace chats.jsonl --capacity-chunks 100");
    assert!(text.starts_with("exit 0\n40 requests, "), "{text}");
}
