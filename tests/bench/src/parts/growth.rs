//! How the costs of the CPU tier grow with the keys of a call, the entries, and the share that is pinned.

use std::hint::black_box;

use anyhow::Result;
use kvtier::EvictionPolicy;

use crate::bench::{Bench, candidate};
use crate::report::Quantity;
use crate::sample::each;
use crate::tier::{Evictions, full, requests};

#[expect(clippy::unnecessary_wraps, reason = "all parts are called alike")]
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    keys(bench);
    entries(bench);
    pinned(bench);
    Ok(())
}

fn keys(bench: &mut Bench) {
    let n_chunks = bench.pick(16_384, 4096);
    let tier = full(n_chunks, EvictionPolicy::Lru);
    let mut series = bench.series("a key of a call on the CPU tier", "keys of the call", Quantity::Time);
    for n_keys in bench.pick(vec![1, 4, 16, 64, 256, 1024, 4096], vec![1, 64]) {
        let lists = requests((4096 / n_keys).max(8), n_keys, n_chunks);
        let mut chunks = Vec::new();
        let candidates = vec![
            candidate("lookup", || {
                each(lists.len(), |i| _ = black_box(tier.contains_run(black_box(&lists[i])))) / n_keys as f64
            }),
            candidate("get and release", || {
                let get = |i: usize| {
                    tier.get(black_box(&lists[i]), &mut chunks);
                    chunks.clear();
                };
                each(lists.len(), get) / n_keys as f64
            }),
        ];
        bench.point(&mut series, n_keys as u64, Quantity::Time, candidates);
    }
    bench.add_series(series);
}

fn entries(bench: &mut Bench) {
    let mut series = bench.series("the CPU tier, a chunk", "entries", Quantity::Time);
    for n_chunks in bench.pick(vec![1_000, 10_000, 100_000, 1_000_000], vec![1_000]) {
        // Spread over all entries, so that large tiers show their cache misses.
        let n_requests = (n_chunks / 32).clamp(64, 2048);
        let lists = requests(n_requests, 32, n_chunks);
        let tier = full(n_chunks, EvictionPolicy::Lru);
        let mut evictions = Evictions::new(n_chunks, EvictionPolicy::Lru, 0);
        let mut chunks = Vec::new();
        let candidates = vec![
            candidate("lookup of 32", || {
                each(lists.len(), |i| _ = black_box(tier.contains_run(black_box(&lists[i])))) / 32.0
            }),
            candidate("get and release of 32", || {
                let get = |i: usize| {
                    tier.get(black_box(&lists[i]), &mut chunks);
                    chunks.clear();
                };
                each(lists.len(), get) / 32.0
            }),
            candidate("allocation that evicts", || evictions.sample(256)),
        ];
        bench.point(&mut series, n_chunks as u64, Quantity::Time, candidates);
    }
    bench.add_series(series);
}

fn pinned(bench: &mut Bench) {
    let n_chunks = bench.pick(16_384, 1024);
    let mut series = bench.series("allocation that evicts", "percent pinned", Quantity::Time);
    for percent in bench.pick(vec![0, 25, 50, 75, 90, 99], vec![0, 99]) {
        let mut tiers: Vec<(EvictionPolicy, Evictions)> = EvictionPolicy::ALL
            .iter()
            .map(|&policy| (policy, Evictions::new(n_chunks, policy, percent)))
            .collect();
        let candidates = tiers
            .iter_mut()
            .map(|(policy, evictions)| candidate(policy.name(), move || evictions.sample(n_chunks / 128)))
            .collect();
        bench.point(&mut series, percent as u64, Quantity::Time, candidates);
    }
    bench.add_series(series);
}
