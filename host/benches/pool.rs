//! The buffer pool: `cargo xtask bench --bench pool`.
//!
//! Times are medians over samples of one thread. How full the pool gets is exact and the same everywhere.

#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use kvtier::memory::{BufferMut, PAGE_BYTES, Pool, Provider};

#[path = "../src/memory/mix.rs"]
mod mix;

use mix::{FirstFit, Lifetimes, Space};

const N_SAMPLES: usize = 201;
const N_REPEATS: usize = 4096;
const CHUNK_BYTES: usize = mix::UNIFORM_PAGES * PAGE_BYTES;

fn main() {
    println!("{:<52} {:>12}", "operation", "ns per op");
    allocate();
    steady_state();
    start();
    println!("\n{:<32} {:>28} {:>28}", "% in use when 2 MiB is refused", "mean (least)", "first fit");
    for lifetimes in [Lifetimes::Equal, Lifetimes::Random] {
        fullness(lifetimes);
    }
}

fn pool(n_bytes: usize) -> Arc<dyn Provider> {
    Arc::new(Pool::new(n_bytes).expect("address space is there"))
}

fn buffer(pool: &Arc<dyn Provider>, n_bytes: usize) -> BufferMut {
    BufferMut::allocate(pool, n_bytes).ok().flatten().expect("the bench leaves room")
}

/// Prints the median over samples of `n_repeats` calls.
fn report(name: &str, n_repeats: usize, mut operation: impl FnMut(usize)) {
    let mut samples: Vec<f64> = (0..N_SAMPLES)
        .map(|_| {
            let start = Instant::now();
            (0..n_repeats).for_each(&mut operation);
            start.elapsed().as_nanos() as f64 / n_repeats as f64
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    println!("{name:<52} {:>12.1}", samples[N_SAMPLES / 2]);
}

fn allocate() {
    let n_pages = 16_384;
    let pool = pool(n_pages * PAGE_BYTES);
    report("allocate and free 4 KiB", N_REPEATS, |_| drop(black_box(buffer(&pool, PAGE_BYTES))));
    // Every second buffer stays.
    let all: Vec<BufferMut> = (0..n_pages).map(|_| buffer(&pool, PAGE_BYTES)).collect();
    let (kept, freed): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    drop(freed);
    let name = "allocate and free 4 KiB, half of the pool in fragments";
    report(name, N_REPEATS, |_| drop(black_box(buffer(&pool, PAGE_BYTES))));
    drop(kept);
    let mut sizes = [PAGE_BYTES, 3 * PAGE_BYTES].into_iter().cycle();
    report("allocate and free, two sizes in turn", N_REPEATS, |_| {
        drop(black_box(buffer(&pool, sizes.next().unwrap_or(PAGE_BYTES))));
    });
}

/// A full pool of chunks of one size: one goes, one comes.
fn steady_state() {
    let n_chunks = 4096;
    let pool = pool(n_chunks * CHUNK_BYTES);
    let mut held: Vec<Option<BufferMut>> = (0..n_chunks).map(|_| Some(buffer(&pool, CHUNK_BYTES))).collect();
    report("free and allocate 2 MiB, full pool", N_REPEATS, |i| {
        let place = &mut held[i * 7919 % n_chunks];
        *place = None;
        *place = Some(buffer(&pool, CHUNK_BYTES));
    });
}

fn start() {
    report("start and end of a pool of 64 GiB", 1, |_| drop(black_box(pool(64 << 30))));
}

struct Ours(Arc<dyn Provider>);

impl Space for Ours {
    type Piece = BufferMut;

    fn allocate(&mut self, n_pages: usize) -> Option<BufferMut> {
        BufferMut::allocate(&self.0, n_pages * PAGE_BYTES).ok().flatten()
    }

    fn free(&mut self, piece: BufferMut) {
        drop(piece);
    }
}

fn fullness(lifetimes: Lifetimes) {
    let (n_pages, n_steps) = (1 << 20, 200_000);
    let ours = mix::run(&mut Ours(pool(n_pages * PAGE_BYTES)), n_pages, n_steps, lifetimes);
    let naive = mix::run(&mut FirstFit::new(n_pages), n_pages, n_steps, lifetimes);
    let cell = |fullness: mix::Fullness| {
        let (mean, least) = (fullness.uniform_mean * 100.0, fullness.uniform_min * 100.0);
        format!("{mean:.2} ({least:.2}), odd {:.2}", fullness.odd_mean * 100.0)
    };
    let name = format!("pool of 4 GiB, {lifetimes:?} lifetimes");
    println!("{name:<32} {:>28} {:>28}", cell(ours), cell(naive));
}
