//! The CPU tier under the mix of requests, with one thread or several.

use anyhow::Result;
use kvtier_bench_mix::{Course, Operation, Run as _};

use crate::bench::{Bench, candidate};
use crate::contender::Ours;
use crate::report::Quantity;

#[expect(clippy::unnecessary_wraps, reason = "all parts are called alike")]
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let title = "a key, over all threads, requests of 32";
    let mut series = bench.series(title, "threads", Quantity::Time);
    for n_threads in bench.pick(vec![1, 2, 3, 4], vec![2]) {
        let mut course = Course::new(n_threads, Ours::new);
        for operation in Operation::ALL {
            let sample = || course.sample(operation).ns_per_key * 1e-9;
            let candidates = vec![candidate(operation.to_string(), sample)];
            bench.point(&mut series, n_threads as u64, Quantity::Time, candidates);
        }
    }
    bench.add_series(series);
    Ok(())
}
