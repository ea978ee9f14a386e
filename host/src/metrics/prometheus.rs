//! The counts of all tiers as Prometheus text.
//!
//! # Source
//! Prometheus, "Exposition formats", text-based format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{BreakerCounts, Latency, OperationLatency, TierCounts};

/// Bounds of the exported buckets, as powers of two of nanoseconds: 1 µs to 34 s.
const BOUNDS_LOG2: std::ops::RangeInclusive<u32> = 10..=35;

/// Returns counts as Prometheus text.
pub(crate) fn prometheus(tiers: Vec<TierCounts>) -> String {
    let mut registry = Registry::with_prefix("kvtier");
    registry.register_collector(Box::new(Tiers(tiers)));
    let mut text = String::new();
    // Writing into a string cannot fail.
    prometheus_text::encode(&mut text, &registry).unwrap_or_default();
    text
}

#[derive(Debug)]
struct Tiers(Vec<TierCounts>);

type Label<'a> = (&'static str, &'a str);

impl Collector for Tiers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { tiers: &self.0, encoder };
        families.counter("hits", "Chunks served", |tier| tier.hits)?;
        families.counter("read_bytes", "Payload bytes served", |tier| tier.bytes_read)?;
        families.counter("shared", "Chunks that another retrieval fetched", |tier| tier.shared)?;
        families.counter("written_bytes", "Payload bytes stored", |tier| tier.bytes_written)?;
        families.counter("puts", "Chunks stored", |tier| tier.puts)?;
        families.counter("evictions", "Chunks evicted to make room", |tier| tier.evictions)?;
        families.counter("lane_restarts", "Lanes retired and replaced", |tier| tier.lane_restarts)?;
        families.gauge("guest_memory_bytes", "Linear memory of the tier's instances", |tier| {
            tier.guest_memory_bytes
        })?;
        families.gauge(
            "host_memory_bytes",
            "Host memory held for the tier's instances outside of it, as far as it is counted",
            |tier| tier.host_memory_bytes,
        )?;
        families.gauge("up", "Whether the tier can serve: 1 or 0", |tier| u64::from(tier.is_up))?;
        families.of_breakers(
            "breaker_open",
            "Whether the tier is skipped in this direction because it fails: 1 or 0",
            MetricType::Gauge,
            |counts| u64::from(counts.is_open),
        )?;
        families.of_breakers(
            "breaker_opened",
            "Times that the breaker opened",
            MetricType::Counter,
            |counts| counts.opened,
        )?;
        families.of_breakers(
            "skipped",
            "Operations that skipped the tier",
            MetricType::Counter,
            |counts| counts.skipped,
        )?;
        families.by_reason("misses", "Chunks requested and not served", |tier| &tier.misses)?;
        families.by_reason("dropped_puts", "Puts given up before the tier had them", |tier| &tier.drops)?;
        families.pins_expired()?;
        families.errors()?;
        families.latencies()
    }
}

/// Writes families of metrics, each with the rows of all tiers.
struct Families<'t, 'e> {
    tiers: &'t [TierCounts],
    encoder: DescriptorEncoder<'e>,
}

