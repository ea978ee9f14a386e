//! The report of a replay: one HTML file with its style and drawings inside. It needs no script, no font and no
//! network, and follows the reader's choice of light or dark.
#![expect(
    clippy::format_push_string,
    reason = "a report is written once, and `write!` would give an error that cannot happen"
)]

mod charts;
pub mod markup;

use kvtier::config::without_user_parts;

use crate::format::{bytes, count, microseconds, percent};
use crate::redact::redact;
use crate::replay::{Outcome, ratio};
use crate::series::Histogram;
use markup::{colour, escape};

/// What the report says about the run, besides its outcome.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The command line.
    pub command: String,
    /// The configuration's name and text, as the user wrote it. Secrets are hidden before it is shown.
    pub config: Option<(String, String)>,
    /// Things to know that the command line does not show, such as the chunk size of a model: name and value.
    pub facts: Vec<(String, String)>,
}

/// Renders the report as a complete HTML document.
pub fn render(outcome: &Outcome, setting: &Setting) -> String {
    let mut body = String::new();
    let (requests, chunks) = (count(outcome.requests), count(outcome.chunks));
    let chain = outcome.tier_names.iter().map(|name| escape(name)).collect::<Vec<_>>().join(" → ");
    body += &format!(
        "<header><h1>kvtier replay</h1><p>{requests} requests, {chunks} chunks of {} through {chain}. One block of the trace is one chunk.</p></header>",
        bytes(outcome.chunk_bytes as u64)
    );
    body += &cards(outcome);
    body += &troubles(outcome);
    body += &section(
        "Hit ratio over the trace",
        "Share of each stretch's chunks that a tier served; every one of them was verified byte by byte.",
        &format!("{}{}", hit_legend(outcome), charts::hit_ratio(outcome)),
    );
    body += &section(
        "Tiers",
        "Bytes and evictions as the host counted them, payload only.",
        &format!("{}{}", tier_table(outcome), charts::bytes_moved(outcome)),
    );
    body += &section(
        "Latency",
        "Distribution of each operation on a logarithmic axis; each hill has its own height. Solid line: median. \
         Dotted line: 99th percentile.",
        &format!("{}{}", charts::latencies(outcome), latency_table(outcome)),
    );
    body += &misses_and_errors(outcome);
    body += &run(setting);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>kvtier replay: {} hit ratio</title>\n<style>\n{}</style>\n</head>\n<body><main>\n{body}\n</main></body>\n</html>\n",
        percent(outcome.hit_ratio()),
        include_str!("style.css"),
    )
}

/// The operations of the whole chain, then those of each tier: row name, operation, colour, latencies.
fn latency_rows(outcome: &Outcome) -> Vec<(String, String, String, &Histogram)> {
    let calls = outcome.calls.by_name().into_iter();
    let mut rows: Vec<_> = calls
        .map(|(operation, latency)| ("whole call".into(), operation.into(), "call".into(), latency))
        .collect();
    for (index, (name, tier)) in outcome.tier_names.iter().zip(&outcome.tiers).enumerate() {
        let operations = tier.latency.iter();
        rows.extend(
            operations.map(|(operation, latency)| (name.clone(), operation.clone(), colour(index), latency)),
        );
    }
    rows.retain(|(.., latency)| latency.count() > 0);
    rows
}

fn section(title: &str, explanation: &str, content: &str) -> String {
    format!("<section><h2>{title}</h2><p>{explanation}</p>{content}</section>\n")
}

fn cards(outcome: &Outcome) -> String {
    let served = outcome.tier_names.iter().zip(&outcome.hits).filter(|(_, hits)| **hits > 0);
    let served: Vec<String> =
        served.map(|(name, hits)| format!("{name} {}", percent(ratio(*hits, outcome.chunks)))).collect();
    let cards = [
        ("Hit ratio", percent(outcome.hit_ratio()), served.join(", ")),
        ("Chunks served", count(outcome.hits_total()), format!("of {}", count(outcome.chunks))),
        ("Verified", bytes(outcome.bytes_verified()), "every byte".into()),
        ("Stored", count(outcome.stored.new), format!("{} were present", count(outcome.stored.present))),
        ("Evicted", count(outcome.evictions()), "chunks".into()),
        (
            "Speed",
            format!("{} req/s", count(outcome.requests_per_s().round() as u64)),
            format!("{:.2} s in all", outcome.elapsed.as_secs_f64()),
        ),
    ];
    let cards = cards.iter().map(|(name, value, note)| {
        format!("<div class=\"card\"><span>{name}</span><b>{value}</b><small>{}</small></div>", escape(note))
    });
    format!("<div class=\"cards\">{}</div>\n", cards.collect::<String>())
}

/// What an operator should look at first; nothing when there is nothing.
fn troubles(outcome: &Outcome) -> String {
    let mut items = String::new();
    if outcome.lost > 0 {
        items += &format!("<li>{} chunks were found, but did not arrive</li>", count(outcome.lost));
    }
    if outcome.stored.refused > 0 {
        items +=
            &format!("<li>{} chunks found no memory and were not stored</li>", count(outcome.stored.refused));
    }
    for (name, tier) in outcome.tier_names.iter().zip(&outcome.tiers) {
        let errors: u64 = tier.errors.values().sum();
        if errors > 0 {
            items += &format!("<li>{}: {} errors</li>", escape(name), count(errors));
        }
    }
    if items.is_empty() {
        return String::new();
    }
    format!("<section class=\"notes\"><b>Look at</b><ul>{items}</ul></section>\n")
}

