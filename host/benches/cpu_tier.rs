//! Nanoseconds per operation of the CPU tier: `cargo bench -p kvtier --bench cpu_tier`.
//!
//! Each figure is the median over many samples of one thread; a sample times enough repetitions that
//! the clock does not matter. Payloads are one page: no operation but the reference copies them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvtier::chunk::{Chunk, ChunkWriter};
use kvtier::cpu::{Allocated, CpuTier, Inserted, Policy};
use kvtier::key::ChunkKey;
use kvtier::memory::{BufferMut, PAGE_BYTES, Pool};

const N_CHUNKS: usize = 16_384;
const N_SAMPLES: usize = 201;

fn main() {
    println!("{:<52} {:>12} {:>12}", "operation", "ns per op", "ns per chunk");
    lookup();
    get();
    put();
    allocate();
    for policy in Policy::ALL {
        evict(policy, 0);
        evict(policy, 99);
    }
    copy();
}

/// Prints the median over samples of `n_repeats` calls of `operation`, each on `n_chunks` chunks.
/// `prepare` runs before each sample, untimed.
fn report<S>(
    name: &str,
    n_chunks: usize,
    n_repeats: usize,
    mut prepare: impl FnMut() -> S,
    mut operation: impl FnMut(&mut S, usize),
) {
    let mut samples: Vec<Duration> = (0..N_SAMPLES)
        .map(|_| {
            let mut state = prepare();
            let start = Instant::now();
            for i in 0..n_repeats {
                operation(&mut state, i);
            }
            start.elapsed()
        })
        .collect();
    samples.sort_unstable();
    let ns = samples[N_SAMPLES / 2].as_nanos() as f64 / n_repeats as f64;
    println!("{name:<52} {ns:>12.1} {:>12.1}", ns / n_chunks as f64);
}