impl Families<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, value: fn(&TierCounts) -> u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, value)
    }

    fn gauge(&mut self, name: &str, help: &str, value: fn(&TierCounts) -> u64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, value)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        value: fn(&TierCounts) -> u64,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        self.tiers
            .iter()
            .try_for_each(|tier| row(&mut family, &[("tier", tier.name.as_str())], kind, value(tier)))
    }

    fn of_breakers(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        value: fn(&BreakerCounts) -> u64,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for tier in self.tiers {
            for (direction, counts) in [("reading", &tier.reading), ("writing", &tier.writing)] {
                let labels = [("tier", tier.name.as_str()), ("direction", direction)];
                row(&mut family, &labels, kind, value(counts))?;
            }
        }
        Ok(())
    }

    fn by_reason(
        &mut self,
        name: &str,
        help: &str,
        counts: fn(&TierCounts) -> &BTreeMap<&'static str, u64>,
    ) -> fmt::Result {
        if self.tiers.iter().all(|tier| counts(tier).is_empty()) {
            return Ok(());
        }
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for tier in self.tiers {
            for (reason, n) in counts(tier) {
                let labels = [("tier", tier.name.as_str()), ("reason", reason)];
                row(&mut family, &labels, MetricType::Counter, *n)?;
            }
        }
        Ok(())
    }

    fn pins_expired(&mut self) -> fmt::Result {
        let help = "Lookups whose pins expired";
        let mut family = self.encoder.encode_descriptor("pins_expired", help, None, MetricType::Counter)?;
        let n: u64 = self.tiers.iter().map(|tier| tier.pins_expired).sum();
        family.encode_counter::<NoLabelSet, u64, f64>(&n, None)
    }

    fn errors(&mut self) -> fmt::Result {
        if self.tiers.iter().all(|tier| tier.errors.is_empty()) {
            return Ok(());
        }
        let help = "Failed calls and chunks";
        let mut family = self.encoder.encode_descriptor("errors", help, None, MetricType::Counter)?;
        for tier in self.tiers {
            for error in &tier.errors {
                let operation = error.operation.name();
                let labels = [("tier", tier.name.as_str()), ("operation", operation), ("kind", error.kind)];
                row(&mut family, &labels, MetricType::Counter, error.n)?;
            }
        }
        Ok(())
    }

    fn latencies(&mut self) -> fmt::Result {
        let help = "Latency of calls";
        let mut family =
            self.encoder.encode_descriptor("latency_seconds", help, None, MetricType::Histogram)?;
        for tier in self.tiers {
            for OperationLatency { operation, latency } in &tier.latency {
                let labels = [("tier", tier.name.as_str()), ("operation", operation.name())];
                let mut histogram = family.encode_family(&labels)?;
                let total = latency.total.as_secs_f64();
                histogram.encode_histogram::<NoLabelSet>(total, latency.n, &exported(latency), None)?;
            }
        }
        Ok(())
    }
}

fn row<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[Label<'_>; N],
    kind: MetricType,
    value: u64,
) -> fmt::Result {
    let mut metric = family.encode_family(labels)?;
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, u64, f64>(&value, None),
        _ => metric.encode_gauge(&value),
    }
}

/// Returns the calls between each exported bound, in seconds, and the one before. The last bound is infinite.
fn exported(latency: &Latency) -> Vec<(f64, u64)> {
    let mut buckets = latency.buckets.iter().peekable();
    let mut exported: Vec<(f64, u64)> = BOUNDS_LOG2
        .map(|power| {
            let bound_ns = 1_u64 << power;
            let mut n = 0;
            while let Some(bucket) = buckets.next_if(|bucket| bucket.upper_ns < bound_ns) {
                n += bucket.n;
            }
            (bound_ns as f64 / 1e9, n)
        })
        .collect();
    exported.push((f64::INFINITY, buckets.map(|bucket| bucket.n).sum()));
    exported
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Operation, TierMetrics, TierReport};
    use crate::tier::TierError;

    #[test]
    fn no_name_of_a_tier_breaks_out_of_its_label() {
        let metrics = TierMetrics::default();
        metrics.miss("not_found", 1);
        metrics.error(Operation::Get, &TierError::Other("text".into()));
        metrics.took(Operation::Get, Duration::from_millis(1));
        let text = prometheus(vec![metrics.snapshot("a\"} 1\nkvtier_up{tier=\"b\\", &TierReport::of_cpu(0))]);
        let escaped = r#"tier="a\"} 1\nkvtier_up{tier=\"b\\""#;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split('{').next().unwrap_or(line);
            let is_whole = line.starts_with("kvtier_pins_expired_total ")
                || line.starts_with(&format!("{name}{{{escaped}"));
            assert!(is_whole, "{line}");
        }
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_every_call() {
        let metrics = TierMetrics::default();
        for us in [1, 3, 1_000, 1_000_000, 100_000_000] {
            metrics.took(Operation::Get, Duration::from_micros(us));
        }
        let text = prometheus(vec![metrics.snapshot("a", &TierReport::of_cpu(0))]);
        let n_within = |bound: &str| {
            let row = format!(r#"kvtier_latency_seconds_bucket{{tier="a",operation="get",le="{bound}"}} "#);
            let found = text.lines().find_map(|line| line.strip_prefix(&row));
            found.unwrap_or_else(|| panic!("{row} in {text}")).to_owned()
        };
        let bounds = ["1.024e-06", "4.096e-06", "0.001048576", "1.073741824", "34.359738368", "+Inf"];
        assert_eq!(bounds.map(n_within), ["1", "2", "3", "4", "4", "5"]);
        assert!(text.contains("# TYPE kvtier_latency_seconds histogram\n"), "{text}");
        assert!(text.contains("kvtier_latency_seconds_count{tier=\"a\",operation=\"get\"} 5\n"), "{text}");
    }
}
