//! Traps in a process whose signal handlers are not kvtier's: see `tests/signals`.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

fn run(signal_handlers: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_kvtier-signals");
    Command::new(program).arg(signal_handlers).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn without_signal_handlers_a_trap_is_an_error_of_its_call_whoever_catches_the_signals() {
    let output = run("off");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{:?}\n{printed}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines, [["get: 0 chunks, misses [\"trap\"]"; 3].as_slice(), &["closed"]].concat());
}

/// The control: it shows that the other test's process would die if the setting had no effect.
#[test]
fn with_signal_handlers_that_were_replaced_a_trap_ends_the_process() {
    let output = run("on");
    assert_eq!(output.status.signal(), Some(libc::SIGILL), "{}", String::from_utf8_lossy(&output.stdout));
}
