//! The conformance kit: it finds exactly the sentence that a class breaks, and finds nothing in the examples.

use std::ops::ControlFlow;
use std::time::Duration;

use kvtier::{BackendConfig, FsAccess, FsGrant};
use kvtier_check::{Depth, Options, Outcome, Part, Report, Sentence, Subject, check, sentences};
use tempfile::TempDir;

use crate::support;

/// Memory of an instance. A store is filled with twice as much.
const MEMORY_BYTES: u64 = 12 << 20;

/// Returns the class that breaks a sentence, none if `fault` is empty, with a directory.
fn broken(fault: &str, directory: &TempDir) -> BackendConfig {
    let mut backend = support::backend("check", "broken", "BrokenBackend");
    if !fault.is_empty() {
        backend.config.push(("fault".into(), fault.into()));
    }
    let (host_dir, guest_path) = (directory.path().to_owned(), "/data".to_owned());
    backend.allow.fs.push(FsGrant { host_dir, guest_path, access: FsAccess::ReadWrite });
    backend
}

fn checked(mut backend: BackendConfig, options: &Options) -> Report {
    backend.limits.memory_bytes = MEMORY_BYTES;
    let subject = Subject::new(support::config(Vec::new()), backend);
    check(&subject, options, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Checks quickly; time is unlimited, so that a busy machine breaks nothing.
pub(crate) fn quickly(backend: BackendConfig) -> Report {
    checked(backend, &Options { depth: Depth::Quick, patience: Duration::from_mins(2), ..Options::default() })
}

/// Returns the broken sentences.
fn broken_ids(report: &Report) -> Vec<&str> {
    report.broken().map(|(sentence, _)| sentence.id).collect()
}

/// Checks a class that breaks one sentence, and requires that exactly this is found.
fn assert_only_this_is_broken(sentence: &Sentence) {
    let directory = tempfile::tempdir().unwrap();
    let backend = broken(sentence.id, &directory);
    let report = match sentence.part {
        Part::Quick => quickly(backend),
        Part::Full => {
            let only = vec![sentence.id.to_owned()];
            let patience = Duration::from_mins(2);
            checked(backend, &Options { only, patience, ..Options::default() })
        }
    };
    assert_eq!(broken_ids(&report), [sentence.id], "{report}");
    let text = report.to_string();
    for part in [sentence.text, sentence.cause, sentence.remedy, "call ", "expected ", "found "] {
        assert!(text.contains(part), "{text}");
    }
}

fn assert_each_is_found(n: usize) {
    for sentence in sentences().skip(n).step_by(2) {
        assert_only_this_is_broken(sentence);
    }
}

#[test]
fn a_class_that_breaks_one_sentence_is_found_to_break_that_and_no_other() {
    assert_each_is_found(0);
}

#[test]
fn a_class_that_breaks_one_sentence_is_found_to_break_that_and_no_other_second_half() {
    assert_each_is_found(1);
}

#[test]
fn the_same_class_without_a_fault_keeps_all_sentences() {
    let directory = tempfile::tempdir().unwrap();
    let report = quickly(broken("", &directory));
    assert_kept(&report, &["removed-stays-removed"]);
    let slow = ["no-leaks"];
    let only = sentences().filter(|sentence| sentence.part == Part::Full && !slow.contains(&sentence.id));
    let only = only.map(|sentence| sentence.id.to_owned()).collect();
    let report = checked(
        broken("", &directory),
        &Options { only, patience: Duration::from_mins(2), ..Options::default() },
    );
    assert_kept(&report, &["dies-within-put"]);
}

/// Requires that a class keeps what is tried, and that all sentences but these were tried.
fn assert_kept(report: &Report, not_tried: &[&str]) {
    assert!(report.is_kept(), "{}: {report}", report.class_name);
    let found: Vec<_> = report.not_tried().collect();
    let ids: Vec<_> = found.iter().map(|(sentence, _)| sentence.id).collect();
    assert_eq!(ids, not_tried, "{}: {found:?}", report.class_name);
}

/// What a class that is granted nothing, keeps its chunks in memory or has no pins cannot show.
const NO_GRANT: &str = "missing-grant";
const FORGETS: &str = "removed-stays-removed";
const NO_PINS: [&str; 9] = [
    "remove-pinned",
    "pin-run",
    "unpin-counts",
    "pin-twice",
    "repeated-pin",
    "contains-pins",
    "pins-protect",
    "contains-protects",
    "unpin-frees",
];

#[test]
fn both_classes_of_memory_keep_the_contract() {
    for (class_name, not_tried) in [
        ("MemoryBackend", [&[NO_GRANT][..], &NO_PINS, &[FORGETS]].concat()),
        ("LruMemoryBackend", vec![NO_GRANT, FORGETS]),
    ] {
        for capacity in ["2MiB", "64MiB"] {
            let mut backend = support::backend("check", "memory", class_name);
            backend.config.push(("capacity".into(), capacity.into()));
            let report = quickly(backend);
            // With 64 MiB it is guest memory that ends, and the store refuses instead of evicting.
            let not_tried = if capacity == "64MiB" && class_name == "LruMemoryBackend" {
                vec![NO_GRANT, NO_PINS[6], NO_PINS[7], NO_PINS[8], FORGETS]
            } else {
                not_tried.clone()
            };
            assert_kept(&report, &not_tried);
            assert!(!report.notes.iter().any(|note| note.sentence == "ok-when-full"), "{:?}", report.notes);
        }
    }
}

#[test]
fn fs_keeps_the_contract_with_and_without_a_capacity() {
    let unbounded = ["refused-is-absent", "ok-when-full", NO_PINS[6], NO_PINS[7], NO_PINS[8]];
    for (capacity, not_tried) in [("4MiB", &[][..]), ("1GiB", &unbounded)] {
        let directory = tempfile::tempdir().unwrap();
        let mut backend = support::fs("check", directory.path());
        backend.config.push(("capacity".into(), capacity.into()));
        let report = quickly(backend);
        assert_kept(&report, not_tried);
        assert!(
            report.notes.iter().any(|note| note.text == "chunks outlive the instance"),
            "{:?}",
            report.notes
        );
    }
}

#[test]
fn log_is_found_to_store_nothing() {
    let report = quickly(support::backend("check", "log", "ExternalLogBackend"));
    assert!(report.is_kept(), "{report}");
    assert!(report.notes.iter().any(|note| note.text.starts_with("it stores nothing")), "{:?}", report.notes);
    let outcome = |id: &str| {
        let verdict = report.verdicts.iter().find(|verdict| verdict.sentence.id == id);
        verdict.map(|verdict| verdict.outcome.clone()).unwrap()
    };
    assert_eq!(outcome("starts"), Outcome::Kept);
    assert!(matches!(outcome("keeps-bytes"), Outcome::NotTried(_)));
}

#[test]
fn the_backend_of_the_readme_and_one_in_blocking_style_keep_the_contract() {
    let map = quickly(support::backend("check", "map", "MapBackend"));
    assert_kept(&map, &[&[NO_GRANT][..], &NO_PINS, &[FORGETS]].concat());
    let blocking = quickly(support::backend("check", "blocking", "BlockingMemoryBackend"));
    assert_kept(&blocking, &[NO_GRANT, "present-each", NO_PINS[6], NO_PINS[7], NO_PINS[8], FORGETS]);
    assert!(
        blocking.notes.iter().any(|note| note.text.starts_with("blocking style")),
        "{:?}",
        blocking.notes
    );
}

#[test]
fn an_async_class_that_blocks_to_read_files_has_a_note() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("note"), "a note").unwrap();
    for (class, n_notes) in [("StdFsBackend", 1), ("GoodBackend", 0)] {
        let mut backend = support::misbehaving("check", class, &[("in", "put")]);
        let (host_dir, guest_path) = (directory.path().to_owned(), "/data".to_owned());
        backend.allow.fs.push(FsGrant { host_dir, guest_path, access: FsAccess::ReadOnly });
        let only = vec!["one-result-per-key".to_owned()];
        let report = checked(backend, &Options { only, ..Options::default() });
        let notes = report.notes.iter().filter(|note| note.text.contains("std::fs"));
        assert_eq!(notes.count(), n_notes, "{class}: {:?}", report.notes);
    }
}

