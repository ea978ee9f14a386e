//! The rows: each a line with its figure, and a dot for each reference at kvtier's speed against it.

use kvtier_cli::svg::{colour, line, px, shorten, text};
use maud::{Markup, html};

use super::super::words::{digits, figure, target, verdict};
use super::{MARGIN, WIDTH};
use crate::report::{Report, Row, Target};

const ROW: f64 = 21.0;
const HEAD: f64 = 30.0;
/// The right edge of the figures.
const VALUE: f64 = 440.0;
const PLOT: (f64, f64) = (480.0, 790.0);

/// The speeds at the edges of the axis. Speeds beyond them are drawn at the edge.
const SPEEDS: (f64, f64) = (1.0 / 64.0, 64.0);

/// Draws the rows. Returns the height with the drawing.
pub(super) fn draw(report: &Report) -> (f64, Markup) {
    if report.rows.is_empty() {
        return (0.0, Markup::default());
    }
    let mut y = 56.0;
    let mut drawings = vec![axis(y)];
    for rows in report.rows.chunk_by(|one, next| one.part == next.part) {
        y += HEAD;
        drawings.push(html! {
            (text(MARGIN, y, "start", "head", rows[0].part))
            (legend(rows, y))
            (line("rule", (MARGIN, y + 7.0), (WIDTH - MARGIN, y + 7.0)))
        });
        y += 4.0;
        for row in rows {
            y += ROW;
            drawings.push(draw_row(row, y));
        }
    }
    (y + 12.0, html! { @for drawing in drawings { (drawing) } })
}

fn x(speed: f64) -> f64 {
    let share = (speed.clamp(SPEEDS.0, SPEEDS.1) / SPEEDS.0).ln() / (SPEEDS.1 / SPEEDS.0).ln();
    PLOT.0 + share * (PLOT.1 - PLOT.0)
}

fn axis(y: f64) -> Markup {
    const SPEED: &str = "speed against the reference: to the right, kvtier is faster";
    let speeds = [(1.0 / 64.0, "1/64"), (0.125, "1/8"), (1.0, "1"), (8.0, "8"), (64.0, "64 ×")];
    html! {
        (text(MARGIN, y, "start", "soft", "what"))
        (text(VALUE, y, "end", "soft", "kvtier"))
        (text(x(1.0), y - 18.0, "middle", "soft", SPEED))
        @for (speed, name) in speeds { (text(x(speed), y, "middle", "soft", name)) }
        (text(WIDTH - MARGIN, y, "end", "soft", "target"))
    }
}

/// Draws the legend of a part's references, if any of its rows has several.
fn legend(rows: &[Row], y: f64) -> Markup {
    let longest = rows.iter().max_by_key(|row| row.references.len());
    let references = longest.map(|row| &row.references[..]).filter(|references| references.len() > 1);
    let mut left = PLOT.0 - 40.0;
    let places: Vec<_> = references
        .unwrap_or_default()
        .iter()
        .map(|(name, _)| {
            let place = left;
            left += 28.0 + 6.6 * name.chars().count() as f64;
            (place, name)
        })
        .collect();
    html! {
        @for (n, (left, name)) in places.iter().enumerate() {
            circle class=(colour(n)) cx=(px(*left)) cy=(px(y - 4.0)) r="5" {}
            (text(left + 9.0, y, "start", "soft", name))
        }
    }
}

fn draw_row(row: &Row, y: f64) -> Markup {
    let middle = y - 4.0;
    let wanted = match row.target {
        Some(Target::OfReference(share)) => Some(share),
        Some(Target::Ahead) => Some(1.0),
        _ => None,
    };
    let class = if row.is_met() == Some(false) { "bad" } else { "good" };
    html! {
        (text(MARGIN, y, "start", "ink", &shorten(&row.what, 58)))
        (text(VALUE, y, "end", "value", &figure(&row.figure)))
        (line("grid", (PLOT.0, middle), (PLOT.1, middle)))
        (line("even", (x(1.0), y - ROW + 4.0), (x(1.0), y + 4.0)))
        @if let Some(wanted) = wanted {
            (line("wanted", (x(wanted), middle - 7.0), (x(wanted), middle + 7.0)))
        }
        @for (n, (name, reference)) in row.references.iter().enumerate() {
            @let speed = row.figure.speed_against(reference);
            circle class=(colour(n)) cx=(px(x(speed))) cy=(px(middle)) r="5" {
                title { (name) ": " (figure(reference)) ", speed " (digits(speed)) " ×" }
            }
        }
        @if let Some(speed) = row.speed() {
            (text(PLOT.1 + 62.0, y, "end", "value", &format!("{} ×", digits(speed))))
        }
        (text(WIDTH - MARGIN, y, "end", class, &format!("{} {}", target(row), verdict(row))))
    }
}
