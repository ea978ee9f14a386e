//! Shared by the tests: an engine over real components, with small chunks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvtier::{
    BackendConfig, ChunkKey, ChunkSpec, CompileCache, Compiler, Config, Dtype, Engine, EngineBuilder,
    EngineMetadata, KvShape, Lookup, Miss, Missing, OnFull, OnLoadError, Retrieved, Served, StorageManager,
    Stored, TierIndex, Tiers, block_on,
};

/// Tokens of a chunk in the tests' engines.
pub const CHUNK_SIZE: usize = 16;

/// The time limit of operations that are expected to end, however busy the machine is. It only keeps a failing test
/// from hanging.
pub const FOR_EVER: Duration = Duration::from_mins(10);

/// The time limit of calls that are expected to expire. Calls that succeed share it, so it is long compared with a call
/// on a busy machine, and tests wait for it side by side where they can.
pub const EXPIRES: Duration = Duration::from_secs(4);

/// Payload of a full chunk: 2 layers × 2 × 16 tokens × 2 heads × 8 × 2 bytes.
pub const CHUNK_BYTES: usize = 2048;

/// Fits a configuration to tests: `program` compiles its components.
pub fn compiled_by(program: &Path) -> impl Fn(&mut Config) {
    let program = program.to_owned();
    move |config| config.compiler = Compiler::Program(program.clone())
}

/// Returns the path of the `kvtier` command that cargo builds for tests and benches, one folder above the tests.
pub fn kvtier_program() -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let mut paths = own.ancestors().skip(1).take(2).map(|folder| folder.join("kvtier-under-test"));
    let path = paths.find(|path| path.exists());
    path.unwrap_or_else(|| {
        panic!("kvtier-under-test is missing near {}: run the tests with cargo", own.display())
    })
}

/// Returns the `kvtier` command with an empty environment.
pub fn kvtier() -> std::process::Command {
    let mut command = std::process::Command::new(kvtier_program());
    command.env_clear().stdin(std::process::Stdio::null());
    command
}

fn target() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// Returns the path of a component that `cargo xtask guests` has built.
pub fn component(name: &str) -> PathBuf {
    let folder = target().join("kvtier-guests");
    let path = folder.join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `cargo xtask guests` first", path.display());
    path
}

/// Returns the folder in which the tests keep compiled components.
pub fn compile_cache() -> PathBuf {
    target().join("kvtier-test-cache")
}

/// Returns a backend of the tests' components. Its time limits are far above the needs of a busy machine.
pub fn backend(name: &str, component_name: &str, class_name: &str) -> BackendConfig {
    patient(BackendConfig::new(name, component(component_name), class_name))
}

/// Gives a backend unlimited time.
pub fn patient(mut backend: BackendConfig) -> BackendConfig {
    let limits = &mut backend.limits;
    for limit in [
        &mut limits.call_timeout,
        &mut limits.open_timeout,
        &mut limits.close_timeout,
        &mut limits.lane_stall,
        &mut limits.connect_timeout,
        &mut limits.tls_timeout,
        &mut limits.request_timeout,
    ] {
        *limit = FOR_EVER;
    }
    backend
}

/// Returns a class of the misbehaving component, with settings for its constructor.
pub fn misbehaving(name: &str, class_name: &str, settings: &[(&str, &str)]) -> BackendConfig {
    let mut config = backend(name, "misbehaving", class_name);
    config.config = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    config
}

/// Returns the settings that give a backend unlimited time, as lines of a configuration that begin with `before`.
pub fn patient_lines(before: &str) -> String {
    let names =
        ["call", "open", "close", "connect", "tls", "request"].map(|name| format!("{name}_timeout_ms"));
    let names = names.into_iter().chain(["lane_stall_ms".to_owned()]);
    let lines: Vec<_> =
        names.map(|name| format!("{before}limits.{name}: {}\n", FOR_EVER.as_millis())).collect();
    lines.concat()
}

/// Returns a configuration of the examples, with unlimited time.
pub fn patient_example(text: &str) -> String {
    const LIMIT: &str = "limits.call_timeout_ms: 10000";
    assert!(text.contains(LIMIT), "{text}");
    let seconds = FOR_EVER.as_secs();
    let lines = text.lines().map(|line| match line.strip_suffix(LIMIT) {
        Some(before) => patient_lines(before),
        None => format!("{line}\n"),
    });
    lines.chain([format!("lookup_timeout_ms: {seconds}000\nblocking_timeout_secs: {seconds}\n")]).collect()
}

