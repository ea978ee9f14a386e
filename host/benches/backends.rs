//! Calls into sandboxed backends, bytes through them, and their load time, each beside its reference in the
//! same run: `cargo xtask bench --bench backends` (it builds the components first).

#![allow(missing_docs, reason = "a program")]

use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvtier::config::{BackendConfig, CompileCache, Compiler, Config, FsAccess, FsGrant, OnFull, OnLoadError};
use kvtier::runtime::block_on;
use kvtier::{ChunkKey, ChunkSpec, Dtype, Engine, EngineBuilder, EngineMetadata, KvShape, Tiers};

type Measured<'a> = &'a dyn Fn(&Engine);
type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    calls()?;
    passed_over()?;
    bytes()?;
    load()
}

/// Time of one call without payload.
fn calls() -> Outcome<()> {
    println!("{:<46} {:>12}", "one call, nothing else in flight", "µs (median)");
    for (name, class, settings) in [
        ("log", "ExternalLogBackend", ("level", "debug")),
        ("memory", "MemoryBackend", ("capacity", "32MiB")),
    ] {
        let engine = engine(vec![backend(name, class, &[settings])?], 64 << 20)?;
        for n_keys in [1_u64, 32, 256] {
            let keys: Vec<ChunkKey> = (0..n_keys).map(key).collect();
            let tiers = Tiers::only([name]);
            if name == "memory" {
                store(&engine, &keys, 4096, &tiers);
            }
            let median = median(2001, || {
                black_box(block_on(engine.storage().contains(&keys, &tiers)));
            });
            println!("{:<46} {:>12.2}", format!("{name}: contains of {n_keys}"), median.as_secs_f64() * 1e6);
        }
        block_on(engine.close())?;
    }
    Ok(())
}

