//! The WebAssembly tier: a class of a component as a [`Tier`].
//!
//! The only part of the library that names wasmtime. Files are read and compiled in [`component`], classes
//! found and checked in [`class`], methods bound in [`contract`]; a [`lane`] runs one instance in a
//! [`sandbox`], [`host`] is what that instance can call, and [`grants`] where it is refused what it was not
//! granted.

mod class;
mod component;
mod contract;
mod file_work;
mod footprint;
mod grants;
mod held;
mod holding;
mod host;
mod http;
mod inspect;
mod lane;
mod load;
mod loading;
mod log;
mod net;
mod no_memory;
mod outside;
mod overlap;
mod own_threads;
mod review;
mod sandbox;
mod spent;
mod stdio;
mod threads;
mod ticker;
mod tier;

pub use class::{ClassError, ClassReport, MethodReport, kebab};
pub use component::{
    COMPILER_COMMAND, CodeOrigin, Compilation, CompileLimit, Compiled, ComponentError, compile_into_cache,
    compile_one, default_cache_directory, limit_process,
};
#[cfg(feature = "hold-threads")]
pub use holding::{Held, hold_threads};
pub use http::TlsError;
pub use inspect::{Inspection, inspect};
pub use load::{EngineFacts, LoadError};
pub use loading::Loading;
pub use net::NetError;
pub use overlap::OverlapError;
pub use review::{Limit, Reach, Review, Verdict, review};
pub use threads::{LaneThreads, ThreadsError};
pub use tier::WasmTier;

/// The version of the contract that this host serves.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// The packages of which this host offers interfaces to components.
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

/// Tells whether this host offers the package of an imported interface.
#[must_use]
pub fn offers(import: &str) -> bool {
    import.split_once('/').is_some_and(|(package, _)| OFFERED.contains(&package))
}
