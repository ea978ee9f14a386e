//! The buffer pool: its start-up, its steady state, and how full it gets.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::Result;
use kvtier::memory::{BufferMut, PAGE_BYTES, Pool, Provider};

use crate::bench::{About, Bench, candidate};
use crate::report::Target;
use crate::sample::{each, once};

#[path = "../../../../host/src/memory/mix.rs"]
#[expect(dead_code, reason = "the host's tests use more of it")]
mod mix;

use mix::{FirstFit, Lifetimes, Space};

const CHUNK_BYTES: usize = mix::UNIFORM_PAGES * PAGE_BYTES;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    // An error here has a message; a sample could only panic.
    drop(Pool::new(64 << 30)?);
    let start = |gib: usize| once(|| drop(black_box(Pool::new(gib << 30))));
    bench.row(
        About::time("start-up and end of a pool of 64 GiB").target(Target::AtMost(10e-3)),
        vec![candidate("kvtier", || start(64)), candidate("a pool of 1 GiB", || start(1))],
    );
    steady_state(bench);
    for lifetimes in [Lifetimes::Equal, Lifetimes::Random] {
        fullness(bench, lifetimes);
    }
    Ok(())
}

/// A full pool of chunks of one size: frees one, allocates one.
fn steady_state(bench: &mut Bench) {
    let n_chunks = bench.pick(4096, 64);
    let pool = pool(n_chunks * CHUNK_BYTES);
    let mut held: Vec<Option<BufferMut>> = (0..n_chunks).map(|_| buffer(&pool, CHUNK_BYTES)).collect();
    let exchange = |held: &mut Vec<Option<BufferMut>>, i: usize| {
        let place = &mut held[i * 7919 % n_chunks];
        *place = None;
        *place = buffer(&pool, CHUNK_BYTES);
    };
    bench.row(
        About::time("free and allocate 2 MiB, full pool"),
        vec![
            candidate("kvtier", || each(1024, |i| exchange(&mut held, i))),
            candidate("malloc", || each(1024, |_| drop(black_box(Vec::<u8>::with_capacity(CHUNK_BYTES))))),
        ],
    );
}

/// Reports how much is in use when 2 MiB is refused: exact, and the same on every machine.
fn fullness(bench: &mut Bench, lifetimes: Lifetimes) {
    let (n_pages, n_steps) = bench.pick((1 << 20, 200_000), (1 << 14, 1000));
    let ours = mix::run(&mut Ours(pool(n_pages * PAGE_BYTES)), n_pages, n_steps, lifetimes);
    let naive = mix::run(&mut FirstFit::new(n_pages), n_pages, n_steps, lifetimes);
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let name = format!("pool of {} MiB, {lifetimes:?} lifetimes", (n_pages * PAGE_BYTES) >> 20);
    let fact = format!(
        "{} in use when 2 MiB is refused, at least {}; first fit {}",
        percent(ours.uniform_mean),
        percent(ours.uniform_min),
        percent(naive.uniform_mean)
    );
    bench.report.facts.push((name, fact));
}

fn pool(n_bytes: usize) -> Arc<dyn Provider> {
    Arc::new(Pool::new(n_bytes).expect("address space is there"))
}

fn buffer(pool: &Arc<dyn Provider>, n_bytes: usize) -> Option<BufferMut> {
    let buffer = BufferMut::allocate(pool, n_bytes).ok().flatten();
    assert!(buffer.is_some(), "the bench leaves room");
    buffer
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
