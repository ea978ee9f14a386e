//! The rows: each a line with its figure, and a dot for each reference where the speed against it is.

use kvtier_cli::report::markup::{escape, shorten};

use super::super::words::{digits, figure, target, verdict};
use super::{MARGIN, WIDTH, line, text};
use crate::report::{Report, Row, Target};

const ROW: f64 = 21.0;
const HEAD: f64 = 30.0;
/// Where the rows' figures end.
const VALUE: f64 = 440.0;
const PLOT: (f64, f64) = (480.0, 790.0);

/// The speeds at the edges of the axis; what is beyond stands at the edge.
const SPEEDS: (f64, f64) = (1.0 / 64.0, 64.0);

/// Draws the rows and returns the height with the drawing.
pub(super) fn draw(report: &Report) -> (f64, String) {
    if report.rows.is_empty() {
        return (0.0, String::new());
    }
    let mut y = 56.0;
    let mut svg = axis(y);
    for rows in report.rows.chunk_by(|one, next| one.part == next.part) {
        y += HEAD;
        svg += &text(MARGIN, y, "start", "head", rows[0].part);
        svg += &legend(rows, y);
        svg += &line("rule", (MARGIN, y + 7.0), (WIDTH - MARGIN, y + 7.0));
        y += 4.0;
        for row in rows {
            y += ROW;
            svg += &draw_row(row, y);
        }
    }
    (y + 12.0, svg)
}

fn x(speed: f64) -> f64 {
    let share = (speed.clamp(SPEEDS.0, SPEEDS.1) / SPEEDS.0).ln() / (SPEEDS.1 / SPEEDS.0).ln();
    PLOT.0 + share * (PLOT.1 - PLOT.0)
}

fn axis(y: f64) -> String {
    let mut svg = text(MARGIN, y, "start", "soft", "what");
    svg += &text(VALUE, y, "end", "soft", "kvtier");
    svg += &text(
        x(1.0),
        y - 18.0,
        "middle",
        "soft",
        "speed against the reference: to the right, kvtier is faster",
    );
    for (speed, name) in [(1.0 / 64.0, "1/64"), (0.125, "1/8"), (1.0, "1"), (8.0, "8"), (64.0, "64 ×")] {
        svg += &text(x(speed), y, "middle", "soft", name);
    }
    svg + &text(WIDTH - MARGIN, y, "end", "soft", "target")
}

/// The colours of a part's references, if a row of it has several.
fn legend(rows: &[Row], y: f64) -> String {
    let longest = rows.iter().max_by_key(|row| row.references.len());
    let references = longest.map(|row| &row.references[..]).filter(|references| references.len() > 1);
    let mut left = PLOT.0 - 40.0;
    let mut svg = String::new();
    for (n, (name, _)) in references.unwrap_or_default().iter().enumerate() {
        svg +=
            &format!("<circle class=\"c{}\" cx=\"{left:.1}\" cy=\"{:.1}\" r=\"5\"></circle>", n % 8, y - 4.0);
        svg += &text(left + 9.0, y, "start", "soft", name);
        left += 28.0 + 6.6 * name.chars().count() as f64;
    }
    svg
}

fn draw_row(row: &Row, y: f64) -> String {
    let middle = y - 4.0;
    let mut svg = text(MARGIN, y, "start", "ink", &shorten(&row.what, 58));
    svg += &text(VALUE, y, "end", "value", &figure(&row.figure));
    svg += &line("grid", (PLOT.0, middle), (PLOT.1, middle));
    svg += &line("even", (x(1.0), y - ROW + 4.0), (x(1.0), y + 4.0));
    let wanted = match row.target {
        Some(Target::OfReference(share)) => Some(share),
        Some(Target::Ahead) => Some(1.0),
        _ => None,
    };
    if let Some(wanted) = wanted {
        svg += &line("wanted", (x(wanted), middle - 7.0), (x(wanted), middle + 7.0));
    }
    for (n, (name, reference)) in row.references.iter().enumerate() {
        let speed = row.figure.speed_against(reference);
        let tip = format!("{name}: {}, speed {} ×", figure(reference), digits(speed));
        svg += &format!(
            "<circle class=\"c{}\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"5\"><title>{}</title></circle>",
            n % 8,
            x(speed),
            escape(&tip)
        );
    }
    if let Some(speed) = row.speed() {
        svg += &text(PLOT.1 + 62.0, y, "end", "value", &format!("{} ×", digits(speed)));
    }
    let class = if row.is_met() == Some(false) { "bad" } else { "good" };
    svg + &text(WIDTH - MARGIN, y, "end", class, &format!("{} {}", target(row), verdict(row)))
}
