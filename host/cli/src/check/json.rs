//! The `--json` object of a check. Its field names are an interface: scripts read them.

use kvtier_check::{Depth, Figures, Outcome, Report, Verdict, sentences};
use serde_json::{Value, json};

/// Renders the report as JSON.
pub(crate) fn render(report: &Report) -> Value {
    let notes = report.notes.iter().map(|note| json!({ "sentence": note.sentence, "text": note.text }));
    json!({
        "component": report.component,
        "class": report.class_name,
        "quick": report.depth == Depth::Quick,
        "kept": report.is_kept(),
        "sentences": report.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "notes": notes.collect::<Vec<_>>(),
        "figures": report.figures.as_ref().map(figures),
        "seed": report.seed,
        "seconds": report.elapsed.as_secs_f64(),
    })
}

fn verdict(verdict: &Verdict) -> Value {
    let sentence = verdict.sentence;
    let mut value = json!({
        "id": sentence.id,
        "method": sentence.method,
        "text": sentence.text,
        "seconds": verdict.elapsed.as_secs_f64(),
    });
    let more = match &verdict.outcome {
        Outcome::Kept => json!({ "outcome": "kept" }),
        Outcome::NotTried(reason) => json!({ "outcome": "not_tried", "reason": reason }),
        Outcome::Broken(breach) => json!({
            "outcome": "broken",
            "call": breach.call,
            "expected": breach.expected,
            "found": breach.found,
            "hint": breach.hint(),
            "cause": sentence.cause,
            "remedy": sentence.remedy,
        }),
    };
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

fn figures(figures: &Figures) -> Value {
    let us = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    let calls = figures.calls.iter().map(|call| {
        json!({
            "chunk_bytes": call.chunk_bytes,
            "chunks": call.n_chunks,
            "contains_us": us(call.contains),
            "put_us": us(call.put),
            "get_us": us(call.get),
        })
    });
    json!({
        "load_cold_us": figures.load_cold.map(us),
        "load_cached_us": us(figures.load_cached),
        "memory_open_bytes": figures.memory_open_bytes,
        "memory_after_bytes": figures.memory_after_bytes,
        "calls": calls.collect::<Vec<_>>(),
    })
}

/// Lists all sentences as JSON.
pub(crate) fn render_list() -> Value {
    let sentences = sentences().map(|sentence| {
        json!({
            "id": sentence.id,
            "quick": sentence.part == kvtier_check::Part::Quick,
            "method": sentence.method,
            "text": sentence.text,
            "cause": sentence.cause,
            "remedy": sentence.remedy,
            "needs": sentence.needs,
        })
    });
    json!({ "sentences": sentences.collect::<Vec<_>>() })
}
