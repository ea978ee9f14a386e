//! Components: reading their files, compiling them in a process of its own, and the cache of compiled code.
//!
//! [`Loader`] is the way from a path to a component. A file is read and its digest compared with the pinned
//! one ([`read`]) before anything else is done with it. Code comes from the [`cache`], or else from a compiler
//! ([`child`] starts it, [`compiler`] is what it runs, [`protocol`] what passes between them), and always as an
//! [`entry`], which carries what it belongs to. The host alone writes to the cache.

mod cache;
mod child;
mod compilation;
mod compiler;
mod entry;
mod error;
mod protocol;
mod read;
mod weight;

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use cache::default_cache_directory;
pub use compilation::{CodeOrigin, Compilation};
pub use compiler::{compile_one, limit_process};
pub use error::{CompileLimit, ComponentError};
pub use protocol::COMPILER_COMMAND;
pub(super) use read::Source;
use rustix::process::Signal;
use wasmtime::Engine;
use wasmtime::component::Component;

use self::cache::{Cache, CacheMiss};
use self::child::Ended;
use self::entry::{Entry, Fingerprint, Identity};
pub(super) use self::error::foreign_text;
use self::protocol::{Failure, FailureKind, Order};
use super::CONTRACT_VERSION;
use super::threads::engine_config;
use crate::config::{CompileCache, CompileLimits, CompilePolicy, Sha256Digest, open_file};
use crate::limits::{CODE_BYTES_MAX, INSTANCE_ITEMS_MAX};
use crate::memory::lock;

/// With which a Rust program ends after a panic.
const PANIC_EXIT_CODE: i32 = 101;

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

/// Loads components for one engine.
pub(super) struct Loader {
    engine: Engine,
    compilation: Compilation,
    /// Held while a component is compiled: one at a time, so that the memory limit is the limit of all, and so
    /// that what two backends share is compiled once. Holds what never compiles, so that a backend that is
    /// tried again and again does not cost a compiler's time each time.
    hopeless: Mutex<HashMap<Sha256Digest, Hopeless>>,
}

/// Why a component need not be compiled again.
#[derive(Clone)]
enum Hopeless {
    Refused(String),
    Limit(CompileLimit),
    /// The component brought the compiler down, or made it write without end.
    Died {
        compiler: PathBuf,
        cause: String,
    },
}

impl Hopeless {
    fn error(self, path: &Path) -> ComponentError {
        let path = path.into();
        match self {
            Self::Refused(cause) => ComponentError::Invalid { path, cause },
            Self::Limit(limit) => ComponentError::CompileLimit { path, limit },
            Self::Died { compiler, cause } => ComponentError::Compiler { path, compiler, cause },
        }
    }
}

/// Why there is no code.
enum NoCode {
    Hopeless(Hopeless),
    /// Another time it may work.
    Other(ComponentError),
}

impl Loader {
    pub(super) fn new(engine: Engine, compilation: Compilation) -> Self {
        Self { engine, compilation, hopeless: Mutex::default() }
    }

