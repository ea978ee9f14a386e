//! The CPU tier's operations, on one thread. Payloads are one page, and are not copied.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::Result;
use kvtier::__internal::cpu::{CpuTier, Inserted};
use kvtier::memory::{BufferMut, PAGE_BYTES};
use kvtier::{Chunk, ChunkKey, EvictionPolicy};

use crate::bench::{About, Bench, candidate};
use crate::report::Target;
use crate::sample::each;
use crate::tier::{Evictions, Plain, buffer, chunk, full, page, requests, tier};

/// Lists of keys that a measurement goes through.
const N_REQUESTS: usize = 64;

#[expect(clippy::unnecessary_wraps, reason = "all parts are called alike")]
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let n_chunks = bench.pick(16_384, 512);
    reads(bench, n_chunks);
    pins(bench, n_chunks);
    puts(bench, n_chunks);
    allocations(bench, n_chunks);
    evictions(bench, n_chunks);
    Ok(())
}

fn reads(bench: &mut Bench, n_chunks: usize) {
    let (tier, plain) = (full(n_chunks, EvictionPolicy::Lru), Plain::new(n_chunks));
    let many = requests(N_REQUESTS, 256, n_chunks);
    bench.row(
        About::time("lookup of 256 keys, all there").target(Target::AtMost(5e-6)),
        vec![
            candidate("kvtier", || {
                each(N_REQUESTS, |i| assert_eq!(tier.contains_run(black_box(&many[i])), 256))
            }),
            candidate(Plain::NAME, || {
                each(N_REQUESTS, |i| assert_eq!(plain.lookup(black_box(&many[i])), 256))
            }),
        ],
    );
    for (n_keys, what, limit) in
        [(1, "get and release of one", 80e-9), (32, "get and release of 32 in one call", 1.5e-6)]
    {
        let lists = requests(N_REQUESTS * 4, n_keys, n_chunks);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        bench.row(
            About::time(what).target(Target::AtMost(limit)),
            vec![
                candidate("kvtier", || {
                    each(lists.len(), |i| {
                        tier.get(black_box(&lists[i]), &mut ours);
                        assert!(ours.iter().all(Option::is_some));
                        ours.clear();
                    })
                }),
                candidate(Plain::NAME, || {
                    each(lists.len(), |i| {
                        plain.get(black_box(&lists[i]), &mut theirs);
                        assert!(theirs.iter().all(Option::is_some));
                        theirs.clear();
                    })
                }),
            ],
        );
    }
}

fn pins(bench: &mut Bench, n_chunks: usize) {
    let tier = full(n_chunks, EvictionPolicy::Lru);
    let lists = requests(N_REQUESTS, 32, n_chunks);
    let mut chunks = Vec::new();
    bench.row(
        About::time("pin and unpin of 32"),
        vec![
            candidate("kvtier", || {
                each(N_REQUESTS, |i| assert_eq!(tier.pin_run(black_box(&lists[i])), tier.unpin(&lists[i])))
            }),
            candidate("get and release of them", || {
                each(N_REQUESTS, |i| {
                    tier.get(black_box(&lists[i]), &mut chunks);
                    chunks.clear();
                })
            }),
        ],
    );
}

fn puts(bench: &mut Bench, n_chunks: usize) {
    let (tier, plain) = (tier(n_chunks, EvictionPolicy::Lru), Plain::new(0));
    let chunks: Vec<Chunk> = (0..n_chunks / 4).map(|n| chunk(&tier, n)).collect();
    let keys: Vec<ChunkKey> = chunks.iter().map(Chunk::key).collect();
    let page = Arc::new(page());
    let singly =
        |expected: Inserted| each(chunks.len(), |i| assert_eq!(tier.insert(black_box(&chunks[i])), expected));
    let plainly = || each(chunks.len(), |i| plain.put(black_box(keys[i]), &page));
    bench.row(
        About::time("put of an allocated chunk").target(Target::AtMost(150e-9)),
        vec![
            candidate("kvtier", || {
                tier.remove(&keys);
                singly(Inserted::New)
            }),
            candidate(Plain::NAME, || {
                plain.remove(&keys);
                plainly()
            }),
        ],
    );
    bench.row(
        About::time("put of a chunk that is there"),
        vec![candidate("kvtier", || singly(Inserted::Present)), candidate(Plain::NAME, plainly)],
    );
    let mut inserted = Vec::new();
    bench.row(
        About::time("put of 32 in one call"),
        vec![
            candidate("kvtier", || {
                tier.remove(&keys);
                each(chunks.len() / 32, |i| {
                    tier.insert_all(black_box(&chunks[i * 32..][..32]), &mut inserted);
                })
            }),
            candidate("one after the other", || {
                tier.remove(&keys);
                singly(Inserted::New) * 32.0
            }),
        ],
    );
}

fn allocations(bench: &mut Bench, n_chunks: usize) {
    let tier = tier(n_chunks, EvictionPolicy::Lru);
    let malloc = || candidate("malloc", || each(1024, |_| drop(black_box(page()))));
    let one = |tier: &CpuTier| each(1024, |_| drop(black_box(buffer(tier))));
    bench.row(
        About::time("allocate and free").target(Target::AtMost(100e-9)),
        vec![candidate("kvtier", || one(&tier)), malloc()],
    );
    bench.row(
        About::time("allocate, freeze and drop"),
        vec![
            candidate("kvtier", || each(1024, |i| drop(black_box(chunk(&tier, i))))),
            candidate("malloc and Arc", || each(1024, |_| drop(black_box(Arc::new(page()))))),
        ],
    );
    bench.row(
        About::time("allocate and free 32 in one call"),
        vec![
            candidate("kvtier", || {
                each(64, |_| drop(black_box(tier.allocate_batch(black_box(&[PAGE_BYTES; 32])))))
            }),
            candidate("one after the other", || one(&tier) * 32.0),
        ],
    );
    // Every second page stays allocated.
    let taken: Vec<BufferMut> = (0..n_chunks).map(|_| buffer(&tier)).collect();
    let (kept, given): (Vec<_>, Vec<_>) = taken.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    drop(given);
    bench.row(
        About::time("allocate and free, every second page taken"),
        vec![candidate("kvtier", || one(&tier)), malloc()],
    );
    drop(kept);
}

fn evictions(bench: &mut Bench, n_chunks: usize) {
    // As many as are unpinned in the tier with pins.
    let n = (n_chunks / 128).min(128);
    let mut free = Evictions::new(n_chunks, EvictionPolicy::Lru, 0);
    let plain = Plain::new(n_chunks);
    bench.row(
        About::time("allocation that evicts, 0 % pinned").target(Target::AtMost(400e-9)),
        vec![
            candidate("kvtier", || free.sample(n)),
            candidate(Plain::NAME, || {
                let mut evicted = Vec::with_capacity(n);
                let seconds = each(n, |_| evicted.push(plain.evict()));
                plain.refill(evicted);
                seconds
            }),
        ],
    );
    let mut pinned = Evictions::new(n_chunks, EvictionPolicy::Lru, 99);
    bench.row(
        About::time("allocation that evicts, 99 % pinned").target(Target::AtMost(400e-9)),
        vec![candidate("kvtier", || pinned.sample(n)), candidate("0 % pinned", || free.sample(n))],
    );
}
