//! Engines over real components, and chunks in them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use kvtier::{
    BackendConfig, ChunkKey, ChunkSpec, CompileCache, Compiler, Config, Engine, EngineBuilder, FsAccess,
    FsGrant, Missing, OnFull, OnLoadError, Tiers, block_on,
};

use crate::bench::Setting;
use crate::parts::keys::metadata;
use crate::sample::once;

/// A configuration in which nothing is dropped silently, with the hot cache on.
pub(crate) fn config(setting: &Setting, backends: Vec<BackendConfig>, pool_bytes: usize) -> Config {
    Config {
        chunk_size: 16,
        pool_size_bytes: pool_bytes as u64,
        on_full: OnFull::Wait,
        on_load_error: OnLoadError::Fail,
        compile_cache: CompileCache::Directory(setting.scratch.join("compiled")),
        compiler: Compiler::Off,
        blocking_timeout: Duration::from_mins(1),
        backends,
        ..Config::default()
    }
}

/// Builds an engine.
pub(crate) fn engine(config: Config) -> Result<Engine> {
    Ok(EngineBuilder::new(config, metadata(16)?).build_blocking()?)
}

/// A backend of a component that `cargo xtask guests` has built.
pub(crate) fn backend(
    setting: &Setting,
    name: &str,
    (component, class_name): (&str, &str),
    settings: &[(&str, &str)],
) -> Result<BackendConfig> {
    let path = setting.guests.join(format!("{component}.wasm"));
    ensure!(path.exists(), "{} is missing: run `cargo xtask guests` first", path.display());
    let mut config = BackendConfig::new(name, path, class_name);
    config.config = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    config.limits.memory_bytes = 1 << 30;
    config.limits.call_timeout = Duration::from_secs(30);
    Ok(config)
}

/// The `memory` backend.
pub(crate) fn memory(setting: &Setting) -> Result<BackendConfig> {
    backend(setting, "memory", ("memory", "MemoryBackend"), &[("capacity", "512MiB")])
}

/// The `log` backend under a name.
pub(crate) fn log(setting: &Setting, name: &str) -> Result<BackendConfig> {
    backend(setting, name, ("log", "ExternalLogBackend"), &[("level", "debug")])
}

/// The `fs` backend in a directory, with more settings.
pub(crate) fn fs(setting: &Setting, directory: &Path, settings: &[(&str, &str)]) -> Result<BackendConfig> {
    let mut config = backend(setting, "fs", ("fs", "FsBackend"), settings)?;
    let (host_dir, guest_path) = (directory.to_owned(), "/data".to_owned());
    config.allow.fs.push(FsGrant { host_dir, guest_path, access: FsAccess::ReadWrite });
    config.config.push(("root".into(), "/data".into()));
    Ok(config)
}

/// Returns the chunks of those keys, all of one size.
pub(crate) fn specs(keys: &[ChunkKey], size_bytes: usize) -> Vec<ChunkSpec> {
    keys.iter().map(|&key| ChunkSpec { key, size_bytes }).collect()
}

/// Stores chunks and returns the seconds until the tiers have them, without the time for filling.
///
/// # Panics
/// If there is no room for a chunk, or a backend does not take it.
pub(crate) fn store(engine: &Engine, keys: &[ChunkKey], size_bytes: usize, tiers: &Tiers) -> f64 {
    let storage = engine.storage();
    let allocated = block_on(storage.allocate(&specs(keys, size_bytes)));
    let mut allocation = allocated.expect("the chunks are not larger than the pool");
    assert_eq!(allocation.n_missing(), keys.len(), "the pool has room for them, and none is present yet");
    for Missing { key, bytes, .. } in allocation.missing() {
        bytes.fill(key.lo as u8);
    }
    once(|| {
        block_on(storage.put(allocation, tiers));
        block_on(engine.storage().flush()).expect("the backend takes them");
    })
}
