//! One prefix wanted by several requests at once, through `fs` and `redis`, without a hot cache: bytes read from the
//! store, memory held, and the time of each request, beside one request alone.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use kvtier::{BackendConfig, ChunkKey, Config, Engine, NetGrant, NetHost, PortRange, Tiers, block_on};
use kvtier_servers::redis::{Redis, RedisOptions, available};

use crate::bench::Bench;
use crate::engines::{backend, config, engine, fs, specs, store};
use crate::report::{Figure, Target, Unit};
use crate::sample::Samples;
use crate::tier::key;

/// A system prompt of some thousand tokens.
const N_CHUNKS: usize = 64;
const CHUNK_BYTES: usize = 2 << 20;
/// Requests at once; the first is the reference.
const REQUESTS: [usize; 3] = [1, 8, 64];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir_in(&bench.setting.scratch).context("cannot make a folder")?;
    let files = fs(&bench.setting, folder.path(), &[("capacity", "1GiB")])?;
    through(bench, files)?;
    if available("the bench of redis") {
        let server = Redis::start(RedisOptions::default())?;
        let (addr, servers) = (server.addr(), server.addr().to_string());
        let mut redis =
            backend(&bench.setting, "redis", ("redis", "RedisBackend"), &[("servers", &servers)])?;
        let ports = PortRange { first: addr.port(), last: addr.port() };
        redis.allow.net.push(NetGrant::Tcp { host: NetHost::Address(addr.ip()), ports });
        through(bench, redis)?;
    }
    Ok(())
}

/// The cost of simultaneous requests for one prefix.
struct Cost {
    /// Seconds of each request.
    seconds: Samples,
    read_bytes: u64,
    memory_bytes: usize,
}

fn through(bench: &mut Bench, backend: BackendConfig) -> Result<()> {
    let (name, size_bytes) = (backend.name.clone(), bench.pick(CHUNK_BYTES, 64 << 10));
    let keys: Vec<ChunkKey> = (0..bench.pick(N_CHUNKS, 8)).map(key).collect();
    // Room for requests that do not share, so that none waits for memory.
    let pool_bytes = bench.pick(4, 8) * keys.len() * (size_bytes + 4096);
    let engine = engine(Config { local_cpu: false, ..config(&bench.setting, vec![backend], pool_bytes) })?;
    let tiers = Tiers::only([name.as_str()]);
    store(&engine, &keys, size_bytes, &tiers);
    let mut alone: Option<Cost> = None;
    for n_requests in REQUESTS {
        bench.progress(&format!("{name}, {n_requests} requests of one prefix"));
        let cost = measure(bench, &engine, &keys, size_bytes, n_requests)?;
        let mib = |bytes: u64| bytes >> 20;
        let note = format!(
            "{} MiB read and {} MiB held for all of them",
            mib(cost.read_bytes),
            mib(cost.memory_bytes as u64)
        );
        for (share, quantile) in [(0.5, "p50"), (0.99, "p99")] {
            let what = format!(
                "{name}, {} chunks of {} KiB, {n_requests} requests: {quantile}",
                keys.len(),
                size_bytes >> 10
            );
            let reference = alone.as_ref().map(|alone| ("one request".to_owned(), at(&alone.seconds, share)));
            let target = (n_requests == 64 && share > 0.9).then_some(Target::OfReference(1.0 / 1.3));
            bench.add_row(what, at(&cost.seconds, share), reference.into_iter().collect(), target, &*note);
        }
        alone.get_or_insert(cost);
    }
    Ok(block_on(engine.close())?)
}

fn at(seconds: &Samples, share: f64) -> Figure {
    let (value, spread) = (seconds.at(share), seconds.spread());
    Figure { value, unit: Unit::Seconds, spread, n_samples: seconds.len() }
}

/// Lets this many threads retrieve the prefix at the same time, repeatedly.
fn measure(
    bench: &Bench,
    engine: &Engine,
    keys: &[ChunkKey],
    size_bytes: usize,
    n_requests: usize,
) -> Result<Cost> {
    let (storage, tiers, specs) = (engine.storage(), &Tiers::All, &specs(keys, size_bytes));
    let plan = &block_on(storage.contains(keys, tiers));
    ensure!(plan.n_chunks == keys.len(), "{} of {} chunks are present", plan.n_chunks, keys.len());
    let n_rounds = bench.pick((400 / n_requests).max(30), 1);
    let mut seconds = Vec::new();
    let (mut read_bytes, mut memory_bytes) = (0, 0);
    // The first round, in which memory is touched, does not count.
    for round in 0..=n_rounds {
        let read_before = storage.counts()[1].bytes_read;
        let (begin, end) = (&Barrier::new(n_requests), &Barrier::new(n_requests + 1));
        let times: Vec<Option<f64>> = thread::scope(|scope| {
            let requests = (0..n_requests).map(|_| {
                scope.spawn(move || {
                    begin.wait();
                    let start = Instant::now();
                    let found = block_on(storage.get(specs, tiers, Some(plan)));
                    let seconds = start.elapsed().as_secs_f64();
                    // Held until the memory has been counted.
                    end.wait();
                    end.wait();
                    (found.chunks.len() == specs.len()).then_some(seconds)
                })
            });
            let requests: Vec<_> = requests.collect();
            end.wait();
            memory_bytes = storage.status().cpu.allocated_bytes;
            end.wait();
            requests.into_iter().map(|request| request.join().ok().flatten()).collect()
        });
        let times: Option<Vec<f64>> = times.into_iter().collect();
        let times = times.context("a request did not get its prefix")?;
        read_bytes = storage.counts()[1].bytes_read - read_before;
        if round > 0 || bench.is_quick() {
            seconds.extend(times);
        }
    }
    Ok(Cost { seconds: Samples::new(seconds), read_bytes, memory_bytes })
}
