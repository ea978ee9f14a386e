//! Runs `kvtier-crash` with few kills (`cargo xtask crash --kills N` runs it with many), and tests files as a crash of
//! the machine, not only of the process, leaves them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kvtier::block_on;

use crate::support::{
    CHUNK_BYTES, config, counts_at, engine, eventually, fs, get, health, in_tier, key, keys, log, put_in,
    served,
};

/// Runs the harness, by default with a new seed, which it prints.
fn kill(arguments: &[&str]) -> (bool, String) {
    let mut harness = Command::new(env!("CARGO_BIN_EXE_kvtier-crash"));
    let Output { status, stdout, stderr } =
        harness.args(arguments).stdin(Stdio::null()).output().expect("the harness starts");
    let text = [stdout, stderr].concat();
    (status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Returns the number at the end of a line of the report.
fn figure(report: &str, line: &str) -> u64 {
    let found = report.lines().find_map(|found| found.trim().strip_prefix(line)?.strip_prefix(": "));
    let digits = found.map(|rest| rest.split([',', ' ']).next().unwrap_or_default());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no `{line}` in\n{report}"))
}

#[test]
fn a_process_that_is_killed_leaves_whole_chunks_and_what_the_next_one_cleans() {
    let (ok, report) = kill(&["--kills", "12"]);
    assert!(ok, "{report}");
    assert_eq!(figure(&report, "kills survived"), 12, "{report}");
    assert_eq!(figure(&report, "torn files"), 0, "{report}");
    for line in
        ["files checked", "stored chunks that had to be there and were", "directories filled to the capacity"]
    {
        assert!(figure(&report, line) > 0, "{line} in\n{report}");
    }
}

#[test]
fn the_harness_finds_the_torn_files_of_a_backend_that_writes_in_place() {
    // About every third kill is in the middle of a write.
    let (ok, report) = kill(&["--kills", "200", "--backend", "inplace"]);
    // Or a reader finds a file before all of it is written.
    let is_torn = report.contains("torn files: /") && figure(&report, "torn files") > 0;
    assert!(!ok && (is_torn || report.contains(": wrong ")), "{report}");
    assert!(figure(&report, "kills survived") <= 200, "{report}");
    let kept = report.lines().find_map(|line| line.split_once(", see ")?.1.split_once(": "));
    let (kept, _) = kept.expect("the directories are kept");
    fs::remove_dir_all(kept).unwrap();
}

fn file_of(directory: &Path, n: u64) -> PathBuf {
    directory.join(format!("00/{}.kv", key(n)))
}

#[test]
fn files_torn_by_the_end_of_the_machine_are_misses_with_a_reason_and_can_be_stored_anew() {
    let directory = tempfile::tempdir().unwrap();
    let log = log();
    let all = keys(5);
    let first = engine(config(vec![fs("crash_torn", directory.path())]));
    log.scanned("crash_torn", 1);
    put_in(first.storage(), &all, "crash_torn");
    first.blocking().close().unwrap();

    // Forms in which file systems leave renamed files whose data never reached the device.
    let tear = |n: u64, tear: &dyn Fn(&mut Vec<u8>)| {
        let path = file_of(directory.path(), n);
        let mut bytes = fs::read(&path).unwrap();
        tear(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    tear(0, &Vec::clear);
    tear(1, &|bytes| bytes.truncate(CHUNK_BYTES / 2));
    tear(2, &|bytes| bytes[512..1024].fill(0));
    tear(3, &|bytes| bytes.fill(0));
    let n_bytes: u64 = (0..5).map(|n| fs::metadata(file_of(directory.path(), n)).unwrap().len()).sum();

    let second = engine(config(vec![fs("crash_torn", directory.path())]));
    let storage = second.storage();
    let heard = log.scanned("crash_torn", 2);
    let counted = format!("scan: 5 chunks, {n_bytes} bytes found, 0 evicted, 0 unfinished files removed");
    assert_eq!(heard, counted);
    for (n, reason) in [(0, "wrong_length"), (1, "wrong_length"), (2, "check_failed"), (3, "no_trailer")] {
        let found = get(storage, &[key(n)]);
        let reasons: Vec<_> = found.misses.iter().filter(|missed| missed.tier.0 == 1).collect();
        assert!(found.chunks.is_empty() && reasons.len() == 1, "{n}: {found:?}");
        assert_eq!(reasons[0].miss.reason(), reason, "{n}");
        eventually("the damaged chunk is removed", || in_tier(storage, &[key(n)], "crash_torn") == 0);
        assert!(!file_of(directory.path(), n).exists());
    }
    assert_eq!(served(&get(storage, &[key(4)])), [1]);
    put_in(storage, &all, "crash_torn");
    block_on(storage.clear(&kvtier::Tiers::All));
    assert_eq!(served(&get(storage, &all)), [1; 5]);
    assert_eq!(counts_at(storage, 1).misses.values().sum::<u64>(), 4);
    assert_eq!(health(storage, "crash_torn").lane_restarts, 0);
}
