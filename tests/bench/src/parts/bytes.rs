//! Chunks through the sandboxed backends, sealed and verified, over sizes, each beside the time of a native program.
//!
//! A put lasts until the backend has all chunks; a get until all are verified. All chunks of a sample go in one call.

use anyhow::{Context, Result};
use kvtier::{BackendConfig, ChunkKey, Config, Engine, Tiers, block_on};

use super::copies::{WORKING_SET_BYTES, memcpy};
use crate::bench::Bench;
use crate::engines::{config, engine, fs, memory, specs, store};
use crate::native::{Manner, Native};
use crate::report::{Figure, Quantity, Series, Target};
use crate::sample::{Effort, Samples, Take, once};
use crate::tier::key;

/// The sizes that have separate rows.
const ROW_SIZES: [usize; 2] = [2 << 20, 32 << 20];

/// The most chunks of a sample.
const CHUNKS_MAX: usize = 1024;

/// Bytes of all files of a sample: more than the last-level cache, and little enough that a disk need not have written
/// one sample before the next begins.
const FILES_BYTES: usize = WORKING_SET_BYTES / 2;

/// Put and get, in seconds.
type Turn = [f64; 2];

const DIRECTIONS: [&str; 2] = ["put", "get"];

/// The size of the chunks of a sample, and their number.
#[derive(Clone, Copy)]
struct Load {
    size_bytes: usize,
    n_chunks: usize,
}

impl Load {
    fn n_bytes(self) -> usize {
        self.size_bytes * self.n_chunks
    }
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    through_memory(bench)?;
    through_fs(bench, "fs", &[])?;
    through_fs(bench, "fs, direct", &[("direct", "true")])
}

fn through_memory(bench: &mut Bench) -> Result<()> {
    let mut series = series(bench, "memory");
    for load in loads(bench, WORKING_SET_BYTES) {
        let ours = Ours::new(bench, memory(&bench.setting)?, load)?;
        let (from, mut to) = (vec![1_u8; load.n_bytes()], vec![2_u8; load.n_bytes()]);
        let takes: Vec<Take<'_, 2>> = vec![
            Box::new(|| ours.turn()),
            Box::new(|| [once(|| memcpy(&from, &mut to, load.size_bytes)); 2]),
        ];
        let samples = measure(bench, "memory", load, takes);
        // Puts seal, copy into the guest and wait for it; callers wait only for gets.
        let targets = [None, Some(Target::OfReference(0.6))];
        let names = ["kvtier", "memcpy"];
        record(bench, &mut series, "memory", load, &names, &samples, targets);
        ours.close()?;
    }
    for series in series {
        bench.add_series(series);
    }
    Ok(())
}

/// The native programs that a sample is compared with, by the caching of the backend.
fn natives(is_direct: bool) -> &'static [(&'static str, Manner, usize)] {
    if is_direct {
        return &[("native, 1 thread", Manner::Direct, 1), ("native, 2 threads", Manner::Direct, 2)];
    }
    &[
        ("native, 1 thread", Manner::Whole, 1),
        ("native, 2 threads", Manner::Whole, 2),
        ("native, 2 threads, in pieces", Manner::Pieces, 2),
    ]
}