fn hit_legend(outcome: &Outcome) -> String {
    let mut items = String::new();
    for (index, (name, hits)) in outcome.tier_names.iter().zip(&outcome.hits).enumerate() {
        items += &format!(
            "<li><i class=\"{}\"></i>{} <b>{}</b></li>",
            colour(index),
            escape(name),
            percent(ratio(*hits, outcome.chunks))
        );
    }
    format!("<ul class=\"legend\">{items}<li><i class=\"dash\"></i>all tiers, from the start</li></ul>")
}

fn table(header: &[&str], n_text: usize, rows: impl Iterator<Item = Vec<String>>) -> String {
    let class = |index: usize| {
        if index < n_text { " class=\"left\"" } else { "" }
    };
    let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (index, title) in header.iter().enumerate() {
        html += &format!("<th{}>{title}</th>", class(index));
    }
    html += "</tr></thead><tbody>";
    for row in rows {
        html += "<tr>";
        for (index, cell) in row.iter().enumerate() {
            html += &format!("<td{}>{cell}</td>", class(index));
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

fn named(name: &str, colour: &str) -> String {
    format!("<i class=\"{colour}\"></i>{}", escape(name))
}

fn tier_table(outcome: &Outcome) -> String {
    let tiers = outcome.tier_names.iter().zip(&outcome.hits).zip(&outcome.tiers).enumerate();
    let rows = tiers.map(|(index, ((name, hits), tier))| {
        vec![
            named(name, &colour(index)),
            count(*hits),
            percent(ratio(*hits, outcome.chunks)),
            bytes(tier.bytes_read),
            bytes(tier.bytes_written),
            count(tier.evictions),
            count(tier.misses.values().sum()),
            count(tier.errors.values().sum()),
        ]
    });
    table(&["tier", "hits", "hit ratio", "read", "written", "evicted", "misses", "errors"], 1, rows)
}

fn latency_table(outcome: &Outcome) -> String {
    let rows = latency_rows(outcome).into_iter().map(|(name, operation, colour, latency)| {
        let quantile = |q| microseconds(latency.quantile_us(q));
        vec![
            named(&name, &colour),
            escape(&operation),
            count(latency.count()),
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(1.0),
        ]
    });
    table(&["tier", "operation", "calls", "p50 µs", "p90 µs", "p99 µs", "longest µs"], 2, rows)
}

fn misses_and_errors(outcome: &Outcome) -> String {
    let tiers = || outcome.tier_names.iter().zip(&outcome.tiers).enumerate();
    let rows = tiers().flat_map(|(index, (name, tier))| {
        let misses = tier.misses.iter().map(|(reason, n)| ("miss", reason, n));
        let errors = tier.errors.iter().map(|(kind, n)| ("error", kind, n));
        let all = misses.chain(errors);
        all.map(move |(what, why, n)| {
            vec![named(name, &colour(index)), what.to_owned(), escape(why), count(*n)]
        })
        .collect::<Vec<_>>()
    });
    section(
        "Misses and errors",
        "A miss is a chunk that a retrieval asked a tier for and did not get there; the next tier was asked then. What no lookup found is not asked for.",
        &table(&["tier", "", "reason", "count"], 3, rows),
    )
}

fn run(setting: &Setting) -> String {
    let mut content = format!("<h3>Command</h3><pre>{}</pre>", escape(&without_user_parts(&setting.command)));
    if let Some((name, text)) = &setting.config {
        content += &format!("<h3>{}</h3><pre>{}</pre>", escape(name), escape(&redact(text)));
    }
    let rows =
        setting.facts.iter().map(|(name, value)| vec![escape(name), escape(&without_user_parts(value))]);
    if rows.len() > 0 {
        content += "<h3>Facts</h3>";
        content += &table(&["", ""], 2, rows);
    }
    section("This run", "Enough to repeat it. Values that look like secrets are hidden.", &content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn setting() -> Setting {
        Setting {
            command: "kvtier replay --trace chat.jsonl --config <x>.yaml".into(),
            config: Some(("demo.yaml".into(), "a: \"<b>\"\nsecrets.password: hunter2".into())),
            facts: vec![("cores".into(), "2".into())],
        }
    }

    #[test]
    fn every_string_of_the_user_is_escaped_and_secrets_are_hidden() {
        let html = render(&sample::outcome(), &setting());
        assert!(!html.contains("<log>") && html.contains("&lt;log&gt; &amp; co"));
        assert!(!html.contains("<x>") && html.contains("&lt;x&gt;.yaml"));
        assert!(html.contains("a: &quot;&lt;b&gt;&quot;"));
        assert!(!html.contains("hunter2"));
    }

    #[test]
    fn the_file_needs_no_other() {
        let html = render(&sample::outcome(), &setting());
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!html.contains(outside), "the report has {outside}");
        }
    }

    #[test]
    fn tags_are_balanced_and_numbers_are_finite() {
        let mut empty = sample::outcome();
        empty.series = crate::series::Series::new(3);
        empty.calls = crate::replay::Calls::default();
        empty.tiers = vec![crate::replay::TierCounters::default(); 3];
        for outcome in [sample::outcome(), empty] {
            let html = render(&outcome, &setting());
            for tag in
                ["section", "table", "tr", "td", "svg", "text", "g", "rect", "path", "ul", "li", "div", "pre"]
            {
                let opened =
                    html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
                let closed = html.matches(&format!("</{tag}>")).count();
                assert_eq!(opened, closed, "{tag}");
            }
            assert!(!html.contains("NaN") && !html.contains("inf\"") && !html.contains("inf,"));
        }
    }

    #[test]
    fn each_tier_and_operation_has_its_hill() {
        let html = render(&sample::outcome(), &setting());
        // Three whole calls, three operations of the CPU tier, two of the log, three of the disk.
        assert_eq!(html.matches("class=\"hill ").count(), 11);
        assert_eq!(html.matches("class=\"area ").count(), 3, "one area for each tier");
    }
}
