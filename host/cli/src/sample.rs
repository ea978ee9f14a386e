//! An outcome for tests of the reports.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::histogram::Histogram;
use crate::random::Random;
use crate::replay::{Calls, Outcome, StoredCounts, TierCounters};
use crate::series::Series;

/// Returns latencies around `typical_ns`, with a long tail.
fn latency(random: &mut Random, typical_ns: u64, n: u64) -> Histogram {
    let mut histogram = Histogram::default();
    for _ in 0..n {
        let tail = if random.below(40) == 0 { 1 + random.below(30) } else { 1 };
        let spread: u64 = (0..6).map(|_| random.below(typical_ns / 3)).sum();
        histogram.record(Duration::from_nanos((typical_ns / 4 + spread) * tail));
    }
    histogram
}

/// Returns the outcome of three tiers, the second one with an unfriendly name; half of 36,000 chunks are hits.
pub(crate) fn outcome() -> Outcome {
    let mut random = Random::new(1);
    let mut series = Series::new(3);
    for request in 0..3_000 {
        let warm = u64::from(request >= 300);
        let (cpu, disk) = (random.below(3) + 2 * warm, random.below(2) + 3 * warm * (request / 1_000) / 2);
        series.push(12, &[cpu, 0, disk]);
    }
    let counts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    };
    let mut tier = |scale_ns: u64, ops: &[&str]| TierCounters {
        bytes_read: 9_000 * 4096,
        bytes_written: 27_000 * 4096,
        latency: ops.iter().map(|op| ((*op).to_owned(), latency(&mut random, scale_ns, 2_000))).collect(),
        ..TierCounters::default()
    };
    let cpu = TierCounters {
        evictions: 1_234,
        misses: counts(&[("not_found", 27_000)]),
        ..tier(900, &["contains", "get", "put"])
    };
    let log = TierCounters {
        bytes_read: 0,
        misses: counts(&[("not_found", 26_993)]),
        errors: counts(&[("put_unavailable", 7)]),
        last_errors: [("put_unavailable".to_owned(), "unavailable: no <route>".to_owned())].into(),
        refused: counts(&[("no_space", 31)]),
        dropped: counts(&[("breaker_open", 12)]),
        skipped: counts(&[("writing", 3)]),
        events: counts(&[("writing_breaker_opened", 1)]),
        last_causes: [("writing".to_owned(), "no <route>".to_owned())].into(),
        ..tier(18_000, &["contains", "put"])
    };
    let disk = TierCounters {
        misses: counts(&[("not_found", 18_000), ("corrupt", 2)]),
        ..tier(250_000, &["contains", "get", "put"])
    };
    Outcome {
        tier_names: vec!["cpu".into(), "<log> & co".into(), "disk".into()],
        chunk_bytes: 4096,
        requests: 3_000,
        chunks: 36_000,
        hits: vec![9_000, 0, 9_000],
        lost: 2,
        stored: StoredCounts { new: 27_000, present: 9_000, refused: 0 },
        elapsed: Duration::from_millis(4_321),
        series,
        calls: Calls {
            lookup: latency(&mut random, 30_000, 3_000),
            retrieve: latency(&mut random, 90_000, 2_500),
            store: latency(&mut random, 2_500, 36_000),
        },
        tiers: vec![cpu, log, disk],
    }
}
