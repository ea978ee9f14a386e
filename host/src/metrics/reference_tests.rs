//! `docs/operation.md` against the code: its tables have exactly the metrics, reasons and kinds that there are.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{DropReason, Operation, TierMetrics, TierReport, prometheus};
use crate::tier::TierError;

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
    chosen(include_str!("../tier/error.rs"), "kind")
}

#[test]
fn the_reference_has_exactly_the_metrics_that_are_exported() {
    let metrics = TierMetrics::default();
    metrics.miss("not_found", 1);
    metrics.error(Operation::Get, &TierError::Other("text".into()));
    metrics.drop_puts(DropReason::CallFailed, 1);
    metrics.took(Operation::Get, Duration::from_millis(1));
    let text = prometheus(vec![metrics.snapshot("a", &TierReport::of_cpu(0))]);
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
    assert_eq!(documented("Reasons of dropped puts"), chosen(include_str!("counts.rs"), "name"));
}
