//! The pool's start-up.

use std::hint::black_box;

use anyhow::Result;
use kvtier::memory::Pool;

use crate::bench::{About, Bench, candidate};
use crate::report::Target;
use crate::sample::once;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    // Refused here, where there is a message, rather than in a sample.
    drop(Pool::new(64 << 30)?);
    let start = |gib: usize| once(|| drop(black_box(Pool::new(gib << 30))));
    bench.row(
        About::time("start-up and end of a pool of 64 GiB").target(Target::AtMost(10e-3)),
        vec![candidate("kvtier", || start(64)), candidate("a pool of 1 GiB", || start(1))],
    );
    Ok(())
}
