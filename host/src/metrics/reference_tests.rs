//! `docs/operation.md` against the code: its tables have exactly the metrics, reasons and kinds that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Operation, TierMetrics, prometheus};

const REFERENCE: &str = include_str!("../../docs/operation.md");

type Names = BTreeSet<String>;

/// Returns the names in the first cells of the table in a section, without their labels.
fn documented(section: &str) -> Names {
    let (_, text) = REFERENCE.split_once(&format!("\n## {section}\n")).unwrap();
    let rows =
        text.lines().take_while(|line| !line.starts_with("## ")).filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split(" | ").next().unwrap());
    cells
        .flat_map(|cell| cell.split('`').step_by(2))
        .map(|name| name.split('{').next().unwrap().to_owned())
        .collect()
}

/// Returns the names that a function chooses from, one for each variant of an enum: `=> "name"`.
fn chosen(source: &str, function: &str) -> Names {
    let (_, body) = source.split_once(&format!("fn {function}(")).unwrap();
    let body = body.split("\n    }\n").next().unwrap();
    let names = body.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    names.collect()
}

fn kinds() -> Names {
    chosen(include_str!("../tier.rs"), "kind")
}

/// Adds the reasons with which the Rust files below a folder count dropped puts.
fn collect_drops(folder: &Path, reasons: &mut Names) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_drops(&path, reasons);
        } else {
            let source = fs::read_to_string(&path).unwrap();
            for call in source.split(".drop_puts(").skip(1) {
                let argument = call.trim_start().split([',', ')']).next().unwrap();
                reasons.insert(match argument {
                    "TierError::Forked.kind(" => "forked".to_owned(),
                    "TierError::BreakerOpen.kind(" => "breaker_open".to_owned(),
                    literal => literal.strip_prefix('"').unwrap().trim_end_matches('"').to_owned(),
                });
            }
        }
    }
}

#[test]
fn the_reference_has_exactly_the_metrics_that_are_exported() {
    let metrics = TierMetrics::default();
    metrics.miss("not_found", 1);
    metrics.error(Operation::Get, "other");
    metrics.drop_puts("lost", 1);
    metrics.took(Operation::Get, Duration::from_millis(1));
    let text = prometheus(vec![metrics.snapshot("a")]);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names = samples.map(|line| line.strip_prefix("kvtier_").unwrap().split(['{', ' ']).next().unwrap());
    let names: Names = names
        .map(|name| if name.starts_with("latency_seconds") { "latency_seconds" } else { name })
        .map(str::to_owned)
        .collect();
    assert_eq!(documented("Metrics"), names);
}

#[test]
fn the_reference_has_exactly_the_kinds_of_errors() {
    assert_eq!(documented("Kinds of errors"), kinds());
}

#[test]
fn the_reference_has_every_reason_of_misses_that_is_not_an_error() {
    let mut reasons = chosen(include_str!("../manager/fetched.rs"), "reason");
    reasons.extend(chosen(include_str!("../integrity.rs"), "name"));
    let documented = documented("Reasons of misses");
    assert!(documented.is_superset(&reasons), "{documented:?} lacks some of {reasons:?}");
    reasons.extend(kinds());
    assert!(documented.is_subset(&reasons), "{documented:?} has more than {reasons:?}");
}

#[test]
fn the_reference_has_exactly_the_reasons_of_dropped_puts() {
    let mut reasons = Names::new();
    collect_drops(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manager"), &mut reasons);
    assert_eq!(documented("Reasons of dropped puts"), reasons);
}
