//! A report as JSON. Values are in seconds, or in bytes, tokens or requests per second. The field names are an
//! interface: scripts read them.

use serde_json::{Value, json};

use crate::report::{Figure, Report, Row, Series, Target, Unit};

/// Renders the report as one object.
pub(crate) fn render(report: &Report) -> serde_json::Result<String> {
    let facts: serde_json::Map<String, Value> =
        report.facts.iter().map(|(name, fact)| (name.clone(), json!(fact))).collect();
    let document = json!({
        "quick": report.is_quick,
        "facts": facts,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
        "series": report.series.iter().map(series).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&document).map(|text| text + "\n")
}

fn row(row: &Row) -> Value {
    let references = row.references.iter().map(|(name, reference)| {
        json!({ "name": name, "figure": figure(reference), "speed": row.figure.speed_against(reference) })
    });
    json!({
        "part": row.part,
        "what": row.what,
        "figure": figure(&row.figure),
        "references": references.collect::<Vec<_>>(),
        "target": row.target.map(target),
        "met": row.is_met(),
        "note": row.note,
    })
}

fn figure(figure: &Figure) -> Value {
    let unit = match figure.unit {
        Unit::Seconds => "s",
        Unit::BytesPerSecond => "bytes/s",
        Unit::TokensPerSecond => "tokens/s",
        Unit::RequestsPerSecond => "requests/s",
    };
    json!({ "median": figure.value, "unit": unit, "spread": figure.spread, "samples": figure.n_samples })
}

fn target(target: Target) -> Value {
    match target {
        Target::AtMost(limit) => json!({ "at_most": limit }),
        Target::AtLeast(limit) => json!({ "at_least": limit }),
        Target::OfReference(share) => json!({ "of_reference": share }),
        Target::Ahead => json!("ahead"),
    }
}

fn series(series: &Series) -> Value {
    let lines = series.lines.iter().map(|line| {
        let points = line.points.iter().map(|(at, point)| json!({ "at": at, "figure": figure(point) }));
        json!({ "name": line.name, "points": points.collect::<Vec<_>>() })
    });
    json!({
        "part": series.part,
        "title": series.title,
        "over": series.over,
        "lines": lines.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests;

    #[test]
    fn a_row_has_its_speed_and_whether_its_target_is_met() {
        let row = tests::row(9e9, &[10e9], Unit::BytesPerSecond, Target::OfReference(0.8));
        let mut series = Series::new("part", "title", "keys", Unit::Seconds);
        series.push("line", 32, tests::figure(1e-9, Unit::Seconds));
        let report = Report { rows: vec![row], series: vec![series], ..Report::default() };
        let value: Value = serde_json::from_str(&render(&report).unwrap()).unwrap();
        assert_eq!(value["rows"][0]["references"][0]["speed"], 0.9);
        assert_eq!(value["rows"][0]["target"]["of_reference"], 0.8);
        assert_eq!(value["rows"][0]["met"], true);
        assert_eq!(value["series"][0]["lines"][0]["points"][0]["at"], 32);
    }
}
