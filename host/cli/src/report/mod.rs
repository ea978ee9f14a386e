//! The report of a replay: one HTML file that contains its style and drawings. It needs no script, no font and no
//! network, and follows the reader's choice of light or dark.

mod charts;
mod tables;

use kvtier::__internal::config::without_user_parts;
use kvtier::ShownSetting;
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub(crate) use self::tables::{cell, table};
use crate::format::{bytes, count, percent};
use crate::replay::{Outcome, ratio};
use crate::svg::{colour, document};

/// Keeps the page from loading anything.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The facts about the run that the report shows, besides its outcome.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// The command line.
    pub command: String,
    /// The configuration in force, without secrets.
    pub settings: Vec<ShownSetting>,
    /// Facts that the command line does not show, such as the chunk size of a model: name and value.
    pub facts: Vec<(String, String)>,
}

/// Renders the report as a complete HTML document.
pub fn render(outcome: &Outcome, info: &RunInfo) -> String {
    page(&format!("kvtier replay: {} hit ratio", percent(outcome.hit_ratio())), &body(outcome, info))
}

/// Renders a complete document.
pub(crate) fn page(title: &str, body: &Markup) -> String {
    document(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main { (body) } }
        }
    })
}

fn body(outcome: &Outcome, info: &RunInfo) -> Markup {
    html! {
        header {
            h1 { "kvtier replay" }
            p {
                (count(outcome.requests)) " requests, " (count(outcome.chunks)) " chunks of "
                (bytes(outcome.chunk_bytes as u64)) " through " (outcome.tier_names.join(" → "))
                ". One block of the trace is one chunk."
            }
        }
        (cards(outcome))
        (remarks(outcome))
        (section(
            "Hit ratio over the trace",
            "Share of each stretch's chunks that a tier served. Every one of them was verified byte by byte.",
            &html! { (legend(outcome)) (charts::hit_ratio(outcome)) },
        ))
        (section(
            "Tiers",
            "Bytes of payload and evictions, as the host counted them.",
            &html! { (tables::tiers(outcome)) (charts::bytes_moved(outcome)) },
        ))
        (section(
            "Latency",
            "Distribution of each operation on a logarithmic axis. Each hill has its own scale of height. \
             Solid line: median. Dotted line: 99th percentile.",
            &html! { (charts::latencies(outcome)) (tables::latencies(outcome)) },
        ))
        (section(
            "Misses, errors, refused, dropped and skipped puts",
            "A miss is a chunk that a retrieval requested from a tier and did not get there; the retrieval then asks \
             the next tier. Chunks that no lookup found are not requested. A put is refused by a tier that has no \
             space for the chunk. A tier is skipped while its breaker is open.",
            &tables::reasons(outcome),
        ))
        (run(info))
    }
}

pub(crate) fn section(title: &str, explanation: &str, content: &Markup) -> Markup {
    html! { section { h2 { (title) } p { (explanation) } (content) } }
}

fn cards(outcome: &Outcome) -> Markup {
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
    html! {
        div class="cards" {
            @for (name, value, note) in cards { div class="card" { span { (name) } b { (value) } small { (note) } } }
        }
    }
}

/// Renders the remarks for the operator, or nothing.
fn remarks(outcome: &Outcome) -> Markup {
    let remarks = outcome.remarks();
    html! {
        @if !remarks.is_empty() {
            section class="notes" { b { "Look at" } ul { @for remark in remarks { li { (remark) } } } }
        }
    }
}

fn legend(outcome: &Outcome) -> Markup {
    html! {
        ul class="legend" {
            @for (index, (name, hits)) in outcome.tier_names.iter().zip(&outcome.hits).enumerate() {
                li { i class=(colour(index)) {} (name) " " b { (percent(ratio(*hits, outcome.chunks))) } }
            }
            li { i class="dash" {} "all tiers, from the start" }
        }
    }
}

