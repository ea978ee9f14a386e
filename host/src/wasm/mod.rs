//! The WebAssembly tier: a class of a component as a [`Tier`](crate::tier::Tier).
//!
//! The only part of the library that names wasmtime. `component` reads and compiles files, `class` finds and checks
//! classes, and `contract` binds their methods. A `lane` runs one instance with its `state`; `imports` has the
//! functions that the instance can call, and `policy` decides what it may reach.

mod class;
mod component;
mod contract;
mod cpu_time;
mod engine;
mod imports;
mod lane;
#[cfg(test)]
mod layers;
mod load;
mod no_memory;
mod policy;
mod prepared;
mod report;
mod state;
mod store;
mod threads;
mod tier;

pub use class::{ClassError, ClassReport, MethodReport, kebab};
pub use component::{
    COMPILER_COMMAND, CodeOrigin, Compilation, CompileLimit, Compiled, ComponentError, compile_into_cache,
    compile_one, default_cache_directory, digest_of, limit_process, read_component,
};
pub use imports::http::TlsError;
pub use load::LoadError;
pub use policy::external::ExternalError;
pub use policy::network::NetError;
pub use policy::overlap::OverlapError;
pub use prepared::EngineFacts;
pub use report::inspect::{Inspection, inspect};
pub use report::review::{Limit, Reach, Review, ReviewResult, review};
#[cfg(feature = "hold-threads")]
pub use threads::holding::{Held, hold_threads};
pub use threads::{LaneThreads, ThreadsError};
pub use tier::{Loading, WasmTier};

/// The version of the contract that this host serves.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// The packages whose interfaces this host offers to components.
const OFFERED: [&str; 8] = [
    "kvtier:storage",
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:http",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// Reports whether this host offers the package of an imported interface.
#[must_use]
pub fn offers(import: &str) -> bool {
    import.split_once('/').is_some_and(|(package, _)| OFFERED.contains(&package)) && !is_backend(import)
}

/// Reports whether an imported interface is the contract's template for backends. A component that imports it wraps
/// another backend, and must be composed with that backend's component before it is loaded.
#[must_use]
pub fn is_backend(import: &str) -> bool {
    import.split('@').next() == Some("kvtier:storage/backend")
}
