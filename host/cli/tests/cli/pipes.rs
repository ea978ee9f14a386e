//! Pipes: a trace from the standard input, and outputs that are closed before the end.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::{GOOD_LINE, kvtier, samples, shown};

#[test]
fn a_trace_is_read_from_the_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let replay = |trace: &str| {
        let mut command = kvtier(folder.path(), "replay - --capacity-chunks 100");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(trace.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let text = replay(&[GOOD_LINE, GOOD_LINE].join("\n"));
    assert!(text.starts_with("2 requests, 2 chunks of 4.0 KiB"), "{text}");
    let text = replay("nonsense\n");
    assert!(text.contains("trace (standard input), line 1, column "), "{text}");
    assert_eq!(
        replay(""),
        "error: the trace (standard input) is empty: it needs at least one request, one JSON object per line\n"
    );
}

#[test]
fn a_closed_output_ends_a_command_quietly() {
    let folder = samples();
    for words in [
        "--help",
        "replay --help",
        "completions bash",
        "config",
        "config --json",
        "generate --requests 1000000",
        "replay good.jsonl --capacity-chunks 10 --json",
        "replay good.jsonl --capacity-chunks 10",
    ] {
        let mut child =
            kvtier(folder.path(), words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Closes the pipe before anything is read.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), errors.as_str()), (Some(0), ""), "{words}");
    }
    let mut shell = Command::new("/bin/sh");
    let line = "\"$0\" generate --requests 100000 2>&1 | head -n 1";
    let text = shown(shell.arg("-c").arg(line).arg(env!("CARGO_BIN_EXE_kvtier")));
    assert!(text.starts_with("exit 0\n{\"timestamp\": ") && text.lines().count() == 2, "{text}");
}

#[test]
fn a_closed_standard_error_changes_no_exit_code() {
    let folder = samples();
    for (words, code) in [("replay none.jsonl", 1), ("replay", 2), ("-vvv config", 0)] {
        let mut child =
            kvtier(folder.path(), words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{words}");
    }
}
