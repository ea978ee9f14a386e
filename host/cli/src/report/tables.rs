//! The tables of the report.

use maud::{Markup, html};

use crate::format::{count, microseconds};
use crate::histogram::Histogram;
use crate::replay::Outcome;
use crate::replay::text::{TIER_COLUMNS, tier_rows};
use crate::svg::colour;

/// The latencies of one operation of a tier or of the whole chain.
pub(super) struct LatencyRow<'a> {
    pub(super) name: &'a str,
    pub(super) operation: &'a str,
    /// The class of its colour.
    pub(super) colour: String,
    pub(super) latency: &'a Histogram,
}

/// Returns the operations of the whole chain, then those of each tier, without those that were never called.
pub(super) fn latency_rows(outcome: &Outcome) -> Vec<LatencyRow<'_>> {
    let calls = outcome.calls.by_name().into_iter();
    let mut rows: Vec<_> = calls
        .map(|(operation, latency)| LatencyRow {
            name: "whole call",
            operation,
            colour: "call".into(),
            latency,
        })
        .collect();
    for (index, (name, tier)) in outcome.tier_names.iter().zip(&outcome.tiers).enumerate() {
        rows.extend(tier.latency.iter().map(|(operation, latency)| LatencyRow {
            name,
            operation,
            colour: colour(index),
            latency,
        }));
    }
    rows.retain(|row| row.latency.count() > 0);
    rows
}

/// Renders a table. Columns after the first `n_text` hold numbers.
pub(crate) fn table<C: Into<Vec<Markup>>>(
    header: &[&str],
    n_text: usize,
    rows: impl IntoIterator<Item = C>,
) -> Markup {
    let class = |index: usize| (index < n_text).then_some("left");
    html! {
        div class="scroll" {
            table {
                thead { tr { @for (index, title) in header.iter().enumerate() { th class=[class(index)] { (title) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (index, cell) in row.into().iter().enumerate() { td class=[class(index)] { (cell) } } }
                    }
                }
            }
        }
    }
}

/// Renders a plain cell.
pub(crate) fn cell(text: &str) -> Markup {
    html! { (text) }
}

fn named(name: &str, colour: &str) -> Markup {
    html! { i class=(colour) {} (name) }
}

pub(super) fn tiers(outcome: &Outcome) -> Markup {
    let rows = tier_rows(outcome).enumerate().map(|(index, row)| {
        let [name, numbers @ ..] = row;
        let numbers = numbers.iter().map(|number| cell(number));
        std::iter::once(named(&name, &colour(index))).chain(numbers).collect::<Vec<_>>()
    });
    table(&TIER_COLUMNS, 1, rows)
}

pub(super) fn latencies(outcome: &Outcome) -> Markup {
    let rows = latency_rows(outcome);
    let rows = rows.iter().map(|LatencyRow { name, operation, colour, latency }| {
        let quantile = |q| cell(&microseconds(latency.quantile_us(q)));
        [
            named(name, colour),
            cell(operation),
            cell(&count(latency.count())),
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(1.0),
        ]
    });
    table(&["tier", "operation", "calls", "p50 µs", "p90 µs", "p99 µs", "longest µs"], 2, rows)
}

/// Renders the misses, errors and other unusual outcomes of each tier, by reason.
pub(super) fn reasons(outcome: &Outcome) -> Markup {
    let tiers = outcome.tier_names.iter().zip(&outcome.tiers).enumerate();
    let rows = tiers.flat_map(|(index, (name, tier))| {
        let kinds = [
            ("miss", &tier.misses),
            ("error", &tier.errors),
            ("put refused", &tier.refused),
            ("put dropped", &tier.dropped),
            ("skipped", &tier.skipped),
            ("event", &tier.events),
        ];
        kinds.into_iter().flat_map(move |(what, counts)| {
            let row = move |(reason, n): (&String, &u64)| {
                [named(name, &colour(index)), cell(what), cell(reason), cell(&count(*n))]
            };
            counts.iter().map(row)
        })
    });
    table(&["tier", "", "reason", "count"], 3, rows)
}