    pub(super) fn compilation(&self) -> &Compilation {
        &self.compilation
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads a component: reads it, checks the pin, and takes its code from the cache or compiles it. A cache
    /// that cannot be used is logged, and is no error unless nothing else may be used.
    pub(super) fn load(
        &self,
        path: &Path,
        max_bytes: u64,
        pinned: Option<&Sha256Digest>,
    ) -> Result<Loaded, ComponentError> {
        let source = Source::read(path, max_bytes, pinned)?;
        let identity = Identity { engine: Fingerprint::of(&self.engine), component: source.digest };
        let cache = self.compilation.open_cache();
        let miss = match self.cached(&cache, &identity, &source) {
            Ok(loaded) => return self.checked(loaded, path, &source),
            Err(miss) => miss,
        };
        if self.compilation.policy == CompilePolicy::CachedOnly {
            return Err(ComponentError::NotCached { path: path.into(), cause: miss.cause(&cache, &source) });
        }
        miss.log(&self.compilation.cache);
        let mut hopeless = lock(&self.hopeless);
        if let Some(hopeless) = hopeless.get(&source.digest) {
            return Err(hopeless.clone().error(path));
        }
        // Another backend may have waited for the same component.
        if let Ok(loaded) = self.cached(&cache, &identity, &source) {
            return self.checked(loaded, path, &source);
        }
        let (entry, origin) = self.compile(path, &source, &identity).map_err(|no_code| match no_code {
            NoCode::Other(error) => error,
            NoCode::Hopeless(cause) => {
                hopeless.insert(source.digest, cause.clone());
                cause.error(path)
            }
        })?;
        let component =
            entry.component(&self.engine).map_err(|error| ComponentError::invalid(path, &error))?;
        let not_kept = cache.and_then(|cache| cache.write(&identity, &entry)).err();
        if let Some(cause) = not_kept.as_ref().filter(|_| matches!(miss, Miss::Entry(_))) {
            tracing::warn!(cause, "compiled code is not kept");
        }
        self.checked(Loaded::new(component, &entry, origin, &source, not_kept), path, &source)
    }

    fn cached(
        &self,
        cache: &Result<Cache, String>,
        identity: &Identity,
        source: &Source,
    ) -> Result<Loaded, Miss> {
        let cache = cache.as_ref().map_err(|cause| Miss::NoCache(cause.clone()))?;
        let entry = cache.read(identity).map_err(Miss::Entry)?;
        let component = entry.component(&self.engine).map_err(|error| {
            Miss::Entry(CacheMiss::Refused(format!("the cached code does not fit the engine: {error:#}")))
        })?;
        Ok(Loaded::new(component, &entry, CodeOrigin::Cache, source, None))
    }

    /// Refuses components that import another version of the contract, or of which an instance would be too large.
    fn checked(&self, loaded: Loaded, path: &Path, source: &Source) -> Result<Loaded, ComponentError> {
        // Only now: what has been compiled is valid.
        let items = weight::instance_items(&source.bytes)
            .map_err(|error| ComponentError::invalid(path, &error.into()))?;
        if items > INSTANCE_ITEMS_MAX {
            return Err(ComponentError::TooManyItems { path: path.into(), items });
        }
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

    fn compile(
        &self,
        path: &Path,
        source: &Source,
        identity: &Identity,
    ) -> Result<(Entry, CodeOrigin), NoCode> {
        let search_path = std::env::var_os("PATH");
        match self.compilation.find_compiler(search_path.as_deref()) {
            Ok(program) => {
                let entry = self.compile_in_child(&program, path, identity)?;
                Ok((entry, CodeOrigin::Compiler))
            }
            Err(reason) => {
                let entry = Entry::compile(&self.engine, identity, &source.bytes)
                    .map_err(|error| Hopeless::Refused(foreign_text(&format!("{error:#}"))));
                Ok((entry.map_err(NoCode::Hopeless)?, CodeOrigin::ThisProcess(reason)))
            }
        }
    }

    fn compile_in_child(&self, program: &Path, path: &Path, identity: &Identity) -> Result<Entry, NoCode> {
        let CompileLimits { memory_bytes, cpu, timeout } = self.compilation.limits;
        let failed = |cause: String| {
            NoCode::Other(ComponentError::Compiler { path: path.into(), compiler: program.into(), cause })
        };
        let unreadable = |source| NoCode::Other(ComponentError::Unreadable { path: path.into(), source });
        let order = Order::new(identity.component, identity.engine, memory_bytes, cpu.as_secs());
        let words: Vec<String> = [COMPILER_COMMAND.to_owned()].into_iter().chain(order.words()).collect();
        let input = open_file(path).map_err(unreadable)?;
        let ended = child::run(program, &words, input, timeout)
            .map_err(|error| failed(format!("cannot be run: {error}")))?;
        let limit = |limit| NoCode::Hopeless(Hopeless::Limit(limit));
        let died = |cause| NoCode::Hopeless(Hopeless::Died { compiler: program.into(), cause });
        if ended.timed_out {
            return Err(limit(CompileLimit::Time(timeout)));
        }
        match Failure::read(&ended.output) {
            Some(Failure { kind: FailureKind::Refused, text }) => {
                return Err(NoCode::Hopeless(Hopeless::Refused(foreign_text(&text))));
            }
            Some(Failure { kind: FailureKind::Memory, .. }) => {
                return Err(limit(CompileLimit::Memory(memory_bytes)));
            }
            Some(Failure { kind: FailureKind::Unable, text }) => return Err(failed(foreign_text(&text))),
            None => {}
        }
        if ended.output.len() > CODE_BYTES_MAX {
            return Err(died(format!("wrote more than {CODE_BYTES_MAX} bytes")));
        }
        match ended.status.signal() {
            Some(signal) if signal == Signal::XCPU.as_raw() => Err(limit(CompileLimit::Cpu(cpu))),
            Some(signal) if signal == Signal::ABORT.as_raw() && ended.ran_out_of_memory() => {
                Err(limit(CompileLimit::Memory(memory_bytes)))
            }
            Some(signal) => Err(died(format!("was ended by signal {signal}{}", ended.last_words()))),
            None if !ended.status.success() => {
                let code = ended.status.code().unwrap_or_default();
                let cause = format!("failed with exit code {code}{}", ended.last_words());
                Err(if code == PANIC_EXIT_CODE { died(cause) } else { failed(cause) })
            }
            None => {
                let words = ended.last_words();
                Entry::check(identity, ended.output)
                    .map_err(|error| failed(format!("delivered what {error}{words}")))
            }
        }
    }
}

impl Ended {
    /// Tells whether Rust's allocator was refused memory, which ends a process.
    fn ran_out_of_memory(&self) -> bool {
        const SIGN: &[u8] = b"memory allocation of ";
        self.errors.windows(SIGN.len()).any(|words| words == SIGN)
    }

    fn last_words(&self) -> String {
        match foreign_text(&String::from_utf8_lossy(&self.errors)) {
            words if words.is_empty() => words,
            words => format!(" and said: {words}"),
        }
    }
}

impl Loaded {
    fn new(
        component: Component,
        entry: &Entry,
        origin: CodeOrigin,
        source: &Source,
        not_kept: Option<String>,
    ) -> Self {
        let (component_bytes, code_bytes) = (source.bytes.len() as u64, entry.bytes().len() as u64);
        Self { component, digest: source.digest, origin, component_bytes, code_bytes, not_kept }
    }
}

/// Why code does not come from the cache.
enum Miss {
    /// The cache cannot be used.
    NoCache(String),
    /// It does not give the entry.
    Entry(CacheMiss),
}

impl Miss {
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

/// What [`compile_into_cache`] has found or done.
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

/// Sees to it that the cache has a component's code, whatever the policy for loading is. Size and pin are checked
/// before anything else.
///
/// # Errors
/// [`ComponentError`], also when the cache cannot be used.
pub fn compile_into_cache(
    compilation: &Compilation,
    path: &Path,
    max_bytes: u64,
    pinned: Option<&Sha256Digest>,
) -> Result<Compiled, ComponentError> {
    let engine = Engine::new(&engine_config()).map_err(|error| ComponentError::invalid(path, &error))?;
    compilation.open_cache().map_err(|cause| ComponentError::Cache { path: path.into(), cause })?;
    let compilation = Compilation { policy: CompilePolicy::Auto, ..compilation.clone() };
    let Loaded { digest, origin, component_bytes, code_bytes, not_kept, .. } =
        Loader::new(engine, compilation).load(path, max_bytes, pinned)?;
    match not_kept {
        Some(cause) => Err(ComponentError::Cache { path: path.into(), cause }),
        None => Ok(Compiled { digest, component_bytes, code_bytes, origin }),
    }
}
