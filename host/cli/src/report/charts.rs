//! The drawings. Each is an SVG of a fixed size that the page scales.

use super::latency_rows;
use super::markup::{colour, escape, path, shorten};
use crate::format::{bytes, count, duration_ns, percent};
use crate::replay::{Outcome, ratio};
use crate::series::{Histogram, Point};

const WIDTH: f64 = 1000.0;

/// Stretches of the trace in the drawing of the hit ratio.
const STRETCHES_MAX: usize = 96;

/// Columns of a hill.
const COLUMNS: usize = 140;

/// Draws the hit ratio by tier over the trace: one area for each tier, stacked, and the ratio from the start on.
pub(super) fn hit_ratio(outcome: &Outcome) -> String {
    let plot = RatioPlot::new(outcome);
    let mut svg = start(RatioPlot::HEIGHT, "Hit ratio by tier over the trace");
    svg += &plot.axes();
    for tier in 0..outcome.tier_names.len() {
        svg += &plot.area(tier);
    }
    svg += &plot.mean();
    svg += &plot.tips(&outcome.tier_names);
    svg + "</svg></div>"
}

/// Where the drawing of the hit ratio has its things.
struct RatioPlot {
    points: Vec<Point>,
    /// The requests before each point.
    starts: Vec<f64>,
    requests: u64,
}

impl RatioPlot {
    const HEIGHT: f64 = 300.0;
    const LEFT: f64 = 48.0;
    const RIGHT: f64 = WIDTH - 8.0;
    const TOP: f64 = 10.0;
    const BOTTOM: f64 = Self::HEIGHT - 30.0;

    fn new(outcome: &Outcome) -> Self {
        let points = outcome.series.coarse(STRETCHES_MAX);
        let mut requests = 0;
        let mut starts = Vec::with_capacity(points.len());
        for point in &points {
            starts.push(requests as f64);
            requests += point.requests;
        }
        Self { points, starts, requests }
    }

    fn x(&self, request: f64) -> f64 {
        Self::LEFT + request / self.requests.max(1) as f64 * (Self::RIGHT - Self::LEFT)
    }

    fn y(share: f64) -> f64 {
        Self::BOTTOM - share * (Self::BOTTOM - Self::TOP)
    }

    /// The points with the requests before and after them.
    fn stretches(&self) -> impl DoubleEndedIterator<Item = (&Point, f64, f64)> {
        let stretches = self.points.iter().zip(&self.starts);
        stretches.map(|(point, start)| (point, *start, start + point.requests as f64))
    }

