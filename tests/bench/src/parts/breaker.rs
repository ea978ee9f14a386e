//! The cost of a backend with an open breaker, beside a chain without the backend.

use std::hint::black_box;

use anyhow::{Result, ensure};
use kvtier::{BackendConfig, ChunkKey, Clock, Engine, EngineBuilder, Tiers, block_on};

use super::keys::metadata;
use crate::bench::{About, Bench, Setting, candidate};
use crate::engines::{backend, config, specs, store};
use crate::sample::each;
use crate::tier::key;

const CHUNK_BYTES: usize = 4096;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let class = ("misbehaving", "TrapBackend");
    let mut traps = backend(&bench.setting, "misbehaving", class, &[("in", "contains")])?;
    (traps.breaker.failures, traps.breaker.window) = (1, 1);
    let (without, with) = (still(&bench.setting, vec![])?, still(&bench.setting, vec![traps])?);
    let present: Vec<ChunkKey> = (0..32).map(key).collect();
    let absent: Vec<ChunkKey> = (32..64).map(key).collect();
    for engine in [&without, &with] {
        store(engine, &present, CHUNK_BYTES, &Tiers::only(["cpu"]));
        block_on(engine.storage().contains(&absent, &Tiers::All));
    }
    ensure!(with.storage().counts()[1].reading.opened == 1, "the breaker is not open");
    for (where_, keys) in [("in the CPU tier", &present), ("nowhere", &absent)] {
        let specs = specs(keys, CHUNK_BYTES);
        let lookup = |engine: &Engine| {
            each(64, |_| _ = black_box(block_on(engine.storage().contains(black_box(keys), &Tiers::All))))
        };
        let retrieve = |engine: &Engine| {
            let get = || block_on(engine.storage().get(black_box(&specs), &Tiers::All, None));
            each(64, |_| drop(black_box(get())))
        };
        beside(bench, format!("lookup of 32 that are {where_}, one breaker open"), &without, &with, lookup);
        beside(bench, format!("get of 32 that are {where_}, one breaker open"), &without, &with, retrieve);
    }
    block_on(without.close())?;
    Ok(block_on(with.close())?)
}

fn beside(bench: &mut Bench, what: String, without: &Engine, with: &Engine, work: impl Fn(&Engine) -> f64) {
    let candidates =
        vec![candidate("kvtier", || work(with)), candidate("without the backend", || work(without))];
    bench.row(About::time(what), candidates);
}

/// An engine whose clock stands still, so that its breakers stay open.
fn still(setting: &Setting, backends: Vec<BackendConfig>) -> Result<Engine> {
    let builder = EngineBuilder::new(config(setting, backends, 16 << 20), metadata(16)?);
    Ok(builder.clock(Clock::manual()).build_blocking()?)
}