/// Returns the `fs` backend in a directory.
pub fn fs(name: &str, directory: &std::path::Path) -> BackendConfig {
    use kvtier::{FsAccess, FsGrant};
    let mut config = backend(name, "fs", "FsBackend");
    let (host_dir, guest_path) = (directory.to_owned(), "/data".to_owned());
    config.allow.fs.push(FsGrant { host_dir, guest_path, access: FsAccess::ReadWrite });
    config.config.push(("root".into(), "/data".into()));
    config
}

/// Returns a configuration with a pool for 64 chunks of one 4 KiB page, in which nothing is dropped silently.
pub fn config(backends: Vec<BackendConfig>) -> Config {
    Config {
        chunk_size: CHUNK_SIZE,
        pool_size_bytes: 64 * 4096,
        on_load_error: OnLoadError::Fail,
        on_full: OnFull::Wait,
        compile_cache: CompileCache::Directory(compile_cache()),
        compiler: Compiler::Program(kvtier_program()),
        lookup_timeout: FOR_EVER,
        blocking_timeout: FOR_EVER,
        close_timeout: FOR_EVER,
        backends,
        ..Config::default()
    }
}

/// Returns the metadata of a small model.
pub fn metadata() -> EngineMetadata {
    EngineMetadata {
        model_name: "test-model".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([2, 2, CHUNK_SIZE as u32, 2, 8]).unwrap(),
    }
}

/// Builds an engine, and waits until its components are compiled and each backend is open or has failed.
pub fn engine(config: Config) -> Engine {
    let engine = EngineBuilder::new(config, metadata()).build_blocking().unwrap();
    compiled(&engine);
    engine
}

/// Waits until no backend of an engine is being compiled or started.
pub fn compiled(engine: &Engine) {
    const UNDER_WAY: [&str; 2] = ["its component is being compiled", "being started"];
    eventually("what has to be compiled is compiled", || {
        let is_settled =
            |down: &Option<String>| down.as_deref().is_none_or(|down| !UNDER_WAY.contains(&down));
        engine.storage().status().backends.iter().all(|backend| is_settled(&backend.health.down))
    });
}

/// Returns the first `n` keys.
pub fn keys(n: u64) -> Vec<ChunkKey> {
    (0..n).map(key).collect()
}

/// Returns the `n`th key.
pub fn key(n: u64) -> ChunkKey {
    ChunkKey { hi: 0xabcd_0000 + n, lo: n }
}

/// Returns a full chunk of that key.
pub fn spec(key: ChunkKey) -> ChunkSpec {
    ChunkSpec { key, size_bytes: CHUNK_BYTES }
}

/// Returns full chunks of those keys.
pub fn specs(keys: &[ChunkKey]) -> Vec<ChunkSpec> {
    keys.iter().copied().map(spec).collect()
}

/// Stores chunks whose bytes follow from their keys.
pub fn put(storage: &StorageManager, keys: &[ChunkKey], tiers: &Tiers) -> Stored {
    let mut allocation = block_on(storage.allocate(&specs(keys))).unwrap();
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    block_on(storage.put(allocation, tiers))
}

/// Stores chunks in one backend only, with the same bytes as [`put`], and waits until it has them.
pub fn put_in(storage: &StorageManager, keys: &[ChunkKey], tier: &str) {
    put(storage, keys, &Tiers::only([tier]));
    block_on(storage.flush()).unwrap();
}

/// Retrieves chunks and checks every byte.
pub fn get(storage: &StorageManager, keys: &[ChunkKey]) -> Retrieved {
    let retrieved = block_on(storage.get(&specs(keys), &Tiers::All, None));
    for (chunk, key) in retrieved.chunks.iter().zip(keys) {
        assert_eq!(chunk.key(), *key);
        assert_eq!(chunk.len(), CHUNK_BYTES);
        kvtier_cli::content::verify(*key, chunk).unwrap();
    }
    retrieved
}

/// Returns the misses: position, tier and reason.
pub fn misses(retrieved: &Retrieved) -> Vec<(usize, TierIndex, Miss)> {
    retrieved.misses.iter().map(|missed| (missed.position, missed.tier, missed.miss.clone())).collect()
}

/// Returns the places in the chain of the tiers that served.
pub fn served(retrieved: &Retrieved) -> Vec<usize> {
    retrieved.tiers.iter().map(|tier| tier.0).collect()
}

/// Collects the log lines of backends.
#[derive(Clone, Default)]
pub struct Log(Arc<std::sync::Mutex<Vec<String>>>);

