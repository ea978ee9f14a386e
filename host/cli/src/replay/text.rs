//! The outcome of a replay as text.

use crate::format::{bytes, count, microseconds, percent};
use crate::histogram::Histogram;
use crate::replay::{Outcome, ratio};
use crate::table::table;

/// Renders a summary, the tiers, the latencies, and remarks for the operator, if any.
pub fn render(outcome: &Outcome) -> String {
    let mut text = format!("{}\n{}\n{}", summary(outcome), tiers(outcome), latencies(outcome));
    let remarks = outcome.remarks();
    if !remarks.is_empty() {
        text.push('\n');
    }
    text.extend(remarks.iter().flat_map(|remark| [remark, "\n"]));
    text
}

fn summary(outcome: &Outcome) -> String {
    format!(
        "{} requests, {} chunks of {}, in {:.2} s ({} requests/s)\n\
         one block of the trace is one chunk, whatever chunk_size is\n\
         hit ratio {}: {} chunks served, {} verified byte by byte\n",
        count(outcome.requests),
        count(outcome.chunks),
        bytes(outcome.chunk_bytes as u64),
        outcome.elapsed.as_secs_f64(),
        count(outcome.requests_per_s().round() as u64),
        percent(outcome.hit_ratio()),
        count(outcome.hits_total()),
        bytes(outcome.bytes_verified()),
    )
}

/// The columns of [`tier_rows`].
pub(crate) const TIER_COLUMNS: [&str; 11] = [
    "tier",
    "hits",
    "hit ratio",
    "read",
    "written",
    "evicted",
    "misses",
    "errors",
    "refused",
    "dropped",
    "skipped",
];

/// Returns one row for each tier.
pub(crate) fn tier_rows(outcome: &Outcome) -> impl Iterator<Item = [String; TIER_COLUMNS.len()]> + '_ {
    let tiers = outcome.tier_names.iter().zip(&outcome.hits).zip(&outcome.tiers);
    tiers.map(|((name, hits), tier)| {
        [
            name.clone(),
            count(*hits),
            percent(ratio(*hits, outcome.chunks)),
            bytes(tier.bytes_read),
            bytes(tier.bytes_written),
            count(tier.evictions),
            count(tier.misses.values().sum()),
            count(tier.errors.values().sum()),
            count(tier.refused.values().sum()),
            count(tier.dropped.values().sum()),
            count(tier.skipped.values().sum()),
        ]
    })
}

fn tiers(outcome: &Outcome) -> String {
    table(&TIER_COLUMNS, 1, tier_rows(outcome))
}

fn latencies(outcome: &Outcome) -> String {
    let row = |tier: &str, operation: &str, latency: &Histogram| {
        [
            tier.to_owned(),
            operation.to_owned(),
            count(latency.count()),
            microseconds(latency.quantile_us(0.5)),
            microseconds(latency.quantile_us(0.99)),
        ]
    };
    let calls = outcome.calls.by_name();
    let calls = calls.iter().map(|(operation, latency)| row("(whole call)", operation, latency));
    let tiers = outcome.tier_names.iter().zip(&outcome.tiers);
    let tiers = tiers.flat_map(|(name, tier)| {
        tier.latency.iter().map(move |(operation, latency)| row(name, operation, latency))
    });
    table(&["tier", "operation", "calls", "p50 µs", "p99 µs"], 2, calls.chain(tiers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_table_is_aligned_and_complete() {
        let text = render(&sample::outcome());
        let expected_head = "3,000 requests, 36,000 chunks of 4.0 KiB, in 4.32 s (694 requests/s)\n\
             one block of the trace is one chunk, whatever chunk_size is\n\
             hit ratio 50.00 %: 18,000 chunks served, 70.3 MiB verified byte by byte\n\
             \n\
             tier         hits  hit ratio      read    written  evicted  misses  errors  refused  dropped  skipped\n\
             cpu         9,000    25.00 %  35.2 MiB  105.5 MiB    1,234  27,000       0        0        0        0\n\
             <log> & co      0     0.00 %       0 B  105.5 MiB        0  26,993       7       31       12        3\n\
             disk        9,000    25.00 %  35.2 MiB  105.5 MiB        0  18,002       0        0        0        0\n\
             \n\
             tier          operation   calls  p50 µs  p99 µs\n\
             (whole call)  lookup      3,000";
        assert_eq!(&text[..expected_head.len().min(text.len())], expected_head);
        assert!(
            text.ends_with(
                "\n\n2 chunks were found but not delivered\n\
                 <log> & co: 7 errors, kind `put_unavailable`; the last: unavailable: no <route>\n\
                 <log> & co: 31 puts refused, reason `no_space`\n\
                 <log> & co: 12 puts dropped, reason `breaker_open`\n\
                 <log> & co: 3 times skipped for writing, breaker open\n\
                 <log> & co: 1 × `writing_breaker_opened`\n\
                 <log> & co: last failure of writing: no <route>\n\
                 disk: 2 misses, reason `corrupt`\n"
            ),
            "{text}"
        );
        assert!(text.lines().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn there_are_no_remarks_when_nothing_went_wrong() {
        let mut outcome = sample::outcome();
        outcome.lost = 0;
        for tier in &mut outcome.tiers {
            *tier = crate::replay::TierCounters {
                misses: std::mem::take(&mut tier.misses),
                ..crate::replay::TierCounters::default()
            };
            tier.misses.retain(|reason, _| reason == "not_found");
        }
        assert_eq!(outcome.remarks(), [""; 0]);
    }
}
