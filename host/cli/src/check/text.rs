//! The report of a check as text.

use std::collections::BTreeMap;

use kvtier_check::{Figures, Part, Report, sentences};

use crate::format::{bytes, count, duration_ns, indented};
use crate::table::table;

/// Renders what is broken and how to do it right, notes, what was not tried and why, and figures.
pub(crate) fn render(report: &Report) -> String {
    let mut parts = vec![summary(report)];
    if !report.is_kept() {
        parts.push(format!(
            "{report}\nto check with the same keys: kvtier check ... --seed {}\n",
            report.seed
        ));
    }
    if !report.notes.is_empty() {
        let rows = report.notes.iter().map(|note| [note.sentence, note.text.as_str()]);
        parts.push(format!("notes: allowed, and worth knowing\n{}", indented(&table(&[], 2, rows))));
    }
    let not_tried = not_tried(report);
    if !not_tried.is_empty() {
        let lines = not_tried.iter().map(|(reason, ids)| format!("  {reason}: {}\n", ids.join(", ")));
        parts.push(format!("not tried\n{}", lines.collect::<String>()));
    }
    parts.extend(report.figures.as_ref().map(render_figures));
    parts.join("\n")
}

/// Renders the first line: what was checked, and what came out.
pub(crate) fn summary(report: &Report) -> String {
    format!(
        "{} in {}: {} sentences kept, {} broken, {} not tried, in {}\n",
        report.class_name,
        report.component,
        report.n_kept(),
        report.broken().count(),
        report.not_tried().count(),
        duration_ns(report.elapsed.as_nanos() as f64),
    )
}

/// Returns the names of sentences that were not tried, by reason.
pub(crate) fn not_tried(report: &Report) -> BTreeMap<&str, Vec<&'static str>> {
    let mut reasons: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (sentence, reason) in report.not_tried() {
        reasons.entry(reason).or_default().push(sentence.id);
    }
    reasons
}

/// The columns of [`figure_rows`].
pub(crate) const FIGURE_COLUMNS: [&str; 5] = ["chunk", "chunks", "contains", "put", "get"];

/// Returns one row for each kind of call.
pub(crate) fn figure_rows(figures: &Figures) -> impl Iterator<Item = [String; FIGURE_COLUMNS.len()]> + '_ {
    figures.calls.iter().map(|call| {
        let time = |time: std::time::Duration| duration_ns(time.as_nanos() as f64);
        [
            bytes(call.chunk_bytes as u64),
            count(call.n_chunks as u64),
            time(call.contains),
            time(call.put),
            time(call.get),
        ]
    })
}

/// Returns what is measured once: name and value.
pub(crate) fn single_figures(figures: &Figures) -> Vec<[String; 2]> {
    let time = |time: std::time::Duration| duration_ns(time.as_nanos() as f64);
    let mut rows = vec![
        ["load, code cached".to_owned(), time(figures.load_cached)],
        ["memory when open".to_owned(), bytes(figures.memory_open_bytes)],
        ["memory after these calls".to_owned(), bytes(figures.memory_after_bytes)],
    ];
    if let Some(cold) = figures.load_cold {
        rows.insert(0, ["load, code compiled".to_owned(), time(cold)]);
    }
    rows
}

fn render_figures(figures: &Figures) -> String {
    let calls = table(&FIGURE_COLUMNS, 0, figure_rows(figures));
    format!("{}\nmedian time of a call\n{}", table(&[], 1, single_figures(figures)), indented(&calls))
}

/// Lists all sentences.
pub(crate) fn render_list() -> String {
    let rows = sentences().map(|sentence| {
        let part = if sentence.part == Part::Quick { "quick" } else { "full" };
        [sentence.id, part, sentence.method, sentence.text]
    });
    table(&["sentence", "part", "method", "text"], 4, rows)
}