impl Log {
    /// Returns all lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Returns the lines that contain `text`.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(text)).collect()
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = LogLine;
    fn make_writer(&self) -> LogLine {
        LogLine(self.clone(), Vec::new())
    }
}

/// A line being written.
pub struct LogLine(Log, Vec<u8>);

impl std::io::Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let line = String::from_utf8_lossy(&self.1).trim().to_owned();
        self.0.0.lock().unwrap().push(line);
    }
}

/// Collects everything that this process logs in one log, which tests filter by their backend's name.
pub fn log() -> Log {
    static LOG: std::sync::OnceLock<Log> = std::sync::OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false)
            .with_env_filter("kvtier=debug")
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    })
    .clone()
}

impl Log {
    /// Returns a backend's log lines, without time and name.
    pub fn heard(&self, backend: &str) -> Vec<String> {
        let end = format!(" backend={backend}");
        let lines = self.lines();
        let of_backend = lines.iter().filter_map(|line| {
            let (_, message) = line.split_once("kvtier::backend: ")?;
            message.strip_suffix(&end).map(str::to_owned)
        });
        of_backend.collect()
    }

    /// Waits until an `fs` backend has scanned its directory `n_times`, and returns its last report.
    pub fn scanned(&self, backend: &str, n_times: usize) -> String {
        let scans = || self.heard(backend).into_iter().filter(|line| line.starts_with("scan: "));
        eventually("the directory is scanned", || scans().count() >= n_times);
        scans().next_back().unwrap()
    }

    /// Returns the operations that a `GoodBackend` has received, without their keys.
    pub fn operations(&self, backend: &str) -> Vec<String> {
        let first_word = |line: String| line.split(' ').next().unwrap_or_default().to_owned();
        self.heard(backend).into_iter().map(first_word).collect()
    }
}

/// Returns the configuration of [`config`] with backends of the `memory` component, by name.
pub fn memories(names: &[&str]) -> Config {
    config(names.iter().map(|name| backend(name, "memory", "MemoryBackend")).collect())
}

/// Returns how many of `keys`, counted from the first, are in one tier.
pub fn in_tier(storage: &StorageManager, keys: &[ChunkKey], tier: &str) -> usize {
    block_on(storage.contains(keys, &Tiers::only([tier]))).n_chunks
}

/// Returns the result of a lookup that found the first `n_chunks` in the tier at a place of the chain.
pub fn promise(tier: usize, n_chunks: usize) -> Lookup {
    let mut lookup = Lookup::default();
    lookup.n_chunks = n_chunks;
    lookup.served = vec![Served { tier: TierIndex(tier), range: 0..n_chunks }];
    lookup
}

/// Returns the runs of a lookup as places in the chain and lengths.
pub fn runs(lookup: &Lookup) -> Vec<(usize, usize)> {
    lookup.served.iter().map(|served| (served.tier.0, served.range.len())).collect()
}

/// Returns how many chunks hold memory of the pool.
pub fn chunks_in_memory(storage: &StorageManager) -> usize {
    storage.status().cpu.allocated_bytes / 4096
}

/// Returns the counters of the tier at a place of the chain.
pub fn counts_at(storage: &StorageManager, tier: usize) -> kvtier::TierCounts {
    storage.counts().swap_remove(tier)
}

/// Waits until `done`, for a minute at most: for effects in the background that nothing signals.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Empties the CPU tier and waits until every byte of the pool is back, wherever it was lent to.
pub fn assert_nothing_leaks(storage: &StorageManager) {
    let cpu = storage.cpu();
    let deadline = Instant::now() + Duration::from_mins(1);
    block_on(storage.flush()).unwrap();
    loop {
        let mut waiter = cpu.waiter();
        cpu.clear();
        let stats = cpu.stats();
        if stats.allocated_bytes == 0 {
            break;
        }
        assert!(waiter.wait_until(deadline), "memory does not come back: {stats:?}");
    }
    cpu.check().unwrap();
}

/// Returns the status that a backend reports.
pub fn health(storage: &StorageManager, name: &str) -> kvtier::tier::TierHealth {
    let status = storage.status();
    status.backends.into_iter().find(|backend| backend.name == name).unwrap().health
}

/// Returns the counters of the tier with this name.
pub fn counted(storage: &StorageManager, name: &str) -> kvtier::TierCounts {
    storage.counts().into_iter().find(|counts| counts.name == name).unwrap()
}

/// Returns where a backend's code came from, according to its status.
pub fn code(engine: &Engine, name: &str) -> String {
    let notes = health(engine.storage(), name).notes;
    notes.into_iter().find(|note| note.name == "code").expect("a note").value
}
