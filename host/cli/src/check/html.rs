//! The report of a check as HTML.

use kvtier_check::{Breach, Outcome, Report, Sentence, Verdict};
use maud::{Markup, html};

use super::text::{FIGURE_COLUMNS, figure_rows, not_tried, single_figures};
use crate::format::duration_ns;
use crate::report::{cell, page, section, table};

/// Renders the report as a complete HTML document.
pub(crate) fn render(report: &Report) -> String {
    let verdict = if report.is_kept() { "keeps the contract" } else { "breaks the contract" };
    page(&format!("kvtier check: {} {verdict}", report.class_name), &body(report, verdict))
}

fn body(report: &Report, verdict: &str) -> Markup {
    html! {
        header {
            h1 { "kvtier check" }
            p { (report.class_name) " in " (report.component) " " (verdict) "." }
        }
        (cards(report))
        @for (sentence, breach) in report.broken() { (broken(sentence, breach)) }
        @if !report.notes.is_empty() {
            (section("Notes", "Allowed by the contract, and worth knowing.", &html! {
                ul { @for note in &report.notes { li { b { (note.sentence) } " " (note.text) } } }
            }))
        }
        (section("Sentences", "One test for each sentence of the contract.", &sentences(report)))
        @if !not_tried(report).is_empty() {
            (section("Not tried", "What these tests need, the class or the check does not have.", &html! {
                ul { @for (reason, ids) in not_tried(report) { li { (reason) ": " (ids.join(", ")) } } }
            }))
        }
        @if let Some(figures) = &report.figures {
            (section("Figures", "Median times of a call on this machine.", &html! {
                (table(&FIGURE_COLUMNS, 0, figure_rows(figures).map(|row| row.map(|text| cell(&text)))))
                (table(&["", ""], 1, single_figures(figures).into_iter().map(|row| row.map(|text| cell(&text)))))
            }))
        }
    }
}

fn cards(report: &Report) -> Markup {
    let cards = [
        ("Kept", report.n_kept().to_string()),
        ("Broken", report.broken().count().to_string()),
        ("Not tried", report.not_tried().count().to_string()),
        ("Time", duration_ns(report.elapsed.as_nanos() as f64)),
        ("Seed", report.seed.to_string()),
    ];
    html! {
        div class="cards" { @for (name, value) in cards { div class="card" { span { (name) } b { (value) } } } }
    }
}

fn broken(sentence: &Sentence, breach: &Breach) -> Markup {
    let rows = [
        ("call", breach.call.as_str()),
        ("expected", &breach.expected),
        ("found", &breach.found),
        ("likely", sentence.cause),
        ("do", sentence.remedy),
    ];
    html! {
        section class="notes" {
            b { (sentence.id) " (" (sentence.method) ")" }
            p { (sentence.text) }
            ul { @for (name, text) in rows { li { b { (name) } " " (text) } } }
        }
    }
}

fn sentences(report: &Report) -> Markup {
    let rows = report.verdicts.iter().map(|Verdict { sentence, outcome, elapsed }| {
        let outcome = match outcome {
            Outcome::Kept => "kept",
            Outcome::Broken(_) => "BROKEN",
            Outcome::NotTried(_) => "not tried",
        };
        let time = duration_ns(elapsed.as_nanos() as f64);
        [cell(sentence.id), cell(sentence.method), cell(outcome), cell(sentence.text), cell(&time)]
    });
    table(&["sentence", "method", "outcome", "text", "time"], 4, rows)
}