#[test]
fn the_seed_of_a_check_is_drawn_and_reported() {
    let checked = |seed| {
        let only = vec!["starts".to_owned()];
        checked(support::backend("check", "map", "MapBackend"), &Options { only, seed, ..Options::default() })
    };
    let drawn = checked(None).seed;
    assert!(drawn < 1 << 53, "{drawn}: not every reader of JSON keeps it");
    assert_eq!(checked(Some(drawn)).seed, drawn);
    assert_ne!(checked(None).seed, drawn);
}

#[test]
fn a_class_that_takes_memory_without_looking_is_found_near_its_limit() {
    let report = quickly(support::backend("check", "template", "Backend"));
    assert_eq!(broken_ids(&report), ["near-memory-limit"], "{report}");
    assert!(report.to_string().contains("limits.memory (12 MiB)"), "{report}");
}
#[test]
fn a_class_that_hangs_or_computes_for_ever_ends_the_check_after_a_few_tests() {
    let ends = |class_name: &str| {
        let backend = BackendConfig::new("check", support::component("misbehaving"), class_name);
        // Long compared with the start of an instance on a busy machine.
        let patience = Duration::from_secs(8);
        let report = checked(backend, &Options { depth: Depth::Quick, patience, ..Options::default() });
        assert!(broken_ids(&report).contains(&"put-then-get"), "{class_name}: {report}");
        let is_given_up = |reason: &str| reason == "it did not answer or start in 3 tests";
        assert!(report.not_tried().any(|(_, reason)| is_given_up(reason)), "{class_name}: {report}");
    };
    std::thread::scope(|scope| {
        for class_name in ["HangBackend", "SpinBackend"] {
            scope.spawn(move || ends(class_name));
        }
    });
}

#[test]
fn a_class_that_answers_nonsense_or_traps_is_found() {
    for class_name in [
        "FailBackend",
        "WrongCountBackend",
        "OverclaimBackend",
        "PhantomBackend",
        "GarbageBackend",
        "OverflowBackend",
    ] {
        let report = quickly(support::misbehaving("check", class_name, &[]));
        assert!(!report.is_kept(), "{class_name}");
        assert!(report.n_kept() > 0, "the check goes on with another instance: {class_name}: {report}");
    }
}

mod command;
