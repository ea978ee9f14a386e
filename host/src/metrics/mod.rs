//! Counters and latencies, per tier, and their Prometheus text.
//!
//! Counting costs an atomic addition; reasons and kinds, which are rare, a lock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::manager::Direction;
use crate::sync::lock;

/// The operations whose latency is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// Asking which chunks are present.
    Contains,
    /// Fetching chunks.
    Get,
    /// Storing chunks; for a backend, from the start of its call.
    Put,
    /// Reserving buffers.
    Allocate,
    /// Removing chunks.
    Remove,
}

impl Operation {
    const ALL: [Self; 5] = [Self::Contains, Self::Get, Self::Put, Self::Allocate, Self::Remove];

    /// Returns the operation's name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Contains => "contains",
            Self::Get => "get",
            Self::Put => "put",
            Self::Allocate => "allocate",
            Self::Remove => "remove",
        }
    }
}

/// What one tier counts.
#[derive(Default)]
pub(crate) struct TierMetrics {
    pub(crate) hits: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) pins_expired: AtomicU64,
    shared: AtomicU64,
    misses: Mutex<BTreeMap<&'static str, u64>>,
    errors: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    drops: Mutex<BTreeMap<&'static str, u64>>,
    latency: [Histogram; Operation::ALL.len()],
}

fn bump<K: Ord>(counts: &Mutex<BTreeMap<K, u64>>, key: K, by: u64) {
    if by > 0 {
        *lock(counts).entry(key).or_default() += by;
    }
}

impl TierMetrics {
    pub(crate) fn hit(&self, n_chunks: u64, bytes: u64) {
        self.hits.fetch_add(n_chunks, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn share(&self, n_chunks: u64) {
        self.shared.fetch_add(n_chunks, Ordering::Relaxed);
    }

    pub(crate) fn stored(&self, n_chunks: u64, bytes: u64) {
        self.puts.fetch_add(n_chunks, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn miss(&self, reason: &'static str, n_chunks: u64) {
        bump(&self.misses, reason, n_chunks);
    }

    pub(crate) fn error(&self, operation: Operation, kind: &'static str) {
        bump(&self.errors, (operation.name(), kind), 1);
    }

    pub(crate) fn drop_puts(&self, reason: &'static str, n_chunks: u64) {
        bump(&self.drops, reason, n_chunks);
    }

    pub(crate) fn took(&self, operation: Operation, time: Duration) {
        self.latency[operation as usize].record(time);
    }

    pub(crate) fn snapshot(&self, name: &str) -> TierCounts {
        let copy = |counts: &Mutex<BTreeMap<&'static str, u64>>| lock(counts).clone();
        let latency =
            Operation::ALL.map(|operation| (operation, self.latency[operation as usize].snapshot()));
        TierCounts {
            name: name.to_owned(),
            hits: self.hits.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            puts: self.puts.load(Ordering::Relaxed),
            pins_expired: self.pins_expired.load(Ordering::Relaxed),
            shared: self.shared.load(Ordering::Relaxed),
            misses: copy(&self.misses),
            errors: lock(&self.errors).clone(),
            drops: copy(&self.drops),
            evictions: 0,
            lane_restarts: 0,
            guest_memory_bytes: 0,
            host_memory_bytes: 0,
            is_up: true,
            reading: BreakerCounts::default(),
            writing: BreakerCounts::default(),
            latency: latency.into_iter().filter(|(_, latency)| latency.n > 0).collect(),
        }
    }
}

/// What one tier has counted so far.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TierCounts {
    /// The tier's name.
    pub name: String,
    /// Chunks served.
    pub hits: u64,
    /// Payload bytes served.
    pub bytes_read: u64,
    /// Payload bytes stored; in the CPU tier also those of promoted chunks.
    pub bytes_written: u64,
    /// Chunks stored; in the CPU tier also promoted ones.
    pub puts: u64,
    /// Chunks that a retrieval asked for and did not get here, by reason.
    pub misses: BTreeMap<&'static str, u64>,
    /// Failed calls and failed chunks, by operation and kind.
    pub errors: BTreeMap<(&'static str, &'static str), u64>,
    /// Puts that were given up before the tier had them, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Chunks evicted to make room; for backends 0, they do not say.
    pub evictions: u64,
    /// Lanes retired and replaced.
    pub lane_restarts: u64,
    /// Linear memory of the tier's instances at the moment, in bytes; not a count.
    pub guest_memory_bytes: u64,
    /// Host memory held for them outside of it at the moment, as far as it is counted, in bytes; not a count.
    pub host_memory_bytes: u64,
    /// Lookups whose pins expired; counted at the CPU tier for the whole chain.
    pub pins_expired: u64,
    /// Chunks that a retrieval got from a fetch which another had begun; not among those served.
    pub shared: u64,
    /// Whether the tier can serve at the moment; not a count.
    pub is_up: bool,
    /// What the breaker of `contains`, `get`, `pin` and `unpin` counts.
    pub reading: BreakerCounts,
    /// What the breaker of `put` and `remove` counts.
    pub writing: BreakerCounts,
    /// Latency of calls, by operation.
    pub latency: Vec<(Operation, Latency)>,
}

/// What the breaker of one direction of a tier counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerCounts {
    /// Whether the tier is passed over in this direction because it fails; not a count.
    pub is_open: bool,
    /// How often it opened, after a failed probe included.
    pub opened: u64,
    /// Operations that passed the tier over because it was open.
    pub skipped: u64,
}

/// A distribution of latencies.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// Number of calls.
    pub n: u64,
    /// Sum.
    pub total: Duration,
    /// Calls by upper bound in nanoseconds, in ascending order, empty ones left out.
    pub buckets: Vec<(u64, u64)>,
}

impl Latency {
    /// Returns the smallest bound that the given share of calls, in `0.0..=1.0`, stayed below; exact to 7 %.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.n as f64 * share).ceil().max(1.0) as u64;
        let mut n_below = 0;
        for (bound_ns, n) in &self.buckets {
            n_below += n;
            if n_below >= rank {
                return Duration::from_nanos(*bound_ns);
            }
        }
        Duration::ZERO
    }
}

