//! A report as one drawing that needs no other file, and follows the reader's choice of light or dark.
#![expect(
    clippy::format_push_string,
    reason = "a drawing is written once, and `write!` would give an error that cannot happen"
)]

mod rows;
mod series;

use kvtier_cli::report::markup::escape;

use crate::report::Report;

const WIDTH: f64 = 1060.0;
const MARGIN: f64 = 28.0;

/// Renders the report.
pub(crate) fn render(report: &Report) -> String {
    let mut top = 46.0;
    let mut body = text(MARGIN, top, "start", "title", "kvtier bench");
    let facts: Vec<String> = report.facts.iter().map(|(name, fact)| format!("{name}: {fact}")).collect();
    for line in wrapped(&facts) {
        top += 18.0;
        body += &text(MARGIN, top, "start", "soft", &line);
    }
    if report.is_quick {
        top += 18.0;
        body += &text(MARGIN, top, "start", "bad", "a quick run: the figures mean nothing");
    }
    for (height, drawing) in [rows::draw(report), series::draw(report)] {
        body += &format!("<g transform=\"translate(0,{top:.1})\">{drawing}</g>");
        top += height;
    }
    let height = top + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\">\n<style>{}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n{body}\n</svg>\n",
        include_str!("style.css")
    )
}

/// Puts words side by side, as many as fit on a line.
fn wrapped(words: &[String]) -> Vec<String> {
    const CHARACTERS_MAX: usize = 150;
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < CHARACTERS_MAX => {
                *line += &format!("; {word}");
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

fn text(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(text)
    )
}

fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> String {
    format!(
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    )
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
            for tag in ["svg", "g", "text", "circle", "title", "path"] {
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