/// What a backend costs whose breaker is open, beside a chain without it.
fn passed_over() -> Outcome<()> {
    const N_KEYS: u64 = 32;
    const N_REPEATS: u32 = 200;
    println!();
    println!(
        "{:<46} {:>12} {:>12} {:>7}",
        "32 chunks, ns per operation", "no backend", "open breaker", "ratio"
    );
    let mut traps = backend("misbehaving", "TrapBackend", &[("in", "contains")])?;
    (traps.breaker.failures, traps.breaker.window) = (1, 1);
    let make = |backends| -> Outcome<Engine> {
        let config = Config { local_cpu: true, ..config(backends, 16 << 20) };
        // A clock that stands still: the breaker stays open.
        let builder = EngineBuilder::new(config, metadata()?).clock(kvtier::clock::Clock::manual());
        Ok(builder.build_blocking()?)
    };
    let engines = [make(vec![])?, make(vec![traps])?];
    let present: Vec<ChunkKey> = (0..N_KEYS).map(key).collect();
    let absent: Vec<ChunkKey> = (N_KEYS..2 * N_KEYS).map(key).collect();
    let specs = |keys: &[ChunkKey]| -> Vec<ChunkSpec> {
        keys.iter().map(|&key| ChunkSpec { key, size_bytes: 4096 }).collect()
    };
    for engine in &engines {
        store(engine, &present, 4096, &Tiers::only(["cpu"]));
        block_on(engine.storage().contains(&absent, &Tiers::All));
    }
    assert_eq!(engines[1].storage().counts()[1].breaker_opened, 1);
    let (present_specs, absent_specs) = (specs(&present), specs(&absent));
    let lookup = |engine: &Engine, keys: &[ChunkKey]| {
        black_box(block_on(engine.storage().contains(keys, &Tiers::All)));
    };
    let retrieve = |engine: &Engine, specs: &[ChunkSpec]| {
        black_box(block_on(engine.storage().get(specs, &Tiers::All, None)));
    };
    let operations: [(&str, Measured<'_>); 4] = [
        ("lookup, all in the CPU tier", &|engine| lookup(engine, &present)),
        ("lookup, none stored", &|engine| lookup(engine, &absent)),
        ("retrieve, all in the CPU tier", &|engine| retrieve(engine, &present_specs)),
        ("retrieve, none stored", &|engine| retrieve(engine, &absent_specs)),
    ];
    for (name, operation) in operations {
        // In turns, so that both meet the same disturbances.
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..401 {
            for (engine, samples) in engines.iter().zip(&mut samples) {
                let started = Instant::now();
                for _ in 0..N_REPEATS {
                    operation(engine);
                }
                samples.push(started.elapsed() / N_REPEATS);
            }
        }
        let [without, with] = samples.map(|mut samples| {
            samples.sort_unstable();
            samples[samples.len() / 2].as_secs_f64() * 1e9
        });
        println!("{name:<46} {without:>12.0} {with:>12.0} {:>7.2}", with / without);
    }
    engines.iter().try_for_each(|engine| Ok(block_on(engine.close())?))
}

/// Throughput of puts and gets, sealed, verified, hot cache off.
fn bytes() -> Outcome<()> {
    println!();
    println!("{:<10} {:>9} {:>12} {:>12} {:>12}", "backend", "chunk", "put GB/s", "get GB/s", "memcpy GB/s");
    for (size_bytes, n_chunks) in [(64 << 10, 256_u64), (2 << 20, 32), (32 << 20, 8)] {
        for name in ["memory", "fs"] {
            let directory = scratch()?;
            let config = match name {
                "memory" => backend(name, "MemoryBackend", &[("capacity", "512MiB")])?,
                _ => fs(&directory)?,
            };
            let engine = engine(vec![config], 4 * size_bytes * n_chunks as usize)?;
            let tiers = Tiers::only([name]);
            let keys: Vec<ChunkKey> = (0..n_chunks).map(key).collect();
            let n_bytes = (size_bytes as u64 * n_chunks) as f64;
            let mut puts = Vec::new();
            let mut gets = Vec::new();
            for _ in 0..5 {
                puts.push(store(&engine, &keys, size_bytes, &tiers));
                let specs: Vec<ChunkSpec> = keys.iter().map(|&key| ChunkSpec { key, size_bytes }).collect();
                let started = Instant::now();
                let found = block_on(engine.storage().get(&specs, &tiers, None));
                gets.push(started.elapsed());
                assert_eq!(found.chunks.len(), keys.len(), "{:?}", found.misses.first());
                drop(found);
                block_on(engine.storage().remove(&keys, &tiers))?;
            }
            let rate = |times: &mut Vec<Duration>| {
                times.sort();
                n_bytes / times[times.len() / 2].as_secs_f64() / 1e9
            };
            let (put, get) = (rate(&mut puts), rate(&mut gets));
            println!(
                "{name:<10} {:>9} {put:>12.2} {get:>12.2} {:>12.2}",
                size(size_bytes),
                memcpy(size_bytes, n_chunks)
            );
            block_on(engine.close())?;
            std::fs::remove_dir_all(directory)?;
        }
    }
    Ok(())
}

/// Time until a backend is open, with an empty and with a filled compile cache.
fn load() -> Outcome<()> {
    println!();
    println!("{:<46} {:>12}", "engine with log.wasm, until open", "ms (median)");
    let backend = backend("log", "ExternalLogBackend", &[("level", "debug")])?;
    let timed = |cache: &Path| -> Outcome<Duration> {
        let config = Config {
            compile_cache: CompileCache::Directory(cache.to_owned()),
            compiler: Compiler::Off,
            ..config(vec![backend.clone()], 1 << 20)
        };
        let started = Instant::now();
        let engine = EngineBuilder::new(config, metadata()?).build_blocking()?;
        let took = started.elapsed();
        block_on(engine.close())?;
        Ok(took)
    };
    let mut cold = Vec::new();
    let mut cached = Vec::new();
    for _ in 0..7 {
        let cache = scratch()?;
        cold.push(timed(&cache)?);
        cached.push(timed(&cache)?);
        std::fs::remove_dir_all(cache)?;
    }
    for (name, mut times) in [("cold: compiled", cold), ("cached code", cached)] {
        times.sort();
        println!("{name:<46} {:>12.2}", times[times.len() / 2].as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Stores chunks in a backend and returns the time until it has them, filling left out.
fn store(engine: &Engine, keys: &[ChunkKey], size_bytes: usize, tiers: &Tiers) -> Duration {
    let specs: Vec<ChunkSpec> = keys.iter().map(|&key| ChunkSpec { key, size_bytes }).collect();
    let mut allocation = block_on(engine.storage().allocate(&specs)).expect("the pool holds them");
    assert_eq!(allocation.n_missing(), keys.len());
    for (_, key, bytes) in allocation.missing() {
        bytes.fill(key.lo as u8);
    }
    let started = Instant::now();
    block_on(engine.storage().put(allocation, tiers));
    block_on(engine.flush()).expect("the backend takes them");
    started.elapsed()
}

fn memcpy(size_bytes: usize, n_chunks: u64) -> f64 {
    let from = vec![1_u8; size_bytes * n_chunks as usize];
    let mut to = vec![2_u8; from.len()];
    let took = median(5, || to.copy_from_slice(black_box(&from)));
    black_box(&to);
    from.len() as f64 / took.as_secs_f64() / 1e9
}

fn median(n_samples: usize, mut work: impl FnMut()) -> Duration {
    let mut samples: Vec<Duration> = (0..n_samples)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .collect();
    samples.sort();
    samples[n_samples / 2]
}

fn engine(backends: Vec<BackendConfig>, pool_bytes: usize) -> Outcome<Engine> {
    Ok(EngineBuilder::new(config(backends, pool_bytes), metadata()?).build_blocking()?)
}

fn config(backends: Vec<BackendConfig>, pool_bytes: usize) -> Config {
    Config {
        chunk_size: 16,
        local_cpu: false,
        pool_size_bytes: pool_bytes as u64,
        on_full: OnFull::Wait,
        on_load_error: OnLoadError::Fail,
        backends,
        ..Config::default()
    }
}

fn metadata() -> Outcome<EngineMetadata> {
    let kv_shape = KvShape::new([2, 2, 16, 2, 8])?;
    let model_name = "bench".into();
    Ok(EngineMetadata { model_name, world_size: 1, worker_id: 0, kv_dtype: Dtype::BFloat16, kv_shape })
}

fn backend(name: &str, class_name: &str, settings: &[(&str, &str)]) -> Outcome<BackendConfig> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/kvtier-guests");
    let path = folder.join(format!("{name}.wasm"));
    if !path.exists() {
        return Err(format!("{} is missing: run `cargo xtask guests` first", path.display()).into());
    }
    let mut config = BackendConfig::new(name, path, class_name);
    config.config = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    config.limits.memory_bytes = 1 << 30;
    config.limits.call_timeout = Duration::from_secs(30);
    Ok(config)
}

fn fs(directory: &Path) -> Outcome<BackendConfig> {
    let mut config = backend("fs", "FsBackend", &[("root", "/data")])?;
    let host_dir = directory.to_owned();
    config.allow.fs.push(FsGrant { host_dir, guest_path: "/data".into(), access: FsAccess::ReadWrite });
    Ok(config)
}

fn scratch() -> Outcome<PathBuf> {
    let name = format!("kvtier-bench-{}-{:?}", std::process::id(), Instant::now());
    let digits: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let path = std::env::temp_dir().join(digits);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

fn key(n: u64) -> ChunkKey {
    ChunkKey { hi: n.wrapping_mul(0x9e37_79b9_7f4a_7c15), lo: n }
}

fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}
