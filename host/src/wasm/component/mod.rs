//! Components: reading their files, compiling them in a separate process, and the cache of compiled code.
//!
//! [`Loader`] makes a component of a path. It first reads the file and compares its digest with the pinned one
//! ([`read`]). Code comes from the [`cache`] or from a compiler: [`child`] starts it, [`compiler`] runs in it, and
//! [`protocol`] is how they talk. Code is always an entry of [`code`], which records what it belongs to. Only the host
//! writes to the cache.

mod cache;

mod code;
mod compile;
mod compiler;
mod error;

mod read;
mod turns;
mod weight;

use std::io::PipeReader;
use std::path::Path;
use std::time::Instant;

pub use cache::default_cache_directory;
pub use compiler::COMPILER_COMMAND;
pub use compiler::{CodeOrigin, Compilation};
pub use compiler::{compile_one, limit_process};
pub use error::{CompileLimit, ComponentError};
pub(super) use read::Source;
pub use read::{digest_of, read_component};
use wasmtime::Engine;
use wasmtime::component::Component;

use self::cache::{Cache, CacheMiss};
use self::code::{CachedCode, Fingerprint, Identity};
use self::compile::NoCode;
use self::compiler::child;
use self::turns::{NoTurn, Turns};
use super::CONTRACT_VERSION;
use super::cpu_time::CpuTime;
use super::engine::engine_config;
use crate::config::{CompileCache, CompilePolicy, Sha256Digest};
use crate::limits::{COMPONENT_INSTANCES_MAX, EXPORTS_MAX, INSTANCE_ITEMS_MAX};
use crate::text::foreign_text;

/// A component, ready to be linked.
pub(super) struct Loaded {
    pub(super) component: Component,
    pub(super) digest: Sha256Digest,
    pub(super) origin: CodeOrigin,
    pub(super) component_bytes: u64,
    code_bytes: u64,
    /// Why the code is not in the cache, if it is not.
    not_kept: Option<String>,
}

/// Receives the progress of a load.
pub(super) struct Progress<'a> {
    /// Called when the component has to be compiled, which may take minutes. The compiler ends when the other end of
    /// the returned pipe is closed.
    pub(super) compiling: &'a dyn Fn() -> Option<PipeReader>,
    /// Receives an upper bound of the processor time of compiling: the time of all threads that a compiler may have.
    pub(super) cpu_time: &'a CpuTime,
}

/// Loads components for one engine.
pub(super) struct Loader {
    engine: Engine,
    compilation: Compilation,
    turns: Turns,
}

impl Loader {
    pub(super) fn new(engine: Engine, compilation: Compilation) -> Self {
        Self { engine, compilation, turns: Turns::default() }
    }

    pub(super) fn compilation(&self) -> &Compilation {
        &self.compilation
    }