    fn axes(&self) -> String {
        let mut svg = String::new();
        for (step, anchor) in ["start", "middle", "middle", "middle", "end"].iter().enumerate() {
            let share = step as f64 / 4.0;
            let (left, right, y) = (Self::LEFT, Self::RIGHT, Self::y(share));
            svg +=
                &format!("<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            svg += &text(left - 8.0, y + 4.0, "end", "", &format!("{:.0} %", share * 100.0));
            let request = self.requests * step as u64 / 4;
            let unit = if step == 4 { " requests" } else { "" };
            let label = format!("{}{unit}", count(request));
            svg += &text(self.x(request as f64), Self::HEIGHT - 8.0, anchor, "", &label);
        }
        svg
    }

    /// The area of a tier above those before it. Each stretch is a step: what it says holds for all of its requests.
    fn area(&self, tier: usize) -> String {
        let edge = |n_tiers: usize| {
            self.stretches().flat_map(move |(point, start, end)| {
                let y = Self::y(ratio(point.hits[..n_tiers].iter().sum(), point.chunks));
                [(self.x(start), y), (self.x(end), y)]
            })
        };
        let outline = path(edge(tier + 1).chain(edge(tier).rev()));
        format!("<path class=\"area {}\" d=\"{outline}Z\"></path>", colour(tier))
    }

    /// The hit ratio of all tiers from the start of the trace on.
    fn mean(&self) -> String {
        let mut sums = (0, 0);
        let points = self.stretches().map(|(point, _, end)| {
            sums = (sums.0 + point.hits.iter().sum::<u64>(), sums.1 + point.chunks);
            (self.x(end), Self::y(ratio(sums.0, sums.1)))
        });
        format!("<path class=\"mean\" d=\"{}\"></path>", path(points))
    }

    /// What shows when the reader points at a stretch.
    fn tips(&self, tier_names: &[String]) -> String {
        let mut svg = String::new();
        for (point, start, end) in self.stretches() {
            let mut tip = format!("requests {} to {}", count(start as u64 + 1), count(end as u64));
            for (name, hits) in tier_names.iter().zip(&point.hits) {
                tip += &format!("\n{name}: {}", percent(ratio(*hits, point.chunks)));
            }
            let (x, width) = (self.x(start), self.x(end) - self.x(start));
            let (top, height) = (Self::TOP, Self::BOTTOM - Self::TOP);
            svg += &format!(
                "<rect class=\"tip\" x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\">\
                 <title>{}</title></rect>",
                escape(&tip)
            );
        }
        svg
    }
}

/// Draws the latencies of each operation as a hill over a logarithmic axis.
pub(super) fn latencies(outcome: &Outcome) -> String {
    const ROW: f64 = 42.0;
    const LEFT: f64 = 210.0;
    const RIGHT: f64 = WIDTH - 130.0;
    const TOP: f64 = 18.0;

    let rows = latency_rows(outcome);
    let first = rows.iter().filter_map(|(.., latency)| latency.buckets().next()).map(|(ns, _)| ns).min();
    let last = rows.iter().map(|(.., latency)| latency.quantile_ns(1.0)).max();
    let (Some(first), Some(last)) = (first, last) else {
        return String::new();
    };
    let decades = (first.max(1).ilog10(), last.max(1).ilog10() + 1);
    let n_decades = f64::from(decades.1 - decades.0);
    let at = |ns: u64| ((ns.max(1) as f64).log10() - f64::from(decades.0)) / n_decades;
    let x = |ns: u64| LEFT + at(ns) * (RIGHT - LEFT);
    let bottom = TOP + ROW * rows.len() as f64;

    let mut svg = start(bottom + 28.0, "Latency of each operation");
    for decade in decades.0..=decades.1 {
        let ns = 10_u64.saturating_pow(decade);
        svg += &format!(
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>",
            x(ns)
        );
        svg += &text(x(ns), bottom + 18.0, "middle", "", &duration_ns(ns as f64));
    }
    for (index, (name, operation, colour, latency)) in rows.iter().enumerate() {
        let base = TOP + ROW * (index + 1) as f64;
        let heights = hill(latency, at);
        let step = (RIGHT - LEFT) / COLUMNS as f64;
        let outline = heights
            .iter()
            .enumerate()
            .map(|(column, height)| (LEFT + (column as f64 + 0.5) * step, base - height * (ROW - 8.0)));
        let outline = path([(LEFT, base)].into_iter().chain(outline).chain([(RIGHT, base)]));
        let (p50, p99) = (latency.quantile_ns(0.5), latency.quantile_ns(0.99));
        let (p50_text, p99_text) = (duration_ns(p50 as f64), duration_ns(p99 as f64));
        let tip =
            format!("{name} {operation}: {} calls, p50 {p50_text}, p99 {p99_text}", count(latency.count()));
        svg += &format!("<g><title>{}</title>", escape(&tip));
        svg += &format!("<path class=\"hill {colour}\" d=\"{outline}Z\"></path>");
        svg += &format!("<line class=\"axis\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{base}\" y2=\"{base}\"/>");
        for (class, ns) in [("p50", p50), ("p99", p99)] {
            let top = base - ROW * 0.55;
            svg += &format!(
                "<line class=\"{class}\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{base}\"/>",
                x(ns)
            );
        }
        svg += &text(0.0, base - 10.0, "start", "ink", &shorten(name, 18));
        svg += &text(LEFT - 12.0, base - 10.0, "end", "", &shorten(operation, 10));
        svg += &text(WIDTH - 62.0, base - 10.0, "end", "ink", &p50_text);
        svg += &text(WIDTH, base - 10.0, "end", "", &p99_text);
        svg += "</g>";
    }
    svg += &text(WIDTH - 62.0, 12.0, "end", "ink", "p50");
    svg += &text(WIDTH, 12.0, "end", "", "p99");
    svg + "</svg></div>"
}

/// The heights of a hill's columns, from 0 to 1. `at` places a value on the axis, from 0 to 1.
fn hill(latency: &Histogram, at: impl Fn(u64) -> f64) -> Vec<f64> {
    let mut columns = vec![0.0; COLUMNS];
    for (ns, n) in latency.buckets() {
        let column = (at(ns) * COLUMNS as f64).clamp(0.0, COLUMNS as f64 - 1.0);
        columns[column as usize] += n as f64;
    }
    // The histogram's buckets do not fall evenly into columns; a narrow kernel takes the comb away.
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

/// Draws the bytes that each tier delivered and took.
pub(super) fn bytes_moved(outcome: &Outcome) -> String {
    const ROW: f64 = 52.0;
    const LEFT: f64 = 210.0;
    const RIGHT: f64 = WIDTH - 110.0;

    let most = outcome.tiers.iter().map(|tier| tier.bytes_read.max(tier.bytes_written)).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let mut svg = start(ROW * outcome.tiers.len() as f64 + 10.0, "Bytes moved by tier");
    for (index, (name, tier)) in outcome.tier_names.iter().zip(&outcome.tiers).enumerate() {
        let top = ROW * index as f64 + 14.0;
        svg += &text(0.0, top + 22.0, "start", "ink", &shorten(name, 18));
        let bars = [("read", tier.bytes_read, "bar"), ("written", tier.bytes_written, "bar light")];
        for (line, (label, n_bytes, class)) in bars.into_iter().enumerate() {
            let y = top + 20.0 * line as f64;
            let width = ratio(n_bytes, most) * (RIGHT - LEFT);
            svg += &text(LEFT - 12.0, y + 12.0, "end", "", label);
            svg += &format!(
                "<rect class=\"{class} {}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"15\" rx=\"3\"></rect>",
                colour(index)
            );
            svg += &text(LEFT + width + 8.0, y + 12.0, "start", "ink", &bytes(n_bytes));
        }
    }
    svg + "</svg></div>"
}

fn start(height: f64, title: &str) -> String {
    format!(
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    )
}

fn text(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(text)
    )
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
        let heights = hill(&latency, |ns| (ns as f64).log10() / 6.0);
        let peak = heights.iter().position(|height| (*height - 1.0).abs() < 1e-9).expect("a highest column");
        assert!(peak.abs_diff(COLUMNS / 2) <= 1, "column {peak}");
        let second = heights[COLUMNS * 5 / 6 - 1..=COLUMNS * 5 / 6 + 1].iter().copied().fold(0.0, f64::max);
        assert!((second - 1.0 / 9.0).abs() < 1e-9, "{second}");
        assert!(heights[COLUMNS / 4] == 0.0);
    }
}
