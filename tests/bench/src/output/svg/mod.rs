//! A report as one drawing that needs no other file and follows the reader's choice of light or dark.

mod rows;
mod series;

use kvtier_cli::svg::{document, px, text};
use maud::{Markup, PreEscaped, html};

use crate::report::Report;

const WIDTH: f64 = 1060.0;
const MARGIN: f64 = 28.0;

/// Renders the report.
pub(crate) fn render(report: &Report) -> String {
    let (mut top, head) = head(report);
    let mut drawings = Vec::new();
    for (height, drawing) in [rows::draw(report), series::draw(report)] {
        drawings.push((top, drawing));
        top += height;
    }
    let height = format!("{:.0}", top + MARGIN);
    document(html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) height=(height) {
            style { (PreEscaped(include_str!("style.css"))) }
            rect class="page" width="100%" height="100%" {}
            (head)
            @for (top, drawing) in drawings { g transform=(moved(0.0, top)) { (drawing) } }
        }
    })
}

/// Draws title and facts. Returns the height with the drawing.
fn head(report: &Report) -> (f64, Markup) {
    const LINE: f64 = 18.0;
    let facts: Vec<String> = report.facts.iter().map(|(name, fact)| format!("{name}: {fact}")).collect();
    let mut lines: Vec<(&str, String)> = wrapped(&facts).into_iter().map(|line| ("soft", line)).collect();
    if report.is_quick {
        lines.push(("bad", "a quick run: the figures mean nothing".to_owned()));
    }
    let top = 46.0;
    let drawing = html! {
        (text(MARGIN, top, "start", "title", "kvtier bench"))
        @for (index, (class, line)) in lines.iter().enumerate() {
            (text(MARGIN, top + LINE * (index + 1) as f64, "start", class, line))
        }
    };
    (top + LINE * lines.len() as f64, drawing)
}

/// Returns the transformation that moves a drawing.
fn moved(right: f64, down: f64) -> String {
    format!("translate({},{})", px(right), px(down))
}

/// Joins words to lines, as many as fit on each.
fn wrapped(words: &[String]) -> Vec<String> {
    const CHARACTERS_MAX: usize = 150;
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < CHARACTERS_MAX => {
                line.extend(["; ", word]);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{figure, row};
    use crate::report::{Series, Target, Unit};

    #[test]
    fn tags_are_balanced_numbers_are_finite_and_nothing_is_outside() {
        let mut named = row(1e-9, &[2e-9, 1e-12], Unit::Seconds, Target::AtMost(1e-9));
        named.what = "<b> & co".into();
        let mut series = Series::new("part", "title", "backends", Unit::Seconds);
        for at in [0, 1, 8] {
            series.push("line", at, figure(1e-9, Unit::Seconds));
        }
        let alone = row(3.0, &[], Unit::RequestsPerSecond, Target::AtLeast(2.0));
        let full = Report { rows: vec![named, alone], series: vec![series], ..Report::default() };
        for report in [full, Report::default()] {
            let svg = render(&report);
            for tag in ["svg", "g", "text", "circle", "title", "path", "line", "rect"] {
                let opened =
                    svg.matches(&format!("<{tag}>")).count() + svg.matches(&format!("<{tag} ")).count();
                assert_eq!(opened, svg.matches(&format!("</{tag}>")).count(), "{tag}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<b>"), "{svg}");
            for outside in ["https:", "href=", "url(", "@import", "<script"] {
                assert!(!svg.contains(outside), "{outside}");
            }
        }
    }
}