/// Sixteen buckets for each power of two of nanoseconds, up to 18 minutes.
struct Histogram {
    buckets: Box<[AtomicU64]>,
    total_ns: AtomicU64,
}

const SUB_BITS: u32 = 4;
const POWERS: usize = 41;

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..POWERS << SUB_BITS).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, total_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns).min(self.buckets.len() - 1)].fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Latency {
        let counted = self.buckets.iter().enumerate().map(|(b, n)| (upper(b), n.load(Ordering::Relaxed)));
        let buckets: Vec<_> = counted.filter(|(_, n)| *n > 0).collect();
        let n = buckets.iter().map(|(_, n)| n).sum();
        Latency { n, total: Duration::from_nanos(self.total_ns.load(Ordering::Relaxed)), buckets }
    }
}

fn bucket(ns: u64) -> usize {
    let shift = (ns | 1).ilog2().saturating_sub(SUB_BITS);
    ((shift as usize) << SUB_BITS) + (ns >> shift) as usize
}

fn upper(bucket: usize) -> u64 {
    let sub = 1_usize << SUB_BITS;
    let (power, rest) = if bucket < 2 * sub { (0, bucket) } else { (bucket / sub - 1, bucket % sub + sub) };
    ((rest as u64 + 1) << power) - 1
}

/// Renders one label. Its value may be any text: an embedder names native tiers as it likes.
///
/// # Source
/// Prometheus, "Exposition formats", text-based format: a value escapes the backslash, the double quote and the line
/// feed.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    format!("{name}=\"{value}\"")
}

