//! Runs the benches once, so that they keep working.

use std::path::Path;
use std::process::Command;

/// All parts but the comparison with other caches, which are built elsewhere.
const PARTS: [&str; 13] = [
    "cpu",
    "growth",
    "threads",
    "pool",
    "copies",
    "keys",
    "integrity",
    "calls",
    "chain",
    "breaker",
    "bytes",
    "load",
    "replay",
];

#[test]
fn every_part_runs_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kvtier-guests");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_kvtier-bench"));
    bench.args(PARTS).arg("--quick").arg("--guests").arg(guests).arg("--out").arg(folder.path());
    let output = bench.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    assert!(text.starts_with("a quick run") && errors.is_empty(), "{text}{errors}");

    let json = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let of = |list: &str, part: &str| {
        let list = report[list].as_array().unwrap();
        list.iter().filter(|item| item["part"] == part).count()
    };
    for part in PARTS {
        assert!(of("rows", part) + of("series", part) > 0, "{part} measured nothing");
    }
    // Everything has a reference, or is one line of several.
    for row in report["rows"].as_array().unwrap() {
        assert!(
            row["references"].as_array().unwrap().iter().all(|reference| reference["speed"].is_number()),
            "{row}"
        );
        assert!(row["figure"]["median"].as_f64() > Some(0.0), "{row}");
    }
    assert!(std::fs::read_to_string(folder.path().join("report.svg")).unwrap().ends_with("</svg>\n"));
}

#[test]
fn a_part_that_does_not_exist_is_refused_with_those_that_do() {
    let bench = Command::new(env!("CARGO_BIN_EXE_kvtier-bench")).arg("cqu").output().unwrap();
    let errors = String::from_utf8_lossy(&bench.stderr);
    assert!(
        !bench.status.success() && errors.contains("no part `cqu`") && errors.contains("cpu "),
        "{errors}"
    );
}
