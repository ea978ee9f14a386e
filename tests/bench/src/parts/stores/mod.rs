//! Chunks through the `redis` and `s3` backends, beside native clients of the same servers.
//!
//! A round stores chunks, asks for them and gets them, ours and the native client in turns. Times are those of single
//! operations, with one or many in flight; a rate is all bytes of a round by its time. kvtier's figures include its
//! additional work, such as sealing and verifying every chunk.

mod native_redis;
mod native_s3;
mod ours;
mod round;

use anyhow::{Context as _, Result};
use kvtier_servers::redis::{Redis, RedisOptions, available};
use kvtier_servers::s3::{S3Options, S3Server};

use self::native_redis::NativeRedis;
use self::native_s3::NativeS3;
use self::ours::Ours;
use self::round::{Client, Load, Operation, Round, Times};
use crate::bench::Bench;
use crate::report::{Figure, Quantity, Target};
use crate::sample::once;

/// The first argument that makes this program the S3 server.
pub(crate) const AS_S3_SERVER: &str = "as-s3-server";

/// The bucket that the server has.
const BUCKET: &str = "kv-cache";

/// Chunk size, operations in flight, and operations of a round.
const LOADS: [Load; 7] = [
    Load { size_bytes: 64 << 10, at_once: 1, n_chunks: 256 },
    Load { size_bytes: 64 << 10, at_once: 64, n_chunks: 512 },
    Load { size_bytes: 64 << 10, at_once: 512, n_chunks: 512 },
    Load { size_bytes: 2 << 20, at_once: 1, n_chunks: 64 },
    Load { size_bytes: 2 << 20, at_once: 64, n_chunks: 128 },
    Load { size_bytes: 32 << 20, at_once: 1, n_chunks: 8 },
    Load { size_bytes: 32 << 20, at_once: 64, n_chunks: 64 },
];

/// How many of the loads, counted from the first, are calls for small chunks, few and many at once.
const N_SMALL_LOADS: usize = 2;

/// From this size on, rates are compared; below it, times.
const LARGE_BYTES: usize = 2 << 20;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    redis(bench, &LOADS)?;
    let program = std::env::current_exe()?;
    let server = S3Server::start_as(&program, &[AS_S3_SERVER], &S3Options::default())?;
    let native = NativeS3::connect(&server)?;
    over_loads(bench, "s3", (&LOADS, &native), |bench, load| Ours::s3(bench, &server, load))
}

/// Measures calls for small chunks only, through `redis` only.
pub(crate) fn run_small(bench: &mut Bench) -> Result<()> {
    redis(bench, &LOADS[..N_SMALL_LOADS])
}

fn redis(bench: &mut Bench, loads: &[Load]) -> Result<()> {
    if available("the bench of redis") {
        let server = Redis::start(RedisOptions::default())?;
        let native = NativeRedis::connect(server.addr())?;
        over_loads(bench, "redis", (loads, &native), |bench, load| Ours::redis(bench, server.addr(), load))?;
    }
    Ok(())
}

fn over_loads(
    bench: &mut Bench,
    name: &str,
    (loads, native): (&[Load], &dyn Client),
    ours: impl Fn(&Bench, Load) -> Result<Ours>,
) -> Result<()> {
    let quick = [Load { size_bytes: 64 << 10, at_once: 4, n_chunks: 8 }];
    let loads = if bench.is_quick() { &quick[..] } else { loads };
    opening(bench, name, &ours, loads[0])?;
    for &load in loads {
        let ours = ours(bench, load)?;
        bench.progress(&format!("{name}, {} KiB, {} at once", load.size_bytes >> 10, load.at_once));
        let n_rounds = bench.pick(load.n_rounds(), 1);
        let mut times: [[Times; 2]; 4] = Default::default();
        // The first round, in which memory is touched and connections are made, does not count.
        for turn in 0..=n_rounds {
            for (side, client) in [&ours as &dyn Client, native].into_iter().enumerate() {
                for (operation, round) in run_round(client, load)? {
                    if turn > 0 || bench.is_quick() {
                        times[operation as usize][side].add(round);
                    }
                }
            }
        }
        for (operation, [ours, native]) in Operation::ALL.into_iter().zip(&times) {
            record(bench, name, load, operation, ours, native);
        }
        ours.close()?;
    }
    Ok(())
}

/// Measures how long an engine with the backend takes to be open, connected to the server, with its code in the cache.
fn opening(
    bench: &mut Bench,
    name: &str,
    ours: &impl Fn(&Bench, Load) -> Result<Ours>,
    load: Load,
) -> Result<()> {
    // An error here has a message; a sample could only panic.
    ours(bench, load)?.close()?;
    let component = bench.setting.guests.join(format!("{name}.wasm"));
    let n_bytes = std::fs::metadata(&component)?.len();
    let mut times = Times::default();
    for _ in 0..bench.pick(9, 1) {
        let mut opened = None;
        times.add(Round::whole(once(|| opened = ours(bench, load).ok())));
        opened.context("it was opened before")?.close()?;
    }
    let figure = Figure::new(Quantity::Time, &times.operations());
    let what = format!("engine with {name}.wasm until open, code from the cache");
    bench.add_row(what, figure, Vec::new(), None, format!("a component of {} KiB", n_bytes >> 10));
    Ok(())
}

fn run_round(client: &dyn Client, load: Load) -> Result<Vec<(Operation, Round)>> {
    let mut rounds = Vec::new();
    for operation in Operation::ALL {
        rounds.push((operation, client.run(operation, load)?));
    }
    client.remove(load)?;
    Ok(rounds)
}

fn record(bench: &mut Bench, name: &str, load: Load, operation: Operation, ours: &Times, native: &Times) {
    let size = match load.size_bytes {
        size if size < 1 << 20 => format!("{} KiB", size >> 10),
        size => format!("{} MiB", size >> 20),
    };
    let what = format!("{name}: {} of {size}, {} at once", operation.name(), load.at_once);
    let ms = |seconds: f64| format!("{:.2}", seconds * 1e3);
    let note = format!(
        "ms p50 {} against {}, p99 {} against {}",
        ms(ours.quantile(0.5)),
        ms(native.quantile(0.5)),
        ms(ours.quantile(0.99)),
        ms(native.quantile(0.99)),
    );
    let moves = operation.moves_bytes() && (load.size_bytes >= LARGE_BYTES || load.at_once > 1);
    let (quantity, target) = match moves {
        true if load.size_bytes >= LARGE_BYTES => {
            (Quantity::Bytes(load.n_bytes()), Some(Target::OfReference(0.8)))
        }
        true => (Quantity::Bytes(load.n_bytes()), None),
        // A time of 1.3 is a speed of 1 / 1.3.
        false if load.at_once == 1 => (Quantity::Time, Some(Target::OfReference(1.0 / 1.3))),
        false => (Quantity::Time, None),
    };
    let figure = |times: &Times| match quantity {
        Quantity::Time => Figure::new(quantity, &times.operations()),
        _ => Figure::new(quantity, &times.rounds()),
    };
    let reference = ("native client".to_owned(), figure(native));
    bench.add_row(what, figure(ours), vec![reference], target, note);
}
