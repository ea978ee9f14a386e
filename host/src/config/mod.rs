//! Configuration: an `LMCache`-style YAML text and environment variables become one validated [`Config`].
//!
//! The text is parsed once; what comes out needs no further checks. This module reads the configuration
//! file and the secrets that it names for the host itself, and nothing else: whether a component's file
//! exists is found out when its backend is loaded.
//!
//! The reference of all keys stands in `docs/configuration.md`.

mod backend;
mod check;
mod digest;
mod error;
mod file;
mod format;
mod hide;
mod keys;
mod lmcache;
mod messages;
mod raw;
mod read;
mod secret;
mod suggest;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cpu::EvictionPolicy;
use crate::limits;
use crate::memory::{PAGE_BYTES, PoolOptions};
pub use backend::grants::{
    EnvGrant, FsAccess, FsGrant, Grants, HttpScheme, IpNetwork, NetGrant, NetHost, PortRange,
};
pub(crate) use backend::placeholder::{Facts, OwnDirectory};
pub use backend::{BackendConfig, BackendLimits, BreakerConfig};
pub use digest::Sha256Digest;
pub use error::{ConfigError, ConfigProblem, Origin};
pub use file::open_file;
pub use hide::{secret_word, sounds_secret, without_user_parts};
pub use secret::{Secret, SecretError, SecretSource};
pub(crate) use value::size::show_size;

/// Name of the environment variable that names the configuration file.
pub const CONFIG_FILE_VARIABLE: &str = "LMCACHE_CONFIG_FILE";

/// Name of the environment variable that keeps everything from being stored.
pub const SKIP_SAVE_VARIABLE: &str = "LMCACHE_FORCE_SKIP_SAVE";

/// Holds all settings of one storage host.
///
/// Fields are public, so that a program can make a configuration without a file:
///
/// ```
/// # use kvtier::config::{BackendConfig, Config};
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
    pub chunk_size: usize,
    /// Whether the CPU tier keeps chunks. The buffer pool exists either way.
    pub local_cpu: bool,
    /// Size of the buffer pool, in bytes. With 0 the CPU tier keeps no chunks either, and the pool has what one
    /// retrieval needs at a time, see [`Config::pool_bytes`].
    pub pool_size_bytes: u64,
    /// How the system keeps the buffer pool's memory. Means nothing if the embedder brings its own.
    pub pool: PoolOptions,
    /// Which chunk the CPU tier evicts first.
    pub cache_policy: EvictionPolicy,
    /// Whether a prompt's trailing partial chunk is stored.
    pub save_unfull_chunk: bool,
    /// Whether nothing is stored, although chunks are found and served.
    pub skip_save: bool,
    /// Deadline of a lookup.
    pub lookup_timeout: Duration,
    /// Deadline of other operations of the engine.
    pub blocking_timeout: Duration,
    /// How long a pin holds.
    pub pin_timeout: Duration,
    /// What happens when a valid backend cannot be loaded.
    pub on_load_error: OnLoadError,
    /// What happens to a put when a backend's queue is full.
    pub on_full: OnFull,
    /// Key that seals chunks against hostile backends; a checksum against accidents is used without it.
    pub integrity_key: Option<Secret>,
    /// Where compiled components are kept.
    pub compile_cache: CompileCache,
    /// Whether components that are not in that cache are compiled.
    pub compile: CompilePolicy,
    /// The program that compiles them.
    pub compiler: Compiler,
    /// What compiling one component may take.
    pub compile_limits: CompileLimits,
    /// Threads that run backends.
    pub lane_threads: usize,
    /// Time that closing allows each backend to store what is queued, and again to close.
    pub close_timeout: Duration,
    /// The backends behind the CPU tier, in search order.
    pub backends: Vec<BackendConfig>,
    /// Things to log at info level, such as keys of `LMCache` that have no meaning here.
    pub notes: Vec<String>,
    /// Things to log as warnings, such as unknown keys.
    pub warnings: Vec<String>,
}

/// Chooses where compiled components are kept from one start to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CompileCache {
    /// `kvtier` in the user's cache directory (`$XDG_CACHE_HOME`, or `.cache` in `$HOME`); nowhere without these.
    #[default]
    User,
    /// In this directory, which must belong to the user and which others cannot write to.
    Directory(PathBuf),
    /// Nowhere.
    Off,
}

/// Chooses whether components are compiled when they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CompilePolicy {
    /// Those that are not in the cache are compiled.
    #[default]
    Auto,
    /// None: what is not in the cache is not loaded.
    CachedOnly,
}

