//! Why a component cannot be used.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Sha256Digest, show_size};
use crate::limits::{COMPONENT_INSTANCES_MAX, EXPORTS_MAX, INSTANCE_ITEMS_MAX};
use crate::text::foreign_text;
use crate::wasm::{CONTRACT_VERSION, no_memory};

/// Why a component cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// There is no such file.
    #[error("component `{}` does not exist; give module_path relative to the configuration file", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path is a directory.
    #[error("component `{}` is a directory; give the path of a .wasm file", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The path is a device, a pipe or a socket.
    #[error("component `{}` is not a regular file; give the path of a .wasm file", path.display())]
    NotAFile {
        /// The kind of file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("component `{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// The file is larger than any component that is accepted.
    #[error("component `{}` has {size_bytes} bytes, more than the {max_bytes} of limits.component_bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The file is not WebAssembly.
    #[error("`{}` is not WebAssembly; build the backend with `cargo build --target wasm32-wasip2`", path.display())]
    NotWasm {
        /// The file.
        path: PathBuf,
    },
    /// The file is a library for Rust.
    #[error("`{}` is a library for Rust, not a component; give the backend's crate `crate-type = [\"cdylib\"]` under `[lib]`, build it with `cargo build --target wasm32-wasip2`, and give the path of the .wasm file", path.display())]
    RustLibrary {
        /// The file.
        path: PathBuf,
    },
    /// The file is a core module.
    #[error("`{}` is a core WebAssembly module, not a component; in Rust, build it for wasm32-wasip2, not for wasm32-wasip1 or wasm32-unknown-unknown; in C, make a component of it with `kvtier componentize`", path.display())]
    CoreModule {
        /// The file.
        path: PathBuf,
    },
    /// The file's digest is not the pinned one.
    #[error("component `{}` has digest {found}, but the configuration pins {pinned}; the file was replaced, or the pin is out of date", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest in the configuration.
        pinned: Sha256Digest,
        /// The file's digest.
        found: Sha256Digest,
    },
    /// The bytes do not compile.
    #[error("component `{}` does not compile: {cause}; the file is damaged or uses what this host does not run, so build it again for wasm32-wasip2", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The compiler's message.
        cause: String,
    },
    /// The component was built against another version of the contract.
    #[error("component `{}` was built against kvtier:storage@{found}; this host serves {CONTRACT_VERSION}; rebuild it with a matching SDK", path.display())]
    OtherContract {
        /// The file.
        path: PathBuf,
        /// The version that the component imports.
        found: String,
    },
    /// The component's instances would take too much of the host's memory besides linear memory and tables.
    #[error("component `{}` has {} functions, globals and other items in all its instances together, more than the {INSTANCE_ITEMS_MAX} that are accepted; build it of fewer or smaller modules", path.display(), counted(*items))]
    TooManyItems {
        /// The file.
        path: PathBuf,
        /// How many; `u64::MAX` if they cannot be counted.
        items: u64,
    },
    /// The component instantiates more components than are accepted.
    #[error("component `{}` instantiates {} components, itself included, more than the {COMPONENT_INSTANCES_MAX} that are accepted; build it of fewer", path.display(), counted(*instances))]
    TooManyInstances {
        /// The file.
        path: PathBuf,
        /// How many; `u64::MAX` if they cannot be counted.
        instances: u64,
    },
    /// The component exports more than is accepted.
    #[error("component `{}` has {} exports, those of exported instances included, more than the {EXPORTS_MAX} that are accepted; build it of fewer classes", path.display(), counted(*exports))]
    TooManyExports {
        /// The file.
        path: PathBuf,
        /// How many; `u64::MAX` if they cannot be counted.
        exports: u64,
    },
    /// The system refused the memory that the component's code takes.
    #[error("component `{}` cannot be loaded: {cause}", path.display())]
    NoMemory {
        /// The file.
        path: PathBuf,
        /// How much, by which limit, and what to do.
        cause: String,
    },
    /// The component imports something that the host does not offer.
    #[error("component `{}` cannot be linked: {cause}; this host offers WASI 0.2 and 0.3 and kvtier:storage@{CONTRACT_VERSION}", path.display())]
    Unlinkable {
        /// The file.
        path: PathBuf,
        /// The linker's message.
        cause: String,
    },
    /// The compiler went beyond a limit.
    #[error("component `{}` was not compiled: compiling it takes {limit} if you trust the component", path.display())]
    CompileLimit {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: CompileLimit,
    },
    /// The compiler could not be started, died, or delivered bytes that this host cannot use.
    #[error("component `{}` was not compiled: the compiler `{}` {cause}; kvtier.compiler names the compiler", path.display(), compiler.display())]
    Compiler {
        /// The component's file.
        path: PathBuf,
        /// The compiler's program.
        compiler: PathBuf,
        /// What happened.
        cause: String,
    },
    /// The backend was closed before the component's turn to be compiled came.
    #[error("component `{}` was not compiled, because its backend is closed", path.display())]
    Cancelled {
        /// The component's file.
        path: PathBuf,
    },
    /// The component is not in the cache, and nothing else may be loaded.
    #[error("component `{}` is not loaded, because kvtier.compile is cached_only and {cause}; fill the cache with `kvtier compile --config FILE`", path.display())]
    NotCached {
        /// The component's file.
        path: PathBuf,
        /// Why the cache does not have it.
        cause: String,
    },
    /// The compiled code could not be kept.
    #[error("component `{}` was compiled, but the code could not be kept: {cause}", path.display())]
    Cache {
        /// The component's file.
        path: PathBuf,
        /// What is wrong with the cache.
        cause: String,
    },
}

impl ComponentError {
    /// Returns the WebAssembly engine's message for bytes that do not compile.
    pub(in crate::wasm) fn invalid(path: &Path, error: &wasmtime::Error) -> Self {
        if let Some(cause) = no_memory::explain(error) {
            return Self::NoMemory { path: path.into(), cause };
        }
        Self::Invalid { path: path.into(), cause: foreign_text(&format!("{error:#}")) }
    }

    /// Returns the WebAssembly engine's message for imports that the host does not offer.
    pub(in crate::wasm) fn unlinkable(path: &Path, error: &wasmtime::Error) -> Self {
        Self::Unlinkable { path: path.into(), cause: foreign_text(&format!("{error:#}")) }
    }
}

/// The limit that a compiler went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileLimit {
    /// Address space, in bytes.
    #[error("more than {} of memory; raise kvtier.compile_memory", show_size(*.0))]
    Memory(u64),
    /// Address space, in bytes. This process has less of it than a compiler may take.
    #[error("more than {} of memory, which is all that this process and its compiler may have (ulimit -v, RLIMIT_AS); raise that limit", show_size(*.0))]
    AddressSpace(u64),
    /// Processor time.
    #[error("more than {} s of processor time; raise kvtier.compile_cpu_secs", .0.as_secs())]
    Cpu(Duration),
    /// Wall-clock time.
    #[error("longer than {} ms; raise kvtier.compile_timeout_ms", .0.as_millis())]
    Time(Duration),
}

/// Formats a number that may be too large to count.
fn counted(n: u64) -> String {
    if n == u64::MAX { "uncountably many".to_owned() } else { n.to_string() }
}