    /// Makes the threads that wait for their turn to compile check whether they were cancelled.
    pub(super) fn wake(&self) {
        self.turns.wake();
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads a component: reads it, checks the pin, weighs it, and takes its code from the cache or compiles it. A
    /// cache that cannot be used is logged. It is an error only if code may come from nowhere else.
    pub(super) fn load(
        &self,
        path: &Path,
        max_bytes: u64,
        pinned: Option<&Sha256Digest>,
    ) -> Result<Loaded, ComponentError> {
        let no_progress = Progress { compiling: &|| None, cpu_time: &CpuTime::default() };
        self.load_with_progress(path, max_bytes, pinned, &no_progress)
    }

    /// As [`Loader::load`], and reports progress.
    pub(super) fn load_with_progress(
        &self,
        path: &Path,
        max_bytes: u64,
        pinned: Option<&Sha256Digest>,
        progress: &Progress<'_>,
    ) -> Result<Loaded, ComponentError> {
        let source = Source::read(path, max_bytes, pinned)?;
        // Before it is compiled: parts that instantiation multiplies are costly for the compiler too.
        ensure_light(path, &source)?;
        let identity = Identity { engine: Fingerprint::of(&self.engine), component: source.digest };
        let cache = self.compilation.open_cache();
        let miss = match self.cached(&cache, &identity, &source) {
            Ok(loaded) => return self.checked(loaded, path),
            Err(miss) => miss,
        };
        if self.compilation.policy == CompilePolicy::CachedOnly {
            return Err(ComponentError::NotCached { path: path.into(), cause: miss.cause(&cache, &source) });
        }
        miss.log(&self.compilation.cache);
        let cancel = (progress.compiling)();
        let turn = self.turns.wait(source.digest, cancel.as_ref()).map_err(|no_turn| match no_turn {
            NoTurn::Unservable(unservable) => unservable.error(path),
            NoTurn::Cancelled => ComponentError::Cancelled { path: path.into() },
        })?;
        // Another backend may have had the same component compiled in the meantime.
        if let Ok(loaded) = self.cached(&cache, &identity, &source) {
            return self.checked(loaded, path);
        }
        let started = Instant::now();
        let compiled = self.compile(path, &source, &identity, cancel.as_ref());
        progress.cpu_time.add(started.elapsed().saturating_mul(child::n_threads()));
        let (entry, origin) = compiled.map_err(|no_code| match no_code {
            NoCode::Other(error) => error,
            NoCode::Unservable(cause) => turn.give_up(cause).error(path),
        })?;
        let component =
            entry.component(&self.engine).map_err(|error| ComponentError::invalid(path, &error))?;
        let not_kept = cache.and_then(|cache| cache.write(&identity, &entry)).err();
        if let Some(cause) = not_kept.as_ref().filter(|_| matches!(miss, CompileCacheMiss::Entry(_))) {
            tracing::warn!(cause, "compiled code is not kept");
        }
        self.checked(Loaded::new(component, &entry, origin, &source, not_kept), path)
    }

    fn cached(
        &self,
        cache: &Result<Cache, String>,
        identity: &Identity,
        source: &Source,
    ) -> Result<Loaded, CompileCacheMiss> {
        let cache = cache.as_ref().map_err(|cause| CompileCacheMiss::NoCache(cause.clone()))?;
        let entry = cache.read(identity).map_err(CompileCacheMiss::Entry)?;
        let component = entry.component(&self.engine).map_err(|error| {
            CompileCacheMiss::Entry(CacheMiss::Refused(format!(
                "the cached code does not fit the engine: {error:#}"
            )))
        })?;
        Ok(Loaded::new(component, &entry, CodeOrigin::Cache, source, None))
    }

    /// Refuses components that import another version of the contract.
    fn checked(&self, loaded: Loaded, path: &Path) -> Result<Loaded, ComponentError> {
        for (name, _) in loaded.component.component_type().imports(&self.engine) {
            let contract =
                name.strip_prefix("kvtier:storage/").and_then(|interface| interface.split_once('@'));
            if let Some((_, version)) = contract.filter(|(_, version)| *version != CONTRACT_VERSION) {
                return Err(ComponentError::OtherContract {
                    path: path.into(),
                    found: foreign_text(version),
                });
            }
        }
        Ok(loaded)
    }
}

/// Refuses a component of which an instance would take too much of the host's memory.
///
/// # Errors
/// [`ComponentError`]
pub(super) fn ensure_light(path: &Path, source: &Source) -> Result<(), ComponentError> {
    let weight =
        weight::weigh(&source.bytes).map_err(|error| ComponentError::invalid(path, &error.into()))?;
    if weight.component_instances > COMPONENT_INSTANCES_MAX {
        let instances = weight.component_instances;
        return Err(ComponentError::TooManyInstances { path: path.into(), instances });
    }
    if weight.exports > EXPORTS_MAX {
        return Err(ComponentError::TooManyExports { path: path.into(), exports: weight.exports });
    }
    if weight.items > INSTANCE_ITEMS_MAX {
        return Err(ComponentError::TooManyItems { path: path.into(), items: weight.items });
    }
    Ok(())
}

impl Loaded {
    fn new(
        component: Component,
        entry: &CachedCode,
        origin: CodeOrigin,
        source: &Source,
        not_kept: Option<String>,
    ) -> Self {
        let (component_bytes, code_bytes) = (source.bytes.len() as u64, entry.bytes().len() as u64);
        Self { component, digest: source.digest, origin, component_bytes, code_bytes, not_kept }
    }
}

/// Why code does not come from the cache.
enum CompileCacheMiss {
    /// The cache cannot be used.
    NoCache(String),
    /// The cache does not return the entry.
    Entry(CacheMiss),
}

impl CompileCacheMiss {
    fn cause(self, cache: &Result<Cache, String>, source: &Source) -> String {
        match (self, cache) {
            (Self::NoCache(cause) | Self::Entry(CacheMiss::Refused(cause)), _) => cause,
            (Self::Entry(CacheMiss::Absent), Ok(cache)) => {
                format!("`{}` has no code of {}", cache.path().display(), source.digest)
            }
            (Self::Entry(CacheMiss::Absent), Err(cause)) => cause.clone(),
        }
    }

    fn log(&self, cache: &CompileCache) {
        match self {
            Self::NoCache(cause) if *cache != CompileCache::Off => {
                tracing::warn!(cause, "compiled code is not kept");
            }
            Self::Entry(CacheMiss::Refused(cause)) => tracing::warn!(cause, "compiling again"),
            _ => {}
        }
    }
}

/// The outcome of [`compile_into_cache`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compiled {
    /// The component's digest, as `digest` pins it.
    pub digest: Sha256Digest,
    /// The component's size in bytes.
    pub component_bytes: u64,
    /// The size of its code in the cache, in bytes.
    pub code_bytes: u64,
    /// Where the code came from.
    pub origin: CodeOrigin,
}

/// Makes sure that the cache has a component's code, whatever the policy for loading is. Checks size and pin first.
///
/// # Errors
/// [`ComponentError`], also when the cache cannot be used.
pub fn compile_into_cache(
    compilation: &Compilation,
    path: &Path,
    max_bytes: u64,
    pinned: Option<&Sha256Digest>,
) -> Result<Compiled, ComponentError> {
    let engine = Engine::new(&engine_config(compilation.traps))
        .map_err(|error| ComponentError::invalid(path, &error))?;
    compilation.open_cache().map_err(|cause| ComponentError::Cache { path: path.into(), cause })?;
    let compilation = Compilation { policy: CompilePolicy::Auto, ..compilation.clone() };
    let Loaded { digest, origin, component_bytes, code_bytes, not_kept, .. } =
        Loader::new(engine, compilation).load(path, max_bytes, pinned)?;
    match not_kept {
        Some(cause) => Err(ComponentError::Cache { path: path.into(), cause }),
        None => Ok(Compiled { digest, component_bytes, code_bytes, origin }),
    }
}
