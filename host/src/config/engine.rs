//! The settings of the engine: `LMCache`'s top-level keys and those under `kvtier.`.

use std::path::PathBuf;
use std::time::Duration;

use super::backend::BackendConfig;
use super::error::{ConfigError, ConfigProblem};
use super::format::Node;
use super::kind::{Word, boolean, count, gib, millis, other, secs, size, word};
use super::secret::{SECRET_FORM, Secret, SecretError, SecretSource};
use super::setting::{Blank, Context, settings, table};
use super::value::RawSetting;
use crate::cpu::EvictionPolicy;
use crate::limits::{
    BATCH_BYTES_MAX, DAY_MS, DAY_SECS, GET_BYTES_IN_FLIGHT_MAX, GIB, HOUR_MS, INTEGRITY_KEY_BYTES_MIN, KIB,
    MIB,
};
use crate::memory::{HugePages, PAGE_BYTES, PoolOptions};

settings! {
    /// All settings of one storage host.
    ///
    /// Fields are public, so that a program can make a configuration without a file:
    ///
    /// ```
    /// # use kvtier::{BackendConfig, Config};
    /// let config = Config {
    ///     chunk_size: 64,
    ///     backends: vec![BackendConfig::new("log", "backends/log.wasm", "ExternalLogBackend")],
    ///     ..Config::default()
    /// };
    /// config.validate().expect("a valid configuration");
    /// ```
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Config {
        /// Tokens of a chunk.
        chunk_size: usize = count("chunk_size", 256, 1..=1 << 20),
        /// Whether the CPU tier keeps chunks. The buffer pool exists either way.
        local_cpu: bool = boolean("local_cpu", true),
        /// Size of the buffer pool in bytes: one page of 4 KiB or more. With 0 the CPU tier also keeps no chunks, and
        /// the pool has the memory that one retrieval needs at a time, see [`Config::pool_bytes`].
        pool_size_bytes: u64 = gib("max_local_cpu_size", 5 * GIB, 4 * KIB..=4096 * GIB),
        /// Which chunk the CPU tier evicts first.
        cache_policy: EvictionPolicy = word("cache_policy", EvictionPolicy::Lru),
        /// Whether a prompt's trailing partial chunk is stored.
        save_unfull_chunk: bool = boolean("save_unfull_chunk", false),
        /// Time limit of a lookup.
        lookup_timeout: Duration = millis("lookup_timeout_ms", 3_000, 1..=DAY_MS),
        /// Time limit of other operations of the engine.
        blocking_timeout: Duration = secs("blocking_timeout_secs", 10, 1..=DAY_SECS),
        /// How long a pin holds.
        pin_timeout: Duration = secs("pin_timeout_sec", 300, 1..=DAY_SECS),
        /// What happens when a valid backend cannot be loaded.
        on_load_error: OnLoadError = word("kvtier.on_load_error", OnLoadError::Continue),
        /// What happens to a put when a backend's queue is full.
        on_full: OnFull = word("kvtier.on_full", OnFull::Drop),
        /// Most bytes that wait in the put queues of all backends, or are being stored from them; each backend has an
        /// equal share. With 0, a quarter of the buffer pool.
        put_queue_bytes: u64 = size("kvtier.put_queue_bytes", 0, 0..=1024 * GIB),
        /// The key that seals chunks against hostile backends. Without it, a checksum detects accidents.
        integrity_key: Option<Secret> =
            other("kvtier.integrity_key", None, Blank::Refused, read_integrity_key, |key| match key {
                None => "none".to_owned(),
                Some(secret) => format!("{} bytes", secret.len_bytes()),
            }),
        /// The place of compiled components.
        compile_cache: CompileCache =
            other("kvtier.compile_cache", CompileCache::User, Blank::Refused, read_compile_cache, |cache| match cache {
                CompileCache::User => "kvtier in the user's cache directory".to_owned(),
                CompileCache::Directory(path) => path.display().to_string(),
                CompileCache::Off => "off".to_owned(),
            }),
        /// Threads that run backends. The default is lowered to the machine's parallelism.
        lane_threads: usize = count("kvtier.lane_threads", 4, 1..=256).lowered(|threads| {
            threads.min(std::thread::available_parallelism().map_or(1, usize::from))
        }),
        /// Time limit for closing each backend: to store its queued chunks, and again to close.
        close_timeout: Duration = millis("kvtier.close_timeout_ms", 5_000, 1..=HOUR_MS),
        /// Whether components that are not in the cache are compiled.
        compile: CompilePolicy = word("kvtier.compile", CompilePolicy::Auto),
        /// Whether guests' traps are caught by signal handlers of the process. If other code of the process may replace
        /// them, as Python's `faulthandler.enable()` does, turn it off: otherwise the next trap ends the process.
        signal_handlers: bool = boolean("kvtier.signal_handlers", true),
        /// The program that compiles them.
        compiler: Compiler =
            other("kvtier.compiler", Compiler::OnPath, Blank::Refused, read_compiler, |compiler| match compiler {
                Compiler::OnPath => "kvtier on PATH".to_owned(),
                Compiler::Program(path) => path.display().to_string(),
                Compiler::Command { program, arguments } => {
                    arguments.iter().fold(program.display().to_string(), |line, word| line + " " + word)
                }
                Compiler::Off => "off".to_owned(),
            }),
    }
    beside {
        /// Limits for compiling one component.
        compile_limits: CompileLimits = CompileLimits::default(),
        /// How the system keeps the buffer pool's memory. Ignored if the embedder supplies the memory.
        pool: PoolOptions = PoolOptions::default(),
        /// Whether no chunks are stored, although they are found and served.
        skip_save: bool = false,
        /// The backends behind the CPU tier, in search order.
        backends: Vec<BackendConfig> = Vec::new(),
    }
}