fn run(info: &RunInfo) -> Markup {
    let facts = info.facts.iter().map(|(name, value)| [cell(name), cell(&without_user_parts(value))]);
    let row = |setting: &ShownSetting| [cell(&setting.key), cell(&setting.value)];
    let changed = info.settings.iter().filter(|setting| !setting.is_default).map(row);
    let content = html! {
        h3 { "Command" }
        pre { (without_user_parts(&info.command)) }
        @if !info.settings.is_empty() {
            h3 { "Settings that differ from their default" }
            (table(&["key", "value"], 2, changed))
            details { summary { "All settings" } (table(&["key", "value"], 2, info.settings.iter().map(row))) }
        }
        @if !info.facts.is_empty() {
            h3 { "Facts" }
            (table(&["", ""], 2, facts))
        }
    };
    section(
        "This run",
        "Enough to repeat it. Secrets, and values that sound like secrets, are hidden.",
        &content,
    )
}

#[cfg(test)]
mod tests {
    use kvtier::Config;

    use super::*;
    use crate::replay::{Calls, TierCounters};
    use crate::sample;
    use crate::series::Series;

    /// Each place of a configuration in which people put secrets.
    const CONFIG: &str = "
chunk_size: 64
external_backends: disk
extra_config:
  kvtier.integrity_key: env:KEY
  external_backend.disk.module_path: '<b>\"fs.wasm'
  external_backend.disk.class_name: FsBackend
  external_backend.disk.secrets.name: env:PASSWORD
  external_backend.disk.allow.env: ['TOKEN=hunter2']
  external_backend.disk.config.password: hunter2
  external_backend.disk.config.options: 'timeout=5 token=hunter2'
  external_backend.disk.config.url: redis://user:hunter2@host:6379/0
  external_backend.disk.config.servers: 'u:hunter2@a, redis://host'
";

    fn info() -> RunInfo {
        let variables = [("KEY", "hunter2-hunter2-hunter2"), ("PASSWORD", "hunter2")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        RunInfo {
            command: "kvtier replay chat.jsonl --config <x>.yaml redis://user:hunter2@host".into(),
            settings: Config::from_yaml(CONFIG, "", variables).unwrap().config.shown(),
            facts: vec![("cores".into(), "2".into()), ("url".into(), "redis://user:hunter2@host".into())],
        }
    }

    #[test]
    fn every_string_of_the_user_is_escaped_and_secrets_are_hidden() {
        let html = render(&sample::outcome(), &info());
        assert!(!html.contains("<log>") && html.contains("&lt;log&gt; &amp; co"));
        assert!(!html.contains("<x>") && html.contains("&lt;x&gt;.yaml"));
        assert!(html.contains("&lt;b&gt;&quot;fs.wasm"));
        assert!(html.contains("last failure of writing: no &lt;route&gt;"));
        assert!(!html.contains("hunter2"));
        for shown in ["chunk_size", "[hidden]@host", "env:PASSWORD", "TOKEN"] {
            assert!(html.contains(shown), "{shown}");
        }
    }

    #[test]
    fn the_file_needs_no_other() {
        let html = render(&sample::outcome(), &info());
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!html.contains(outside), "the report has {outside}");
        }
    }

    #[test]
    fn tags_are_balanced_and_numbers_are_finite() {
        let mut empty = sample::outcome();
        empty.series = Series::new(3);
        empty.calls = Calls::default();
        empty.tiers = vec![TierCounters::default(); 3];
        for outcome in [sample::outcome(), empty] {
            let html = render(&outcome, &info());
            for tag in [
                "section", "table", "tr", "td", "details", "svg", "text", "g", "rect", "path", "line", "ul",
                "li", "div", "pre",
            ] {
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
        let html = render(&sample::outcome(), &info());
        // Three whole calls, three operations of the CPU tier, two of the log, three of the disk.
        assert_eq!(html.matches("class=\"hill ").count(), 11);
        assert_eq!(html.matches("class=\"area ").count(), 3, "one area for each tier");
    }
}
