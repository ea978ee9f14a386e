//! One call into a sandboxed backend, nothing else in flight, without payload.

use std::hint::black_box;

use anyhow::Result;
use kvtier::{ChunkKey, Engine, Tiers, block_on};

use crate::bench::{About, Bench, candidate};
use crate::engines::{config, engine, log, memory, store};
use crate::report::Target;
use crate::sample::each;
use crate::tier::key;

const CHUNK_BYTES: usize = 4096;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let log = log(&bench.setting, "log")?;
    let memory = memory(&bench.setting)?;
    for backend in [log, memory] {
        let name = backend.name.clone();
        let engine = engine(config(&bench.setting, vec![backend], 64 << 20))?;
        let (near, far): (Vec<_>, Vec<_>) = ((0..256).map(key).collect(), (256..512).map(key).collect());
        store(&engine, &near, CHUNK_BYTES, &Tiers::only(["cpu"]));
        store(&engine, &far, CHUNK_BYTES, &Tiers::only([name.as_str()]));
        for n_keys in [1, 32, 256] {
            lookups(bench, &engine, &name, &near[..n_keys], &far[..n_keys]);
        }
        block_on(engine.close())?;
    }
    Ok(())
}

/// Lookups of keys that the CPU tier lacks, beside keys that it has.
fn lookups(bench: &mut Bench, engine: &Engine, name: &str, near: &[ChunkKey], far: &[ChunkKey]) {
    let look = |keys: &[ChunkKey], n: usize| {
        each(n, |_| _ = black_box(block_on(engine.storage().contains(black_box(keys), &Tiers::All))))
    };
    let about = About::time(format!("lookup of {} that only `{name}` is asked for", far.len()));
    let is_target = name == "memory" && far.len() == 256;
    let about = if is_target { about.target(Target::AtMost(25e-6)) } else { about };
    // Enough in a row that waking threads which slept between samples does not count.
    bench.row(
        about,
        vec![candidate("kvtier", || look(far, 128)), candidate("keys in the CPU tier", || look(near, 64))],
    );
}
