//! The help of each command, which ends with the exit codes. Long because the texts are.

use crate::run;

#[test]
fn help_of_kvtier() {
    insta::assert_snapshot!(run("--help"), @r#"
    exit 0
    Tiered storage for the KV cache of large language models

    Usage: kvtier [OPTIONS] <COMMAND>

    Commands:
      replay        Send a trace of requests through a chain of tiers and verify every byte that comes
                    back
      check         Check whether a backend keeps the contract, sentence by sentence
      dev           Check a backend again whenever its component or its configuration changes, until
                    Ctrl-C
      generate      Generate a trace of multi-turn chats with shared system prompts
      inspect       Show a component's classes, whether they fulfil the contract, and which grants its
                    imports need
      config        Show what each backend of a configuration asks for, what it is granted, and the
                    difference
      compile       Compile components into the cache of compiled code, so that a host loads them at
                    once
      new           Make a project for a new backend: sources, tests, a configuration that runs it, and
                    how to build it
      componentize  Make a component of a core module, as a C compiler writes it
      compose       Join a backend with one in front of it, such as a cache or a filter of chunks, to
                    one component
      completions   Print the completions of a shell
      help          Print this message or the help of the given subcommand(s)

    Options:
      -v, --verbose...  Log more: -v info, -vv debug, -vvv trace
      -q, --quiet       Log errors only, and show no progress
      -h, --help        Print help
      -V, --version     Print version

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 a backend failed a judgement. Each command's help
    explains its failures.

    Log lines go to the standard error. -v and -q set their level, else the variables KVTIER_LOG and
    RUST_LOG do. The default is warn.
    "#);
}

#[test]
fn help_of_config() {
    insta::assert_snapshot!(run("config --help"), @r#"
    exit 0
    Show what each backend of a configuration asks for, what it is granted, and the difference.

    Compiles the components but runs none of their code. Whether directories, hosts and secrets exist is
    known when the engine starts.

    Usage: kvtier config [OPTIONS] [FILE]

    Arguments:
      [FILE]
              The configuration. Without it: the file that LMCACHE_CONFIG_FILE names, or the variables
              LMCACHE_* alone

    Options:
          --json
              Print one JSON object instead of text

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 if all components can be loaded, 1 if not or if the configuration is invalid, 2 for
    wrong usage.
    "#);
}

#[test]
fn help_of_compose() {
    insta::assert_snapshot!(run("compose --help"), @"
    exit 0
    Join a backend with one in front of it, such as a cache or a filter of chunks, to one component.

    The component in front imports the contract's interface kvtier:storage/backend, the one behind
    exports it. The result is used like any other component: its classes are those of the component in
    front.

    Usage: kvtier compose [OPTIONS] --out <FILE> <OUTER> <INNER>

    Arguments:
      <OUTER>
              The component in front: it imports kvtier:storage/backend

      <INNER>
              The component behind it: it exports kvtier:storage/backend

    Options:
      -o, --out <FILE>
              Write the component that has both to this file, and replace it if it exists

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 success, 1 if the components do not fit or a file cannot be read or written, 2 for
    wrong usage.
    ");
}

#[test]
fn help_of_completions() {
    insta::assert_snapshot!(run("completions --help"), @r#"
    exit 0
    Print the completions of a shell.

    For instance: kvtier completions bash > ~/.local/share/bash-completion/completions/kvtier

    Usage: kvtier completions [OPTIONS] <SHELL>

    Arguments:
      <SHELL>
              The shell

              [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')
    "#);
}

#[test]
fn help_of_generate() {
    insta::assert_snapshot!(run("generate --help"), @r#"
    exit 0
    Generate a trace of multi-turn chats with shared system prompts.

    Equal arguments give equal traces on every machine. Lengths are typical values: each draw is between
    half and twice of them.

    Usage: kvtier generate [OPTIONS] --requests <N>

    Options:
          --requests <N>
              Number of requests

          --seed <S>
              Seed for all random choices

              [default: 0]

          --sessions <N>
              Chats that are open at the same time

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
              Output file. Without it, the trace goes to the standard output

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 success, 1 if the trace cannot be written, 2 wrong usage.
    "#);
}

#[test]
fn help_of_compile() {
    insta::assert_snapshot!(run("compile --help"), @r#"
    exit 0
    Compile components into the cache of compiled code, so that a host loads them at once.

    Each component is compiled in its own process, within the limits kvtier.compile_memory,
    kvtier.compile_cpu_secs and kvtier.compile_timeout_ms. Digests that the configuration pins are
    checked first. The cache must belong to the user that runs the host.

    Usage: kvtier compile [OPTIONS] [COMPONENT]...

    Arguments:
      [COMPONENT]...
              Components to compile, besides those of the configuration

    Options:
          --config <FILE>
              Configuration in LMCache's form (YAML), which names components, the cache and the limits

          --cache-dir <DIR>
              Directory of the cache, instead of kvtier.compile_cache

          --json
              Print one JSON object instead of a table

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 if all components are in the cache, 1 if some could not be compiled (the others are),
    2 for wrong usage.
    "#);
}

#[test]
fn help_of_inspect() {
    insta::assert_snapshot!(run("inspect --help"), @r#"
    exit 0
    Show a component's classes, whether they fulfil the contract, and which grants its imports need.

    Runs none of the component's code.

    Usage: kvtier inspect [OPTIONS] [COMPONENT]

    Arguments:
      [COMPONENT]
              The component

    Options:
          --json
              Print one JSON object instead of text

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 if a configuration can use the component, 1 if not or if it cannot be read, 2 for
    wrong usage.
    "#);
}

#[test]
fn help_of_replay() {
    insta::assert_snapshot!(run("replay --help"), @r#"
    exit 0
    Send a trace of requests through a chain of tiers and verify every byte that comes back.

    For each request: look up its prefix, retrieve it and compare every byte with the content that
    belongs to the chunk's key, then offer all chunks of the request to all tiers. One block of the
    trace is one chunk, whatever chunk_size is.

    Usage: kvtier replay [OPTIONS] [TRACE]

    Arguments:
      [TRACE]
              Trace: one JSON object per line with timestamp, input_length, output_length and hash_ids.
              `-` reads the standard input

    Options:
          --config <FILE>
              Configuration in LMCache's form (YAML). Without it: the file that LMCACHE_CONFIG_FILE
              names, or the variables LMCACHE_* alone, by default a CPU tier without backends. A replay
              always waits when a queue is full, and stops if a backend cannot be loaded

          --chunk-bytes <N>
              Payload of a chunk, in bytes

              [default: 4096]

          --model <MODEL>
              Use the chunk size of a model instead, at the configured chunk_size

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
              Capacity of the CPU tier in chunks, instead of max_local_cpu_size

          --policy <NAME>
              Eviction policy of the CPU tier, instead of the configured one

              Possible values:
              - LRU:     Least recently used first
              - LFU:     Least often used first
              - FIFO:    Oldest first
              - MRU:     Most recently used first
              - S3-FIFO: Three queues: chunks used once go before chunks used again
              - SIEVE:   Oldest first, but spared once for each use

          --requests <N>
              Replay only the first N requests

          --strict
              End with exit code 3 also if a backend timed out or could not serve.

              Without it, only if a backend broke the contract or trapped.

          --json
              Print one JSON object instead of tables, and show no progress bar

          --report <FILE.html>
              Write a report: one self-contained HTML file

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 if all bytes were right, 1 if a tier served wrong bytes or the replay failed, 2 for
    wrong usage, 3 if a backend broke the contract or trapped.
    "#);
}

#[test]
fn help_of_check() {
    insta::assert_snapshot!(run("check --help"), @r#"
    exit 0
    Check whether a backend keeps the contract, sentence by sentence.

    Each sentence that is broken is shown with the call, the expected and the found answer, the likely
    cause, and the way to do it right. What is allowed and worth knowing is a note. Warnings are not
    logged, because the tests provoke them; -v logs them.

    Usage: kvtier check [OPTIONS] <COMPONENT> [CLASS]
           kvtier check [OPTIONS] --config <FILE>
           kvtier check --list

    Arguments:
      <COMPONENT>
              The component

      [CLASS]
              The class. May be left out where the component exports one class only

    Options:
          --config <FILE>
              Take the backend from a configuration in LMCache's form (YAML), with its settings, grants
              and limits.

              Chunks are put into its store, under keys that no serving engine has, and a store with a
              capacity is filled, so that it evicts: name a directory or a server for the check alone.

          --backend <NAME>
              The backend of the configuration, if it has several

          --set <KEY=VALUE>
              Give the backend a setting, a grant or a limit, by its key in a configuration. May be
              repeated.

              For instance: --set config.capacity=1MiB --set config.root=/data --set
              allow.fs=DIR:/data:rw

          --patience <SECONDS>
              How many seconds a call may take, and an instance may stand still, if its limits do not
              allow more

              [default: 10]

          --quick
              Check results, order, sizes up to 3 MiB, eviction, restarts and memory near its limit
              only.

              Without it also calls that overlap or are given up, deaths within a put, leaks, and speed:
              minutes instead of seconds.

          --only <SENTENCE>
              Check this sentence only, and those that it needs. May be repeated

          --seed <NUMBER>
              Draw the keys from this number, such as the seed of an earlier report, instead of at
              random.

              A sentence has the same keys whatever else is checked. A store that still has chunks of
              them gives wrong results.

          --list
              List the sentences, and check nothing

          --json
              Print one JSON object instead of text, and show no progress bar

          --report <FILE.html>
              Write a report: one self-contained HTML file

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 if the backend keeps what was tried, 1 if it could not be checked, 2 for wrong usage,
    3 if it breaks the contract or traps.
    "#);
}

#[test]
fn help_of_dev() {
    insta::assert_snapshot!(run("dev --help"), @r#"
    exit 0
    Check a backend again whenever its component or its configuration changes, until Ctrl-C.

    Each time a new engine is started, and the quick part of `kvtier check` and a short replay run.

    Usage: kvtier dev [OPTIONS] <COMPONENT> [CLASS]
           kvtier dev [OPTIONS] --config <FILE>

    Arguments:
      <COMPONENT>
              The component

      [CLASS]
              The class. May be left out where the component exports one class only

    Options:
          --config <FILE>
              Take the backend from a configuration in LMCache's form (YAML), with its settings, grants
              and limits.

              Chunks are put into its store, under keys that no serving engine has, and a store with a
              capacity is filled, so that it evicts: name a directory or a server for the check alone.

          --backend <NAME>
              The backend of the configuration, if it has several

          --set <KEY=VALUE>
              Give the backend a setting, a grant or a limit, by its key in a configuration. May be
              repeated.

              For instance: --set config.capacity=1MiB --set config.root=/data --set
              allow.fs=DIR:/data:rw

          --patience <SECONDS>
              How many seconds a call may take, and an instance may stand still, if its limits do not
              allow more

              [default: 10]

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 after Ctrl-C, 1 if what is watched does not exist, 2 for wrong usage.
    "#);
}

#[test]
fn help_of_new() {
    insta::assert_snapshot!(run("new --help"), @r#"
    exit 0
    Make a project for a new backend: sources, tests, a configuration that runs it, and how to build it.

    The project builds with the language's own tools. It carries what it needs of this kvtier's
    contract.

    Usage: kvtier new [OPTIONS] [NAME]

    Arguments:
      [NAME]
              The project, and the folder to make: lower-case words with - between them

    Options:
          --lang <LANGUAGE>
              The language

              Possible values:
              - rust:       Rust, with the crate kvtier-guest
              - python:     Python, with componentize-py
              - javascript: JavaScript, with componentize-qjs
              - c:          C, with zig or clang

          --on <WHERE>
              Where the backend keeps chunks

              Possible values:
              - memory: In the memory of the instance
              - files:  In files of a granted directory, which survive a restart

              [default: memory]

          --in <DIR>
              Folder to make the project in

              [default: .]

          --sdk <PATH>
              Folder of the crate kvtier-guest, for Rust, instead of the published crate

          --list
              List the templates instead

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 success, 1 if the folder exists or cannot be written, or the name cannot be used, 2
    for wrong usage.
    "#);
}

#[test]
fn help_of_componentize() {
    insta::assert_snapshot!(run("componentize --help"), @r#"
    exit 0
    Make a component of a core module, as a C compiler writes it.

    The module describes its imports and exports: link the object that belongs to the bindings.

    Usage: kvtier componentize [OPTIONS] --out <COMPONENT> <MODULE>

    Arguments:
      <MODULE>
              The core module, as the linker wrote it

    Options:
      -o, --out <COMPONENT>
              The component to write; replaced if it exists

      -v, --verbose...
              Log more: -v info, -vv debug, -vvv trace

      -q, --quiet
              Log errors only, and show no progress

      -h, --help
              Print help (see a summary with '-h')

    Exit codes: 0 success, 1 if the module does not describe a component or cannot be read, 2 for wrong
    usage.
    "#);
}
