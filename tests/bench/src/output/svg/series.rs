//! The series, as small drawings side by side. Both axes are logarithmic, except over counts that begin with 0.

use kvtier_cli::report::markup::{escape, path, shorten};

use super::super::words::{figure, place, value};
use super::{MARGIN, WIDTH, line, text};
use crate::report::{Report, Series};

const COLUMNS: usize = 3;
const GAP: f64 = 26.0;
/// Inside of a drawing: where its plot begins and ends.
const LEFT: f64 = 62.0;
const TOP: f64 = 40.0;
const PLOT_HEIGHT: f64 = 170.0;
const LEGEND_LINE: f64 = 16.0;

/// Draws all series and returns the height with the drawing.
pub(super) fn draw(report: &Report) -> (f64, String) {
    let width = (WIDTH - 2.0 * MARGIN - GAP * (COLUMNS as f64 - 1.0)) / COLUMNS as f64;
    let (mut svg, mut top) = (String::new(), 24.0);
    for row in report.series.chunks(COLUMNS) {
        let n_lines = row.iter().map(|series| series.lines.len()).max().unwrap_or(0);
        for (column, series) in row.iter().enumerate() {
            let left = MARGIN + column as f64 * (width + GAP);
            svg += &format!("<g transform=\"translate({left:.1},{top:.1})\">{}</g>", one(series, width));
        }
        top += TOP + PLOT_HEIGHT + 34.0 + LEGEND_LINE * n_lines as f64 + 22.0;
    }
    (if report.series.is_empty() { 0.0 } else { top }, svg)
}

/// A range on an axis.
struct Axis {
    from: f64,
    to: f64,
    is_logarithmic: bool,
}

impl Axis {
    /// Places `value` between 0 and 1.
    fn share(&self, value: f64) -> f64 {
        let length = |value: f64| if self.is_logarithmic { value.ln() } else { value };
        let (from, to) = (length(self.from), length(self.to));
        if to > from { (length(value) - from) / (to - from) } else { 0.5 }
    }
}

fn one(series: &Series, width: f64) -> String {
    let places = series.places();
    let values = || series.lines.iter().flat_map(|line| &line.points).map(|(_, figure)| figure.value);
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return String::new() };
    let across =
        Axis { from: *first as f64, to: *last as f64, is_logarithmic: *first > 0 && last / first > 16 };
    // Whole decades, so that drawings can be compared.
    let smallest = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(f64::MIN_POSITIVE, f64::max);
    let decade = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.log10()));
    let up = Axis { from: decade(smallest, f64::floor), to: decade(most, f64::ceil), is_logarithmic: true };
    let x = |at: u64| LEFT + across.share(at as f64) * (width - LEFT);
    let y = |value: f64| TOP + (1.0 - up.share(value)) * PLOT_HEIGHT;

    let mut svg =
        text(0.0, 12.0, "start", "head", &shorten(&format!("{}: {}", series.part, series.title), 46));
    svg += &text(0.0, 28.0, "start", "soft", &format!("over {}", series.over));
    let mut grid = up.from;
    while grid <= up.to * 1.001 {
        svg += &line("grid", (LEFT, y(grid)), (width, y(grid)));
        svg += &text(LEFT - 6.0, y(grid) + 4.0, "end", "soft", &short(&value(grid, series.unit)));
        grid *= 10.0;
    }
    let bottom = TOP + PLOT_HEIGHT;
    let step = places.len().div_ceil(4);
    for (n, at) in places.iter().enumerate() {
        if n % step == 0 || at == last {
            let anchor = if at == last { "end" } else { "middle" };
            svg += &text(x(*at), bottom + 18.0, anchor, "soft", &place(*at, series.over));
        }
    }
    for (n, line) in series.lines.iter().enumerate() {
        let points = line.points.iter().map(|(at, figure)| (x(*at), y(figure.value)));
        svg += &format!("<path class=\"line c{}\" d=\"{}\"></path>", n % 8, path(points));
        for (at, point) in &line.points {
            let tip = format!("{}, {}: {}", line.name, place(*at, series.over), figure(point));
            svg += &format!(
                "<circle class=\"c{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}</title></circle>",
                n % 8,
                x(*at),
                y(point.value),
                escape(&tip)
            );
        }
        let below = bottom + 38.0 + LEGEND_LINE * n as f64;
        svg += &format!(
            "<rect class=\"c{}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"10\" height=\"10\" rx=\"3\"/>",
            n % 8,
            below - 9.0
        );
        svg += &text(LEFT + 16.0, below, "start", "soft", &shorten(&line.name, 40));
    }
    svg
}

/// A round value without its zeros behind the point.
fn short(value: &str) -> String {
    value.replace(".00 ", " ").replace(".0 ", " ")
}
