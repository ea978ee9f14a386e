//! The series, as small drawings side by side. Both axes are logarithmic, except over counts that begin with 0.

use kvtier_cli::svg::{colour, line, path, px, shorten, text};
use maud::{Markup, html};

use super::super::words::{figure, place, value};
use super::{MARGIN, WIDTH, moved};
use crate::report::{Report, Series};

const COLUMNS: usize = 3;
const GAP: f64 = 26.0;
/// The plot inside of a drawing.
const LEFT: f64 = 62.0;
const TOP: f64 = 40.0;
const PLOT_HEIGHT: f64 = 170.0;
const LEGEND_LINE: f64 = 16.0;

/// Draws all series. Returns the height with the drawing.
pub(super) fn draw(report: &Report) -> (f64, Markup) {
    let width = (WIDTH - 2.0 * MARGIN - GAP * (COLUMNS as f64 - 1.0)) / COLUMNS as f64;
    let (mut drawings, mut top) = (Vec::new(), 24.0);
    for row in report.series.chunks(COLUMNS) {
        let n_lines = row.iter().map(|series| series.lines.len()).max().unwrap_or(0);
        for (column, series) in row.iter().enumerate() {
            drawings.push((MARGIN + column as f64 * (width + GAP), top, one(series, width)));
        }
        top += TOP + PLOT_HEIGHT + 34.0 + LEGEND_LINE * n_lines as f64 + 22.0;
    }
    let drawing = html! {
        @for (left, top, drawing) in drawings { g transform=(moved(left, top)) { (drawing) } }
    };
    (if report.series.is_empty() { 0.0 } else { top }, drawing)
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

fn one(series: &Series, width: f64) -> Markup {
    let places = series.places();
    let values = || series.lines.iter().flat_map(|line| &line.points).map(|(_, figure)| figure.value);
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Markup::default() };
    let across =
        Axis { from: *first as f64, to: *last as f64, is_logarithmic: *first > 0 && last / first > 16 };
    // Whole decades, so that drawings can be compared.
    let smallest = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(f64::MIN_POSITIVE, f64::max);
    let decade = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.log10()));
    let up = Axis { from: decade(smallest, f64::floor), to: decade(most, f64::ceil), is_logarithmic: true };
    let x = |at: u64| LEFT + across.share(at as f64) * (width - LEFT);
    let y = |value: f64| TOP + (1.0 - up.share(value)) * PLOT_HEIGHT;
    let grid = std::iter::successors(Some(up.from), |value| Some(value * 10.0));
    let bottom = TOP + PLOT_HEIGHT;
    let step = places.len().div_ceil(4);
    let labelled = places.iter().enumerate().filter(|(n, at)| n % step == 0 || *at == last);
    html! {
        (text(0.0, 12.0, "start", "head", &shorten(&format!("{}: {}", series.part, series.title), 46)))
        (text(0.0, 28.0, "start", "soft", &format!("over {}", series.over)))
        @for value_at in grid.take_while(|value| *value <= up.to * 1.001) {
            (line("grid", (LEFT, y(value_at)), (width, y(value_at))))
            (text(LEFT - 6.0, y(value_at) + 4.0, "end", "soft", &short(&value(value_at, series.unit))))
        }
        @for (_, at) in labelled {
            @let anchor = if at == last { "end" } else { "middle" };
            (text(x(*at), bottom + 18.0, anchor, "soft", &place(*at, series.over)))
        }
        @for (n, line) in series.lines.iter().enumerate() {
            @let points = line.points.iter().map(|(at, figure)| (x(*at), y(figure.value)));
            @let below = bottom + 38.0 + LEGEND_LINE * n as f64;
            path class=(format!("line {}", colour(n))) d=(path(points)) {}
            @for (at, point) in &line.points {
                circle class=(colour(n)) cx=(px(x(*at))) cy=(px(y(point.value))) r="3" {
                    title { (line.name) ", " (place(*at, series.over)) ": " (figure(point)) }
                }
            }
            rect class=(colour(n)) x=(px(LEFT)) y=(px(below - 9.0)) width="10" height="10" rx="3" {}
            (text(LEFT + 16.0, below, "start", "soft", &shorten(&line.name, 40)))
        }
    }
}

/// Removes the zeros after the point of a round value.
fn short(value: &str) -> String {
    value.replace(".00 ", " ").replace(".0 ", " ")
}