/// Keys as the key chain makes them: uniform.
fn key(n: usize) -> ChunkKey {
    let mix = |n: u64| (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    ChunkKey { hi: mix(mix(n as u64 + 1)), lo: mix(n as u64 ^ 0x5555) }
}

fn tier(n_pages: usize, policy: Policy) -> CpuTier {
    let pool = Pool::new(n_pages * PAGE_BYTES).expect("the machine has the memory for the bench");
    CpuTier::new(Arc::new(pool), policy, true)
}

fn buffer(tier: &CpuTier) -> BufferMut {
    match tier.allocate(PAGE_BYTES) {
        Ok(Allocated::Ready(buffer)) => buffer,
        other => panic!("the bench leaves room: {other:?}"),
    }
}

fn chunk(tier: &CpuTier, n: usize) -> Chunk {
    ChunkWriter::new(key(n), buffer(tier)).freeze()
}

fn fill(tier: &CpuTier, n_chunks: usize) {
    for n in 0..n_chunks {
        assert_eq!(tier.insert(&chunk(tier, n)), Inserted::New);
    }
}

/// The keys of request `i`: at another place of the index each time.
fn request(i: usize, n_keys: usize) -> Vec<ChunkKey> {
    (0..n_keys).map(|n| key((i * 7919 + n) % N_CHUNKS)).collect()
}

fn requests(n_requests: usize, n_keys: usize) -> Vec<Vec<ChunkKey>> {
    (0..n_requests).map(|i| request(i, n_keys)).collect()
}

fn lookup() {
    let tier = tier(N_CHUNKS, Policy::Lru);
    fill(&tier, N_CHUNKS);
    for n_keys in [1, 32, 256] {
        let requests = requests(64, n_keys);
        let name = format!("lookup of {n_keys} chunks (leading run)");
        report(
            &name,
            n_keys,
            256,
            || (),
            |(), i| {
                assert_eq!(tier.contains_run(black_box(&requests[i % 64])), n_keys);
            },
        );
    }
    let requests = requests(64, 32);
    report(
        "pin and unpin of 32 chunks",
        32,
        256,
        || (),
        |(), i| {
            let keys = &requests[i % 64];
            assert_eq!(tier.pin_run(black_box(keys)), tier.unpin(keys));
        },
    );
}

fn get() {
    let tier = tier(N_CHUNKS, Policy::Lru);
    fill(&tier, N_CHUNKS);
    for n_keys in [1, 32] {
        let requests = requests(64, n_keys);
        let mut chunks = Vec::with_capacity(n_keys);
        let name = format!("get and release of {n_keys} chunks");
        report(
            &name,
            n_keys,
            256,
            || (),
            |(), i| {
                tier.get(black_box(&requests[i % 64]), &mut chunks);
                assert!(chunks.iter().all(Option::is_some));
                chunks.clear();
            },
        );
    }
}

fn put() {
    let tier = tier(N_CHUNKS, Policy::Lru);
    let chunks: Vec<Chunk> = (0..4096).map(|n| chunk(&tier, n)).collect();
    let keys: Vec<ChunkKey> = chunks.iter().map(Chunk::key).collect();
    let prepare = || tier.remove(&keys);
    report("put of an allocated chunk", 1, 4096, prepare, |_, i| {
        assert_eq!(tier.insert(black_box(&chunks[i])), Inserted::New);
    });
    report(
        "put of a chunk that is there",
        1,
        4096,
        || (),
        |(), i| {
            assert_eq!(tier.insert(black_box(&chunks[i])), Inserted::Present);
        },
    );
    let mut inserted = Vec::new();
    report("put of 32 allocated chunks", 32, 128, prepare, |_, i| {
        tier.insert_all(black_box(&chunks[i * 32..][..32]), &mut inserted);
    });
}

fn allocate() {
    let tier = tier(N_CHUNKS, Policy::Lru);
    report("allocate and free", 1, 4096, || (), |(), _| drop(black_box(buffer(&tier))));
    // Half of the buffers stay, every second one, so that the free memory is in fragments.
    let held: Vec<BufferMut> = (0..N_CHUNKS).map(|_| buffer(&tier)).collect();
    let mut is_kept = false;
    let kept = |_: &BufferMut| {
        is_kept = !is_kept;
        is_kept
    };
    let held: Vec<BufferMut> = held.into_iter().filter(kept).collect();
    let name = "allocate and free, half of the pool in fragments";
    report(name, 1, 4096, || (), |(), _| drop(black_box(buffer(&tier))));
    let name = "allocate, freeze and drop";
    report(name, 1, 4096, || (), |(), i| drop(black_box(chunk(&tier, i))));
    drop(held);
    let name = "batch of 32: allocate and free";
    report(
        name,
        32,
        256,
        || (),
        |(), _| {
            drop(black_box(tier.allocate_batch(&[PAGE_BYTES; 32])));
        },
    );
}

/// The steady state of a full cache: every put evicts one chunk. The pinned ones are the ones that
/// the policy would evict first.
fn evict(policy: Policy, pinned_percent: usize) {
    let tier = tier(N_CHUNKS, policy);
    fill(&tier, N_CHUNKS);
    let n_pinned = N_CHUNKS * pinned_percent / 100;
    let first = if policy == Policy::Mru { N_CHUNKS - n_pinned } else { 0 };
    let pinned: Vec<ChunkKey> = (first..first + n_pinned).map(key).collect();
    assert_eq!(tier.pin(&pinned), n_pinned);
    let mut next = N_CHUNKS;
    let name = format!("allocate that evicts and put, {policy}, {pinned_percent} % pinned");
    report(
        &name,
        1,
        512,
        || (),
        |(), _| {
            assert_eq!(tier.insert(&chunk(&tier, next)), Inserted::New);
            next += 1;
        },
    );
    assert_eq!(tier.stats().entries, N_CHUNKS);
}

fn copy() {
    let tier = tier(N_CHUNKS, Policy::Lru);
    let source = chunk(&tier, 0);
    let mut target = buffer(&tier);
    report(
        "reference: copy of one page (memcpy)",
        1,
        4096,
        || (),
        |(), _| {
            black_box(&mut target).copy_from_slice(black_box(&source));
        },
    );
}