/// Chooses the program that compiles components.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// The first `kvtier` in the absolute directories of `PATH`. If there is none, this process compiles.
    #[default]
    OnPath,
    /// This program, which must be a `kvtier` of the same version.
    Program(PathBuf),
    /// None: this process compiles, without limits.
    Off,
}

/// What compiling one component may take. Holds for a compiler of its own process only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Address space of the compiler, in bytes.
    pub memory_bytes: u64,
    /// Time of all its threads on a processor, in whole seconds.
    pub cpu: Duration,
    /// Time until it must have ended.
    pub timeout: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory_bytes: limits::COMPILE_MEMORY_BYTES.default,
            cpu: limits::COMPILE_CPU_SECS.default_secs(),
            timeout: limits::COMPILE_TIMEOUT_MS.default_ms(),
        }
    }
}

/// Chooses what happens when a valid backend cannot be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnLoadError {
    /// The other tiers run, and the backend is tried again in the background.
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

impl Default for Config {
    fn default() -> Self {
        Self {
            chunk_size: limits::CHUNK_SIZE_TOKENS.default as usize,
            local_cpu: true,
            pool_size_bytes: limits::POOL_SIZE_BYTES.default,
            pool: PoolOptions::default(),
            cache_policy: EvictionPolicy::default(),
            save_unfull_chunk: false,
            skip_save: false,
            lookup_timeout: limits::LOOKUP_TIMEOUT_MS.default_ms(),
            blocking_timeout: limits::BLOCKING_TIMEOUT_SECS.default_secs(),
            pin_timeout: limits::PIN_TIMEOUT_SECS.default_secs(),
            on_load_error: OnLoadError::default(),
            on_full: OnFull::default(),
            integrity_key: None,
            compile_cache: CompileCache::default(),
            compile: CompilePolicy::default(),
            compiler: Compiler::default(),
            compile_limits: CompileLimits::default(),
            lane_threads: default_lane_threads(),
            close_timeout: limits::CLOSE_TIMEOUT_MS.default_ms(),
            backends: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

fn default_lane_threads() -> usize {
    let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
    parallelism.min(limits::LANE_THREADS.default as usize)
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
        (limits::GET_BYTES_IN_FLIGHT_MAX as u64)
            .saturating_add(chunk_bytes.max(limits::BATCH_BYTES_MAX as u64))
    }

    /// Reads a configuration file; variables of the process environment override its keys. Relative paths in
    /// it are taken from its directory.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_file_with_env(path, process_environment()?)
    }

    /// Reads a configuration file as [`Config::from_file`] does, with the given environment.
    pub fn from_file_with_env(
        path: impl AsRef<Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let origin = Origin::File(path.to_owned());
        let text = raw::read_file(path, &origin)?;
        // Absolute, because a backend may be loaded again after the process has changed its directory.
        let absolute = std::path::absolute(path)
            .map_err(|reason| ConfigError::new(&origin, ConfigProblem::Unreadable { reason }))?;
        let base_dir = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, &origin, base_dir, &env.into_iter().collect())
    }

    /// Reads a configuration text; variables of `env` override its keys. Relative paths in it are taken from
    /// `base_dir`. An empty text gives the defaults.
    pub fn from_yaml(
        text: &str,
        base_dir: impl AsRef<Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Self::parse(text, &Origin::Text, base_dir.as_ref(), &env.into_iter().collect())
    }

    /// Reads the file that `LMCACHE_CONFIG_FILE` names, or without it the variables of the process
    /// environment alone; relative paths are then taken from the working directory.
    pub fn from_env() -> Result<Self, ConfigError> {
        match config_file_from_env() {
            Some(path) => Self::from_file(path),
            None => Self::from_yaml("", "", process_environment()?),
        }
    }
}

/// Returns the path that `LMCACHE_CONFIG_FILE` gives, if it is set and not empty.
#[must_use]
pub fn config_file_from_env() -> Option<PathBuf> {
    std::env::var_os(CONFIG_FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Returns the process environment. Other variables than `LMCache`'s may have any bytes, and are then left
/// out.
fn process_environment() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            // A path may have any bytes.
            Err(_) if name == CONFIG_FILE_VARIABLE => {}
            Err(_) if name.starts_with(keys::VARIABLE_PREFIX) => {
                return Err(ConfigError::new(&Origin::Variable(name), ConfigProblem::NotUnicode));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}
