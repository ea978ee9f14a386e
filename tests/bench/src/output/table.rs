//! A report as aligned text.

use std::fmt::Write as _;

use kvtier_cli::table::table;

use super::words::{digits, figure, place, spread, target, value, verdict};
use crate::report::{Report, Row, Series};

/// Renders facts, one table of rows for each part, and the series.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |line: std::fmt::Arguments| writeln!(text, "{line}").unwrap_or_default();
    if report.is_quick {
        line(format_args!("a quick run: everything was done once, and the figures mean nothing"));
    }
    for (name, fact) in &report.facts {
        line(format_args!("{name}: {fact}"));
    }
    for part in &report.parts {
        let of_part: Vec<&Row> = report.rows.iter().filter(|row| row.part == *part).collect();
        if !of_part.is_empty() {
            line(format_args!("\n{}", rows(part, &of_part).trim_end()));
        }
        for series in report.series.iter().filter(|series| series.part == *part) {
            line(format_args!("\n{part}: {}", self::series(series).trim_end()));
        }
    }
    line(format_args!("\n{}", summary(report)));
    text
}

/// Renders the rows of a part. A row has as many lines as references.
fn rows(part: &str, rows: &[&Row]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let mut references = row.references.iter();
        let mut cells = |first: [String; 3], last: [String; 2]| {
            let reference = references.next().map(|(name, reference)| {
                [
                    format!("{name}:"),
                    figure(reference),
                    format!("{} ×", digits(row.figure.speed_against(reference))),
                ]
            });
            let [what, own, spread] = first;
            let [name, theirs, speed] = reference.unwrap_or_default();
            let [target, verdict] = last;
            lines.push([what, own, spread, name, theirs, speed, target, verdict]);
        };
        cells(
            [row.what.clone(), figure(&row.figure), spread(&row.figure)],
            [target(row), verdict(row).to_owned()],
        );
        for _ in 1..row.references.len() {
            cells(Default::default(), Default::default());
        }
    }
    let notes = rows.iter().filter(|row| !row.note.is_empty());
    let header = [part, "kvtier", "", "reference", "", "speed", "target", ""];
    notes.fold(table(&header, 1, lines), |text, row| format!("{text}  {}: {}\n", row.what, row.note))
}

/// Renders a series: a row for each of its lines, a column for each point.
fn series(series: &Series) -> String {
    let places = series.places();
    let mut header = vec![format!("{}, over {}", series.title, series.over)];
    header.extend(places.iter().map(|at| place(*at, series.over)));
    let rows = series.lines.iter().map(|line| {
        let cell = |at: &u64| {
            let point = line.points.iter().find(|(known, _)| known == at);
            point.map(|(_, figure)| value(figure.value, figure.unit)).unwrap_or_default()
        };
        let mut cells = vec![format!("  {}", line.name)];
        cells.extend(places.iter().map(cell));
        cells
    });
    table(&header.iter().map(String::as_str).collect::<Vec<_>>(), 1, rows)
}

fn summary(report: &Report) -> String {
    let verdicts: Vec<bool> = report.rows.iter().filter_map(Row::is_met).collect();
    let n_met = verdicts.iter().filter(|is_met| **is_met).count();
    format!(
        "{n_met} of {} targets met; medians of samples taken in turns, ± half the distance of their quartiles; \
         a speed above 1 is faster than the reference, and a share of it is of the fastest one",
        verdicts.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{figure, row};
    use crate::report::{Series, Target, Unit};

    fn report() -> Report {
        let mut rows = vec![
            row(4.2e-6, &[8.4e-6], Unit::Seconds, Target::AtMost(5e-6)),
            row(9e9, &[10e9, 4.5e9], Unit::BytesPerSecond, Target::OfReference(0.95)),
        ];
        rows[1].note = "a note".into();
        let mut series = Series::new("part", "a lookup", "keys", Unit::Seconds);
        series.push("here", 1, figure(1e-9, Unit::Seconds));
        series.push("here", 4096, figure(2e-9, Unit::Seconds));
        series.push("there", 4096, figure(3e-9, Unit::Seconds));
        Report {
            rows,
            series: vec![series],
            facts: vec![("cores".into(), "2".into())],
            is_quick: false,
            parts: vec!["part"],
        }
    }

    #[test]
    fn the_tables_are_aligned_and_complete() {
        let text = render(&report());
        let expected = "cores: 2\n\
            \n\
            part        kvtier             reference                speed     target\n\
            what       4.20 µs  ±1 %  reference 0:    8.40 µs  2.00 ×  ≤ 5.00 µs      met\n\
            what     9.00 GB/s  ±1 %  reference 0:  10.0 GB/s  0.90 ×    ≥ 0.9 ×  not met\n\
            \u{20}                         reference 1:  4.50 GB/s  2.00 ×\n\
            \u{20} what: a note\n\
            \n\
            part: a lookup, over keys        1    4,096\n\
            \u{20} here               1.00 ns  2.00 ns\n\
            \u{20} there                       3.00 ns\n\
            \n\
            1 of 2 targets met;";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeeze(&text).starts_with(&squeeze(expected)), "{text}");
        assert!(text.lines().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn a_quick_run_says_so() {
        let text = render(&Report { is_quick: true, ..report() });
        assert!(text.starts_with("a quick run"), "{text}");
    }
}