settings! {
    /// Limits for compiling one component. They apply only to a compiler in a separate process.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CompileLimits {
        /// Address space of the compiler, in bytes.
        memory_bytes: u64 = size("kvtier.compile_memory", 4 * GIB, 64 * MIB..=1024 * GIB),
        /// Processor time of all its threads together, in whole seconds.
        cpu: Duration = secs("kvtier.compile_cpu_secs", 300, 1..=DAY_SECS),
        /// Time limit.
        timeout: Duration = millis("kvtier.compile_timeout_ms", 600_000, 1..=HOUR_MS),
    }
}

table! {
    PoolOptions {
        huge_pages: HugePages = word("kvtier.pool.huge_pages", HugePages::Off),
        mlock: bool = boolean("kvtier.pool.mlock", false),
        prefault: bool = boolean("kvtier.pool.prefault", false),
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self::with_defaults()
    }
}

/// Where compiled components are kept between starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CompileCache {
    /// `kvtier` in the user's cache directory (`$XDG_CACHE_HOME`, or `.cache` in `$HOME`); nowhere without these.
    #[default]
    User,
    /// In this directory, which must belong to the user and must not be writable by others.
    Directory(PathBuf),
    /// Nowhere.
    Off,
}

/// How components are compiled when they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CompilePolicy {
    /// Components that are not in the cache are compiled.
    #[default]
    Auto,
    /// No component is compiled; one that is not in the cache is not loaded.
    CachedOnly,
}

/// The program that compiles components.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// The first `kvtier` in the absolute directories of `PATH`. If there is none, this process compiles.
    #[default]
    OnPath,
    /// This program, which must be a `kvtier` of the same version.
    Program(PathBuf),
    /// This command, to which kvtier's arguments are appended: for a host that contains the compiler itself, such as
    /// the Python package. It is run without an environment, in the root directory.
    Command {
        /// The program.
        program: PathBuf,
        /// Its first arguments.
        arguments: Vec<String>,
    },
    /// None: this process compiles, without limits.
    Off,
}

/// Chooses what happens when a valid backend cannot be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnLoadError {
    /// The other tiers run, and the backend is retried in the background.
    #[default]
    Continue,
    /// Start fails.
    Fail,
}

/// Chooses what happens to a put when a backend's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnFull {
    /// The put is dropped and counted.
    #[default]
    Drop,
    /// The put waits, within the deadline of its operation.
    Wait,
}

impl Word for OnLoadError {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("continue", Self::Continue), ("fail", Self::Fail)]
    }
}

impl Word for OnFull {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("drop", Self::Drop), ("wait", Self::Wait)]
    }
}

impl Word for CompilePolicy {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("auto", Self::Auto), ("cached_only", Self::CachedOnly)]
    }
}

impl Word for EvictionPolicy {
    fn words() -> Vec<(&'static str, Self)> {
        Self::ALL.iter().map(|&policy| (policy.name(), policy)).collect()
    }
}

impl Word for HugePages {
    fn words() -> Vec<(&'static str, Self)> {
        [Self::Off, Self::Transparent, Self::Explicit].map(|pages| (pages.name(), pages)).to_vec()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::with_defaults()
    }
}

impl Config {
    /// Returns how large the buffer pool is for chunks of `chunk_bytes`: `pool_size_bytes`, or if that is 0, what one
    /// retrieval has in flight at a time.
    #[must_use]
    pub fn pool_bytes(&self, chunk_bytes: u64) -> u64 {
        if self.pool_size_bytes > 0 {
            return self.pool_size_bytes;
        }
        let chunk_bytes = chunk_bytes.checked_next_multiple_of(PAGE_BYTES as u64).unwrap_or(u64::MAX);
        // The first batch goes beyond the bound on bytes in flight, and has at least one chunk.
        (GET_BYTES_IN_FLIGHT_MAX as u64).saturating_add(chunk_bytes.max(BATCH_BYTES_MAX as u64))
    }
}

fn read_compile_cache(raw: &RawSetting, context: &Context<'_>) -> Result<CompileCache, ConfigError> {
    let path = raw.text("the path of a directory, or off")?;
    let is_off = path.eq_ignore_ascii_case("off");
    Ok(if is_off { CompileCache::Off } else { CompileCache::Directory(context.base_dir.join(path)) })
}

fn read_compiler(raw: &RawSetting, context: &Context<'_>) -> Result<Compiler, ConfigError> {
    let path = raw.text("the path of a program, or off")?;
    let is_off = path.eq_ignore_ascii_case("off");
    Ok(if is_off { Compiler::Off } else { Compiler::Program(context.base_dir.join(path)) })
}

fn read_integrity_key(raw: &RawSetting, context: &Context<'_>) -> Result<Option<Secret>, ConfigError> {
    let source = match &raw.value {
        Node::Text(text) => SecretSource::parse(text, context.base_dir),
        _ => None,
    };
    let source = source.ok_or_else(|| raw.wrong_hidden(SECRET_FORM))?;
    let min = INTEGRITY_KEY_BYTES_MIN;
    source
        .resolve_with(|name| context.environment.get(name).map(Into::into))
        .and_then(|secret| match secret.len_bytes() {
            found if found < min => Err(SecretError::TooShort { place: source.to_string(), found, min }),
            _ => Ok(Some(secret)),
        })
        .map_err(|reason| raw.refuse(ConfigProblem::Secret { key: raw.key.clone(), reason }))
}
