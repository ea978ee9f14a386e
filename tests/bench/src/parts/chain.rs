//! How a lookup's cost grows with the backends behind the CPU tier.

use std::hint::black_box;

use anyhow::Result;
use kvtier::{ChunkKey, Tiers, block_on};

use crate::bench::{Bench, candidate};
use crate::engines::{config, engine, log, store};
use crate::report::Quantity;
use crate::sample::each;
use crate::tier::key;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let mut series = bench.series("lookup of 32 keys", "backends in the chain", Quantity::Time);
    let present: Vec<ChunkKey> = (0..32).map(key).collect();
    let absent: Vec<ChunkKey> = (32..64).map(key).collect();
    for n_backends in bench.pick(vec![0, 1, 2, 4, 8], vec![0, 2]) {
        let name = |n: usize| format!("log{n}");
        let backends = (0..n_backends).map(|n| log(&bench.setting, &name(n))).collect::<Result<_>>()?;
        let engine = engine(config(&bench.setting, backends, 16 << 20))?;
        store(&engine, &present, 4096, &Tiers::only(["cpu"]));
        let lookup = |keys: &[ChunkKey]| {
            each(16, |_| _ = black_box(block_on(engine.storage().contains(black_box(keys), &Tiers::All))))
        };
        let candidates = vec![
            candidate("all in the CPU tier", || lookup(&present)),
            candidate("in no tier", || lookup(&absent)),
        ];
        bench.point(&mut series, n_backends as u64, Quantity::Time, candidates);
        block_on(engine.close())?;
    }
    bench.add_series(series);
    Ok(())
}
