//! The `--json` object. Its field names are an interface: scripts read them.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::histogram::Histogram;
use crate::replay::Outcome;

/// A map that keeps its order, which is the chain's.
struct InOrder<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for InOrder<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
struct Document<'a> {
    requests: u64,
    chunks: u64,
    chunk_bytes: usize,
    hits: InOrder<&'a str, u64>,
    hit_ratio: f64,
    /// Found by the lookup but not delivered.
    lost: u64,
    evictions: u64,
    stored: StoredView,
    bytes: InOrder<&'a str, BytesView>,
    bytes_verified: u64,
    /// By tier and operation.
    latency_us: InOrder<&'a str, InOrder<&'a str, LatencyView>>,
    /// Whole calls, as the serving runtime sees them.
    call_latency_us: InOrder<&'a str, LatencyView>,
    /// By tier and reason.
    misses: InOrder<&'a str, &'a BTreeMap<String, u64>>,
    /// By tier and kind.
    errors: InOrder<&'a str, &'a BTreeMap<String, u64>>,
    /// The text of the last error, by tier and kind.
    last_errors: InOrder<&'a str, &'a BTreeMap<String, String>>,
    /// Puts of chunks that the tier had no space for, by tier and reason.
    refused: InOrder<&'a str, &'a BTreeMap<String, u64>>,
    /// Puts, by tier and reason.
    dropped: InOrder<&'a str, &'a BTreeMap<String, u64>>,
    /// Operations that skipped the tier because its breaker was open, by tier and direction.
    skipped: InOrder<&'a str, &'a BTreeMap<String, u64>>,
    /// By tier and event.
    events: InOrder<&'a str, &'a BTreeMap<String, u64>>,
    /// The last failure, by tier and what failed.
    last_causes: InOrder<&'a str, &'a BTreeMap<String, String>>,
    elapsed_s: f64,
    requests_per_s: f64,
}

#[derive(serde::Serialize)]
struct StoredView {
    new: u64,
    present: u64,
    refused: u64,
}

#[derive(serde::Serialize)]
struct BytesView {
    read: u64,
    written: u64,
}

#[derive(serde::Serialize)]
struct LatencyView {
    p50: f64,
    p99: f64,
    n: u64,
}

impl LatencyView {
    fn new(histogram: &Histogram) -> Self {
        Self { p50: histogram.quantile_us(0.5), p99: histogram.quantile_us(0.99), n: histogram.count() }
    }
}

/// Renders the outcome as one JSON object.
///
/// # Errors
/// None in practice: every field can be written as JSON.
pub fn render(outcome: &Outcome) -> serde_json::Result<String> {
    fn by_tier<'a, V>(
        outcome: &'a Outcome,
        view: impl Fn(&'a crate::replay::TierCounters) -> V,
    ) -> InOrder<&'a str, V> {
        InOrder(outcome.tier_names.iter().map(String::as_str).zip(outcome.tiers.iter().map(view)).collect())
    }
    let names = || outcome.tier_names.iter().map(String::as_str);
    serde_json::to_string_pretty(&Document {
        requests: outcome.requests,
        chunks: outcome.chunks,
        chunk_bytes: outcome.chunk_bytes,
        hits: InOrder(names().zip(outcome.hits.iter().copied()).collect()),
        hit_ratio: outcome.hit_ratio(),
        lost: outcome.lost,
        evictions: outcome.evictions(),
        stored: StoredView {
            new: outcome.stored.new,
            present: outcome.stored.present,
            refused: outcome.stored.refused,
        },
        bytes: by_tier(outcome, |tier| BytesView { read: tier.bytes_read, written: tier.bytes_written }),
        bytes_verified: outcome.bytes_verified(),
        latency_us: by_tier(outcome, |tier| {
            InOrder(
                tier.latency.iter().map(|(op, latency)| (op.as_str(), LatencyView::new(latency))).collect(),
            )
        }),
        call_latency_us: InOrder(
            outcome.calls.by_name().iter().map(|(op, latency)| (*op, LatencyView::new(latency))).collect(),
        ),
        misses: by_tier(outcome, |tier| &tier.misses),
        errors: by_tier(outcome, |tier| &tier.errors),
        last_errors: by_tier(outcome, |tier| &tier.last_errors),
        refused: by_tier(outcome, |tier| &tier.refused),
        dropped: by_tier(outcome, |tier| &tier.dropped),
        skipped: by_tier(outcome, |tier| &tier.skipped),
        events: by_tier(outcome, |tier| &tier.events),
        last_causes: by_tier(outcome, |tier| &tier.last_causes),
        elapsed_s: outcome.elapsed.as_secs_f64(),
        requests_per_s: outcome.requests_per_s(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_object_has_every_promised_field_in_the_chains_order() {
        let text = render(&sample::outcome()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["requests"], 3000);
        assert_eq!(value["chunks"], 36_000);
        assert_eq!(value["hits"]["cpu"], 9_000);
        assert_eq!(value["hit_ratio"], 0.5);
        assert_eq!(value["evictions"], 1_234);
        assert_eq!(value["bytes"]["disk"]["read"], 9_000_u64 * 4096);
        assert_eq!(value["latency_us"]["disk"]["get"]["n"], 2_000);
        let p50 = value["latency_us"]["disk"]["get"]["p50"].as_f64().unwrap();
        assert!((150.0..350.0).contains(&p50), "{p50}");
        assert_eq!(value["misses"]["disk"]["corrupt"], 2);
        assert_eq!(value["errors"]["<log> & co"]["put_unavailable"], 7);
        assert_eq!(value["last_errors"]["<log> & co"]["put_unavailable"], "unavailable: no <route>");
        assert_eq!(value["refused"]["<log> & co"]["no_space"], 31);
        assert_eq!(value["dropped"]["<log> & co"]["breaker_open"], 12);
        assert_eq!(value["skipped"]["<log> & co"]["writing"], 3);
        assert_eq!(value["events"]["<log> & co"]["writing_breaker_opened"], 1);
        assert_eq!(value["last_causes"]["<log> & co"]["writing"], "no <route>");

        let at = |name: &str| text.find(&format!("\"{name}\": ")).expect("the tier's name");
        assert!(at("cpu") < at("<log> & co") && at("<log> & co") < at("disk"));
    }
}
