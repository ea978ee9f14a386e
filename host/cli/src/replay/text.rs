//! The outcome of a replay as aligned text.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::format::{bytes, count, microseconds, percent};
use crate::replay::{Outcome, ratio};
use crate::series::Histogram;

/// Renders the summary, one line for each tier, latencies, and what went wrong, if anything did.
pub fn render(outcome: &Outcome) -> String {
    let mut text = summary(outcome);
    for table in [tiers(outcome), latencies(outcome)] {
        text.push('\n');
        text.push_str(&lines(&table));
    }
    let troubles = troubles(outcome);
    if !troubles.is_empty() {
        text.push('\n');
        text.push_str(&troubles);
    }
    text
}

/// Renders a table without the blanks that it pads its last column with.
pub fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn summary(outcome: &Outcome) -> String {
    format!(
        "{} requests, {} chunks of {}, in {:.2} s ({} requests/s)\n\
         one block of the trace is one chunk, whatever chunk_size says\n\
         hit ratio {}: {} chunks served, {} verified byte by byte\n",
        count(outcome.requests),
        count(outcome.chunks),
        bytes(outcome.chunk_bytes as u64),
        outcome.elapsed.as_secs_f64(),
        count(outcome.requests_per_s().round() as u64),
        percent(outcome.hit_ratio()),
        count(outcome.hits_total()),
        bytes(outcome.bytes_verified()),
    )
}

/// A table without frames. Columns after the first `n_text` are numbers.
pub fn table(header: &[&str], n_text: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().enumerate().map(|(index, title)| {
        Cell::new(title).set_alignment(if index < n_text {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        })
    }));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= n_text {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn tiers(outcome: &Outcome) -> Table {
    let mut table =
        table(&["tier", "hits", "hit ratio", "read", "written", "evicted", "misses", "errors"], 1);
    for ((name, hits), tier) in outcome.tier_names.iter().zip(&outcome.hits).zip(&outcome.tiers) {
        table.add_row([
            name.clone(),
            count(*hits),
            percent(ratio(*hits, outcome.chunks)),
            bytes(tier.bytes_read),
            bytes(tier.bytes_written),
            count(tier.evictions),
            count(tier.misses.values().sum()),
            count(tier.errors.values().sum()),
        ]);
    }
    table
}

fn latencies(outcome: &Outcome) -> Table {
    let mut table = table(&["tier", "operation", "calls", "p50 µs", "p99 µs"], 2);
    let mut row = |tier: &str, operation: &str, latency: &Histogram| {
        table.add_row([
            tier.to_owned(),
            operation.to_owned(),
            count(latency.count()),
            microseconds(latency.quantile_us(0.5)),
            microseconds(latency.quantile_us(0.99)),
        ]);
    };
    for (operation, latency) in outcome.calls.by_name() {
        row("(whole call)", operation, latency);
    }
    for (name, tier) in outcome.tier_names.iter().zip(&outcome.tiers) {
        for (operation, latency) in &tier.latency {
            row(name, operation, latency);
        }
    }
    table
}

/// Lines for what an operator should look at. Misses because a chunk is not there are the normal case.
fn troubles(outcome: &Outcome) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |line: std::fmt::Arguments| writeln!(text, "{line}").unwrap_or_default();
    if outcome.lost > 0 {
        line(format_args!("{} chunks were found, but did not arrive", count(outcome.lost)));
    }
    if outcome.stored.refused > 0 {
        line(format_args!("{} chunks found no memory and were not stored", count(outcome.stored.refused)));
    }
    for (name, tier) in outcome.tier_names.iter().zip(&outcome.tiers) {
        for (reason, n) in tier.misses.iter().filter(|(reason, _)| *reason != "not_found") {
            line(format_args!("{name}: {} misses because of `{reason}`", count(*n)));
        }
        for (kind, n) in &tier.errors {
            line(format_args!("{name}: {} errors of the kind `{kind}`", count(*n)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_table_is_aligned_and_complete() {
        let text = render(&sample::outcome());
        let expected_head = "3,000 requests, 36,000 chunks of 4.0 KiB, in 4.32 s (694 requests/s)\n\
             one block of the trace is one chunk, whatever chunk_size says\n\
             hit ratio 50.00 %: 18,000 chunks served, 70.3 MiB verified byte by byte\n\
             \n\
             tier         hits  hit ratio      read    written  evicted  misses  errors\n\
             cpu         9,000    25.00 %  35.2 MiB  105.5 MiB    1,234  27,000       0\n\
             <log> & co      0     0.00 %       0 B  105.5 MiB        0  26,993       7\n\
             disk        9,000    25.00 %  35.2 MiB  105.5 MiB        0  18,002       0\n\
             \n\
             tier          operation   calls  p50 µs  p99 µs\n\
             (whole call)  lookup      3,000";
        assert_eq!(&text[..expected_head.len().min(text.len())], expected_head);
        assert!(
            text.ends_with(
                "\n\n2 chunks were found, but did not arrive\n\
                 <log> & co: 7 errors of the kind `unavailable`\n\
                 disk: 2 misses because of `corrupt`\n"
            ),
            "{text}"
        );
        assert!(text.lines().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn nothing_is_said_when_nothing_went_wrong() {
        let mut outcome = sample::outcome();
        outcome.lost = 0;
        for tier in &mut outcome.tiers {
            tier.errors.clear();
            tier.misses.retain(|reason, _| reason == "not_found");
        }
        assert_eq!(troubles(&outcome), "");
    }
}