/// Renders counts as Prometheus text.
pub(crate) fn prometheus(tiers: &[TierCounts]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, rows: Vec<(String, f64)>| {
        if rows.is_empty() {
            return;
        }
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _infallible = writeln!(text, "# HELP kvtier_{name} {help}\n# TYPE kvtier_{name} {kind}");
        for (labels, value) in rows {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _infallible = writeln!(text, "kvtier_{name}{labels} {value}");
        }
    };
    let each = |value: fn(&TierCounts) -> u64| -> Vec<(String, f64)> {
        tiers.iter().map(|tier| (label("tier", &tier.name), value(tier) as f64)).collect()
    };
    family("hits_total", "Chunks served.", each(|tier| tier.hits));
    family("read_bytes_total", "Payload bytes served.", each(|tier| tier.bytes_read));
    family("shared_total", "Chunks got from the fetch of another retrieval.", each(|tier| tier.shared));
    family("written_bytes_total", "Payload bytes stored.", each(|tier| tier.bytes_written));
    family("puts_total", "Chunks stored.", each(|tier| tier.puts));
    family("evictions_total", "Chunks evicted to make room.", each(|tier| tier.evictions));
    family("lane_restarts_total", "Lanes retired and replaced.", each(|tier| tier.lane_restarts));
    family(
        "guest_memory_bytes",
        "Linear memory of the tier's instances.",
        each(|tier| tier.guest_memory_bytes),
    );
    family(
        "host_memory_bytes",
        "Host memory held for the tier's instances outside of it, as far as it is counted.",
        each(|tier| tier.host_memory_bytes),
    );
    family("up", "Whether the tier can serve: 1 or 0.", each(|tier| u64::from(tier.is_up)));
    let of_breakers = |value: fn(&BreakerCounts) -> u64| -> Vec<(String, f64)> {
        let rows = tiers.iter().flat_map(|tier| {
            [(Direction::Reading, &tier.reading), (Direction::Writing, &tier.writing)].map(
                |(direction, counts)| {
                    (
                        format!("{},{}", label("tier", &tier.name), label("direction", direction.name())),
                        value(counts) as f64,
                    )
                },
            )
        });
        rows.collect()
    };
    family(
        "breaker_open",
        "Whether the tier is passed over in this direction because it fails: 1 or 0.",
        of_breakers(|counts| u64::from(counts.is_open)),
    );
    family("breaker_opened_total", "Times that the breaker opened.", of_breakers(|counts| counts.opened));
    family("skipped_total", "Operations that passed the tier over.", of_breakers(|counts| counts.skipped));
    let by_reason = |counts: fn(&TierCounts) -> &BTreeMap<&'static str, u64>| -> Vec<(String, f64)> {
        let rows = tiers.iter().flat_map(|tier| {
            let labels = |reason| format!("{},{}", label("tier", &tier.name), label("reason", reason));
            counts(tier).iter().map(move |(reason, n)| (labels(reason), *n as f64))
        });
        rows.collect()
    };
    family("misses_total", "Chunks asked for and not served.", by_reason(|tier| &tier.misses));
    family("dropped_puts_total", "Puts given up before the tier had them.", by_reason(|tier| &tier.drops));
    let expired = tiers.iter().map(|tier| tier.pins_expired).sum::<u64>();
    family("pins_expired_total", "Lookups whose pins expired.", vec![(String::new(), expired as f64)]);
    let errors = tiers.iter().flat_map(|tier| {
        tier.errors.iter().map(|((operation, kind), n)| {
            let labels = [label("tier", &tier.name), label("operation", operation), label("kind", kind)];
            (labels.join(","), *n as f64)
        })
    });
    family("errors_total", "Failed calls and chunks.", errors.collect());
    let _infallible = writeln!(
        text,
        "# HELP kvtier_latency_seconds Latency of calls.\n# TYPE kvtier_latency_seconds summary"
    );
    for tier in tiers {
        for (operation, latency) in &tier.latency {
            let labels = format!("{},{}", label("tier", &tier.name), label("operation", operation.name()));
            for share in [0.5, 0.99] {
                let seconds = latency.quantile(share).as_secs_f64();
                let _infallible =
                    writeln!(text, "kvtier_latency_seconds{{{labels},quantile=\"{share}\"}} {seconds}");
            }
            let total = latency.total.as_secs_f64();
            let _infallible = writeln!(text, "kvtier_latency_seconds_sum{{{labels}}} {total}");
            let _infallible = writeln!(text, "kvtier_latency_seconds_count{{{labels}}} {}", latency.n);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_holds_what_its_bound_says() {
        let mut previous = 0;
        for ns in (0..5_000).chain((0..40).map(|power| (1_u64 << power) + 12_345)) {
            let bound = upper(bucket(ns));
            assert!(bound >= ns && (bound - ns) as f64 <= 0.07 * ns as f64 + 1.0, "{ns} in {bound}");
            if ns < 5_000 {
                assert!(bucket(ns) >= previous);
                previous = bucket(ns);
            }
        }
    }

    #[test]
    fn no_name_of_a_tier_breaks_out_of_its_label() {
        let metrics = TierMetrics::default();
        metrics.miss("not_found", 1);
        metrics.error(Operation::Get, "other");
        metrics.took(Operation::Get, Duration::from_millis(1));
        let text = prometheus(&[metrics.snapshot("a\"} 1\nkvtier_up{tier=\"b\\")]);
        let escaped = r#"tier="a\"} 1\nkvtier_up{tier=\"b\\""#;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split('{').next().unwrap_or(line);
            let is_whole = line.starts_with("kvtier_pins_expired_total ")
                || line.starts_with(&format!("{name}{{{escaped}"));
            assert!(is_whole, "{line}");
        }
    }

    #[test]
    fn quantiles_are_exact_to_a_bucket() {
        let histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        let latency = histogram.snapshot();
        assert_eq!(latency.n, 1000);
        for (share, us) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = latency.quantile(share).as_secs_f64() * 1e6;
            assert!((found / us - 1.0).abs() < 0.07, "{found} for {us}");
        }
    }
}
