//! The process that is killed, and the process that reads afterwards: a real engine on a directory.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvtier::{
    BackendConfig, ChunkKey, CompileCache, Compiler, Config, Engine, EngineBuilder, FsAccess, FsGrant,
    Missing, OnFull, OnLoadError, StorageManager, Tiers, block_on,
};

use crate::chunks::{CHUNK_SIZE, FILLER_BYTES, FIRST_FILLER, N_CHUNKS, key, metadata, spec};
use crate::journal::Line;
use crate::random::Random;
use crate::{Backend, ChildArgs};

const THREADS: u64 = 4;

/// Chunks that one put stores, at most.
const CHUNKS_PER_PUT: u64 = 3;

/// Puts, gets and removes chunks from several threads, until the process is killed or the parent is gone.
pub(crate) fn load(args: &ChildArgs) -> Result<()> {
    let (engine, _) = open(args)?;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let storage = engine.storage();
            let mut random = Random::new(args.seed.wrapping_add(thread));
            scope.spawn(move || while work(storage, thread, &mut random).is_ok() {});
        }
    });
    Ok(())
}

/// One operation of a thread. Each thread puts and removes only its own chunks, so that the order of a chunk's
/// operations is the order of the lines. All threads read all chunks.
fn work(storage: &StorageManager, thread: u64, random: &mut Random) -> Result<()> {
    let own = |random: &mut Random| thread + THREADS * random.below(N_CHUNKS / THREADS);
    match random.below(10) {
        0..=4 => {
            let numbers: Vec<u64> = (0..=random.below(CHUNKS_PER_PUT)).map(|_| own(random)).collect();
            for number in &numbers {
                say(Line::Put(*number))?;
            }
            put(storage, numbers.iter().copied().map(key))?;
            // Half of the puts continue while the next operation begins.
            if random.below(2) == 0 {
                block_on(storage.flush())?;
                for number in numbers.into_iter().filter(|&number| is_present(storage, key(number))) {
                    say(Line::Stored(number))?;
                }
            }
        }
        5 | 6 => {
            let number = own(random);
            say(Line::Remove(number))?;
            if block_on(storage.remove(&[key(number)], &Tiers::All)).is_ok() {
                say(Line::Removed(number))?;
            }
        }
        _ => _ = get(storage, random.below(N_CHUNKS))?,
    }
    Ok(())
}

/// Reads every chunk and compares with a lookup. With `fill`, then stores chunks until all others are evicted.
pub(crate) fn read(args: &ChildArgs) -> Result<()> {
    let (engine, scanned) = open(args)?;
    let storage = engine.storage();
    if args.backend == Backend::Fs {
        scanned.wait();
    }
    for number in 0..N_CHUNKS {
        let present = is_present(storage, key(number));
        if get(storage, number)? != present {
            say(Line::Wrong(number))?;
        }
    }
    if let Some(capacity) = args.capacity.filter(|_| args.fill) {
        for number in 0..=capacity / FILLER_BYTES as u64 {
            put(storage, [key(FIRST_FILLER + number)])?;
            block_on(storage.flush())?;
        }
    }
    engine.blocking().close()?;
    say(Line::Closed)
}

fn put(storage: &StorageManager, keys: impl IntoIterator<Item = ChunkKey>) -> Result<()> {
    let specs: Vec<_> = keys.into_iter().map(spec).collect();
    let mut allocation = block_on(storage.allocate(&specs))?;
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    block_on(storage.put(allocation, &Tiers::All));
    Ok(())
}

fn is_present(storage: &StorageManager, key: ChunkKey) -> bool {
    block_on(storage.contains(&[key], &Tiers::All)).n_chunks == 1
}

/// Reads a chunk, prints the outcome, and reports whether the chunk was present.
fn get(storage: &StorageManager, number: u64) -> Result<bool> {
    let spec = spec(key(number));
    let found = block_on(storage.get(&[spec], &Tiers::All, None));
    let line = match found.chunks.first() {
        // Another thread may have removed it since it was looked up.
        None if found
            .misses
            .iter()
            .all(|missed| matches!(missed.miss.reason(), "not_found" | "phantom_hit")) =>
        {
            Line::Miss(number)
        }
        Some(chunk)
            if chunk.key() == spec.key
                && chunk.len() == spec.size_bytes
                && kvtier_cli::content::verify(spec.key, chunk).is_ok() =>
        {
            Line::Hit(number)
        }
        _ => {
            eprintln!("chunk {number}: {found:?}");
            Line::Wrong(number)
        }
    };
    say(line)?;
    Ok(!found.chunks.is_empty())
}

/// Writes a line for the parent, in one piece.
#[expect(clippy::needless_pass_by_value, reason = "a line is used once")]
fn say(line: Line) -> Result<()> {
    let text = format!("{line}\n");
    std::io::stdout().lock().write_all(text.as_bytes()).context("the parent is gone")
}

/// Watches the log for the end of the backend's scan.
#[derive(Clone, Default)]
struct Scanned(Arc<(Mutex<bool>, Condvar)>);

impl Scanned {
    fn wait(&self) {
        let (is_done, changed) = &*self.0;
        let is_done = is_done.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(is_done, |is_done| !*is_done));
    }
}

impl Write for Scanned {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        std::io::stderr().write_all(line)?;
        if String::from_utf8_lossy(line).contains(" scan: ") {
            let (is_done, changed) = &*self.0;
            *is_done.lock().unwrap_or_else(PoisonError::into_inner) = true;
            changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn open(args: &ChildArgs) -> Result<(Engine, Scanned)> {
    let scanned = Scanned::default();
    let writer = scanned.clone();
    tracing_subscriber::fmt()
        .with_env_filter("kvtier=info")
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .init();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let (file, class) = match args.backend {
        Backend::Fs => ("fs.wasm", "FsBackend"),
        Backend::Inplace => ("inplace.wasm", "InPlaceBackend"),
    };
    let component = target.join("kvtier-guests").join(file);
    ensure!(component.exists(), "{} is missing: run `cargo xtask guests` first", component.display());

    let mut disk = BackendConfig::new("disk", component, class);
    let (host_dir, guest_path) = (args.directory.clone(), "/data".to_owned());
    disk.allow.fs.push(FsGrant { host_dir, guest_path, access: FsAccess::ReadWrite });
    disk.config.extend(args.capacity.map(|bytes| ("capacity".to_owned(), bytes.to_string())));
    // A busy machine must not look like a fault.
    let patience = Duration::from_mins(2);
    disk.limits.call_timeout = patience;
    disk.limits.open_timeout = patience;
    disk.limits.lane_stall = patience;
    disk.limits.close_timeout = patience;
    let config = Config {
        chunk_size: CHUNK_SIZE,
        local_cpu: false,
        pool_size_bytes: 64 << 20,
        on_load_error: OnLoadError::Fail,
        on_full: OnFull::Wait,
        lookup_timeout: patience,
        blocking_timeout: patience,
        close_timeout: patience,
        compile_cache: CompileCache::Directory(target.join("kvtier-test-cache")),
        compiler: Compiler::Off,
        backends: vec![disk],
        ..Config::default()
    };
    let engine = EngineBuilder::new(config, metadata()).build_blocking()?;
    say(Line::Open)?;
    Ok((engine, scanned))
}
