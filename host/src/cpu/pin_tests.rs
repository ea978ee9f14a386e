//! Pins: what they protect, how they are counted, and forced removal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::EvictionPolicy;
use super::testing::{Bench, key, keys};
use crate::memory::PAGE_BYTES;

#[test]
fn t32_pinned_survives_pressure_and_goes_after_the_unpin() {
    for &policy in EvictionPolicy::ALL {
        let bench = Bench::new(3, policy);
        bench.put(&[0, 1, 2]);
        assert_eq!(bench.tier.pin(&keys([1])), 1);
        assert_eq!(bench.eviction_order().len(), 2, "{policy}");
        assert!(bench.has(1) && bench.tier.stats().pinned_entries == 1);
        bench.tier.unpin(&keys([1]));
        assert_eq!(bench.eviction_order(), [1], "{policy}");
    }
}

#[test]
fn t34_forced_removal_drains_pins_and_the_last_reader_frees() {
    let bench = Bench::new(2, EvictionPolicy::Lru);
    bench.put(&[0]);
    bench.tier.pin(&keys([0, 0]));
    assert_eq!(bench.tier.n_pins(key(0)), Some(2));
    let reader = bench.get(0).unwrap();
    assert_eq!(bench.tier.remove(&keys([0, 1])), 1);
    assert_eq!(bench.tier.remove(&keys([0])), 0);
    assert_eq!((bench.tier.n_pins(key(0)), bench.tier.stats().pinned_entries), (None, 0));
    assert_eq!(bench.pool.allocated_bytes(), PAGE_BYTES);
    let again = reader.clone();
    drop(reader);
    assert_eq!((bench.pool.allocated_bytes(), again[0]), (PAGE_BYTES, 0));
    drop(again);
    assert_eq!(bench.pool.allocated_bytes(), 0);
    assert_eq!(bench.tier.unpin(&keys([0])), 0);
    bench.check();
}

/// Counts the current thread's warnings.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn t35_a_second_unpin_stays_at_zero_and_warns() {
    let bench = Bench::new(1, EvictionPolicy::Lru);
    bench.put(&[0]);
    bench.tier.pin(&keys([0]));
    let n_warnings = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Warnings(Arc::clone(&n_warnings)), || {
        bench.tier.unpin(&keys([0]));
        assert_eq!(n_warnings.load(Ordering::SeqCst), 0);
        bench.tier.unpin(&keys([0]));
    });
    assert_eq!(n_warnings.load(Ordering::SeqCst), 1);
    assert_eq!(bench.tier.n_pins(key(0)), Some(0));
    bench.tier.pin(&keys([0]));
    assert_eq!(bench.tier.n_pins(key(0)), Some(1));
    bench.check();
}