fn through_fs(bench: &mut Bench, name: &str, settings: &[(&str, &str)]) -> Result<()> {
    let natives = natives(!settings.is_empty());
    let mut series = series(bench, name);
    for load in loads(bench, FILES_BYTES) {
        let folder = tempfile::tempdir_in(&bench.setting.scratch).context("cannot make a folder")?;
        let subfolder = |n: usize| {
            let path = folder.path().join(n.to_string());
            std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
            anyhow::Ok(path)
        };
        let backend = fs(&bench.setting, &subfolder(0)?, settings)?;
        let ours = match Ours::new(bench, backend, load) {
            Err(error) if !settings.is_empty() => {
                bench.report.facts.push((name.to_owned(), format!("not measured: {error:#}")));
                return Ok(());
            }
            ours => ours?,
        };
        let native = |(n, (_, manner, n_threads)): (usize, &(&str, Manner, usize))| {
            Native::new(&subfolder(n + 1)?, (*manner, *n_threads), load.n_chunks, load.size_bytes)
        };
        let mut programs = natives.iter().enumerate().map(native).collect::<Result<Vec<_>>>()?;
        let mut takes: Vec<Take<'_, 2>> = vec![Box::new(|| ours.turn())];
        takes.extend(programs.iter_mut().map(|native| -> Take<'_, 2> { Box::new(|| native_turn(native)) }));
        let samples = measure(bench, name, load, takes);
        let names: Vec<&str> = ["kvtier"].into_iter().chain(natives.iter().map(|(name, ..)| *name)).collect();
        record(bench, &mut series, name, load, &names, &samples, [Some(Target::OfReference(0.9)); 2]);
        ours.close()?;
    }
    for series in series {
        bench.add_series(series);
    }
    Ok(())
}

/// Returns the loads of all sizes. Those with rows have `working_set_bytes` in total, the others half of it.
fn loads(bench: &Bench, working_set_bytes: usize) -> Vec<Load> {
    if bench.is_quick() {
        return vec![Load { size_bytes: ROW_SIZES[0], n_chunks: 4 }];
    }
    let load = |size_bytes: usize| {
        let n_bytes = working_set_bytes / if ROW_SIZES.contains(&size_bytes) { 1 } else { 2 };
        Load { size_bytes, n_chunks: (n_bytes / size_bytes).clamp(1, CHUNKS_MAX) }
    };
    [4 << 10, 16 << 10, 64 << 10, 256 << 10, 2 << 20, 8 << 20, 32 << 20, 64 << 20].map(load).into()
}

fn series(bench: &Bench, backend: &str) -> [Series; 2] {
    let quantity = Quantity::Bytes(1);
    DIRECTIONS.map(|name| bench.series(format!("{name} through {backend}"), "bytes of a chunk", quantity))
}

fn measure(bench: &Bench, backend: &str, load: Load, mut takes: Vec<Take<'_, 2>>) -> Vec<[Samples; 2]> {
    let brief = Effort { turns_min: 3, time: Effort::LONG.time / 3, ..Effort::LONG };
    let effort = if ROW_SIZES.contains(&load.size_bytes) { Effort::LONG } else { brief };
    bench.measure(&format!("{backend}, {} KiB", load.size_bytes >> 10), effort, &mut takes)
}

/// Adds the points of one size, and its rows.
fn record(
    bench: &mut Bench,
    series: &mut [Series; 2],
    backend: &str,
    load: Load,
    names: &[&str],
    samples: &[[Samples; 2]],
    targets: [Option<Target>; 2],
) {
    let quantity = Quantity::Bytes(load.n_bytes() as u64);
    for direction in 0..DIRECTIONS.len() {
        let figures: Vec<(String, Figure)> = names
            .iter()
            .zip(samples)
            .map(|(name, samples)| ((*name).to_owned(), Figure::new(quantity, &samples[direction])))
            .collect();
        for (name, figure) in &figures {
            series[direction].push(name, load.size_bytes as u64, *figure);
        }
        if ROW_SIZES.contains(&load.size_bytes)
            && let [(_, figure), references @ ..] = &figures[..]
        {
            let what = format!("{} through {backend}, {} MiB", DIRECTIONS[direction], load.size_bytes >> 20);
            let note = match references {
                [(name, copy)] if name == "memcpy" => {
                    format!("as long as {:.1} copies", figure.speed_against(copy).recip())
                }
                _ => String::new(),
            };
            bench.add_row(what, *figure, references.to_vec(), targets[direction], note);
        }
    }
}

/// An engine with one backend and no hot cache, and the chunks that go through it.
struct Ours {
    engine: Engine,
    tiers: Tiers,
    keys: Vec<ChunkKey>,
    load: Load,
}

impl Ours {
    fn new(bench: &Bench, backend: BackendConfig, load: Load) -> Result<Self> {
        let tiers = Tiers::only([backend.name.as_str()]);
        // A quarter of the pool may be in flight.
        let pool_bytes = 4 * (load.n_bytes() + load.n_chunks * 4096);
        let config = Config { local_cpu: false, ..config(&bench.setting, vec![backend], pool_bytes) };
        let keys = (0..load.n_chunks).map(key).collect();
        Ok(Self { engine: engine(config)?, tiers, keys, load })
    }

    fn turn(&self) -> Turn {
        let put = store(&self.engine, &self.keys, self.load.size_bytes, &self.tiers);
        let specs = specs(&self.keys, self.load.size_bytes);
        let mut found = None;
        let get = once(|| found = Some(block_on(self.engine.storage().get(&specs, &self.tiers, None))));
        let found = found.expect("it was got");
        assert_eq!(found.chunks.len(), self.keys.len(), "{:?}", found.misses.first());
        drop(found);
        block_on(self.engine.storage().remove(&self.keys, &self.tiers)).expect("the backend removes");
        [put, get]
    }

    fn close(self) -> Result<()> {
        Ok(block_on(self.engine.close())?)
    }
}

fn native_turn(native: &mut Native) -> Turn {
    let put = once(|| native.put().expect("the disk takes them"));
    let get = once(|| native.get().expect("the disk has them"));
    native.remove().expect("the disk removes them");
    [put, get]
}
