//! The latencies of each operation, as hills over a logarithmic axis.

use maud::{Markup, html};

use super::{WIDTH, drawing};
use crate::format::{count, duration_ns};
use crate::histogram::Histogram;
use crate::replay::Outcome;
use crate::report::tables::{LatencyRow, latency_rows};
use crate::svg::{line, path, shorten, text};

const ROW: f64 = 42.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = WIDTH - 130.0;
const TOP: f64 = 18.0;

/// Columns of a hill.
const COLUMNS: usize = 140;

/// Draws one hill for each operation. Returns nothing if nothing was measured.
pub(in crate::report) fn latencies(outcome: &Outcome) -> Markup {
    let rows = latency_rows(outcome);
    let Some(axis) = Axis::over(&rows) else { return Markup::default() };
    let bottom = TOP + ROW * rows.len() as f64;
    let content = html! {
        @for decade in axis.first..=axis.last {
            @let ns = 10_u64.saturating_pow(decade);
            (line("grid", (axis.x(ns), TOP), (axis.x(ns), bottom)))
            (text(axis.x(ns), bottom + 18.0, "middle", "", &duration_ns(ns as f64)))
        }
        @for (index, row) in rows.iter().enumerate() { (hill(row, &axis, TOP + ROW * (index + 1) as f64)) }
        (text(WIDTH - 62.0, 12.0, "end", "ink", "p50"))
        (text(WIDTH, 12.0, "end", "", "p99"))
    };
    drawing(bottom + 28.0, "Latency of each operation", &content)
}

/// A logarithmic axis of whole decades of nanoseconds.
struct Axis {
    first: u32,
    last: u32,
}

impl Axis {
    /// Returns an axis for all values of the rows, or `None` if there are none.
    fn over(rows: &[LatencyRow]) -> Option<Self> {
        let first = rows.iter().filter_map(|row| row.latency.buckets().next()).map(|(ns, _)| ns).min()?;
        let last = rows.iter().map(|row| row.latency.quantile_ns(1.0)).max()?;
        Some(Self { first: first.max(1).ilog10(), last: last.max(1).ilog10() + 1 })
    }

    /// Returns the position of a value, from 0 to 1.
    fn share(&self, ns: u64) -> f64 {
        ((ns.max(1) as f64).log10() - f64::from(self.first)) / f64::from(self.last - self.first)
    }

    fn x(&self, ns: u64) -> f64 {
        LEFT + self.share(ns) * (RIGHT - LEFT)
    }
}

fn hill(LatencyRow { name, operation, colour, latency }: &LatencyRow, axis: &Axis, base: f64) -> Markup {
    let step = (RIGHT - LEFT) / COLUMNS as f64;
    let heights = heights(latency, |ns| axis.share(ns));
    let outline = heights
        .iter()
        .enumerate()
        .map(|(column, height)| (LEFT + (column as f64 + 0.5) * step, base - height * (ROW - 8.0)));
    let outline = path([(LEFT, base)].into_iter().chain(outline).chain([(RIGHT, base)]));
    let (p50, p99) = (latency.quantile_ns(0.5), latency.quantile_ns(0.99));
    let (p50_text, p99_text) = (duration_ns(p50 as f64), duration_ns(p99 as f64));
    html! {
        g {
            title {
                (name) " " (operation) ": " (count(latency.count())) " calls, p50 " (p50_text) ", p99 " (p99_text)
            }
            path class=(format!("hill {colour}")) d=(format!("{outline}Z")) {}
            (line("axis", (0.0, base), (WIDTH, base)))
            @for (class, ns) in [("p50", p50), ("p99", p99)] {
                (line(class, (axis.x(ns), base - ROW * 0.55), (axis.x(ns), base)))
            }
            (text(0.0, base - 10.0, "start", "ink", &shorten(name, 18)))
            (text(LEFT - 12.0, base - 10.0, "end", "", &shorten(operation, 10)))
            (text(WIDTH - 62.0, base - 10.0, "end", "ink", &p50_text))
            (text(WIDTH, base - 10.0, "end", "", &p99_text))
        }
    }
}

/// Returns the heights of a hill's columns, from 0 to 1. `share` returns the position of a value on the axis.
fn heights(latency: &Histogram, share: impl Fn(u64) -> f64) -> Vec<f64> {
    let mut columns = vec![0.0; COLUMNS];
    for (ns, n) in latency.buckets() {
        let column = (share(ns) * COLUMNS as f64).clamp(0.0, COLUMNS as f64 - 1.0);
        columns[column as usize] += n as f64;
    }
    // The histogram's buckets do not fall evenly into columns; a narrow kernel removes the comb.
    let smooth: Vec<f64> = (0..COLUMNS)
        .map(|column| {
            let near = |distance: usize, weight: f64| {
                let left = column.checked_sub(distance).map_or(0.0, |at| columns[at]);
                weight * (left + columns.get(column + distance).copied().unwrap_or(0.0))
            };
            columns[column] * 0.4 + near(1, 0.2) + near(2, 0.1)
        })
        .collect();
    let highest = smooth.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    smooth.into_iter().map(|height| height / highest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hill_stands_where_the_values_are() {
        let mut latency = Histogram::default();
        latency.record_n(1_000, 90);
        latency.record_n(100_000, 10);
        // Six decades from 1 ns on.
        let heights = heights(&latency, |ns| (ns as f64).log10() / 6.0);
        let peak = heights.iter().position(|height| (*height - 1.0).abs() < 1e-9).expect("a highest column");
        assert!(peak.abs_diff(COLUMNS / 2) <= 1, "column {peak}");
        let second = heights[COLUMNS * 5 / 6 - 1..=COLUMNS * 5 / 6 + 1].iter().copied().fold(0.0, f64::max);
        assert!((second - 1.0 / 9.0).abs() < 1e-9, "{second}");
        assert!(heights[COLUMNS / 4] == 0.0);
    }
}
