//! kvtier stores the KV cache of large language models in tiers: a native zero-copy CPU buffer tier first,
//! and behind it storage backends that other people wrote, each one a sandboxed WebAssembly component.
//!
//! Build an [`Engine`] from an LMCache-style YAML file with [`EngineBuilder`], then `lookup`, `retrieve`,
//! `allocate` and `store`. Nothing a backend does decides when a call returns, what memory it can see, or
//! which bytes are called KV.
//!
//! Modules, from the outside in: [`engine`] (tokens), [`manager`] (the chain, on keys), [`tier`] (the trait
//! between the chain and a backend), [`wasm`] (backends as components), [`cpu`] and [`memory`] (the native
//! tier), [`integrity`] and [`transfer`] (what crosses to a backend and back).

mod backoff;
pub mod chunk;
pub mod clock;
pub mod config;
#[cfg(feature = "count-copies")]
pub mod copies;
#[cfg(not(feature = "count-copies"))]
mod copies;
pub mod cpu;
pub mod engine;
pub mod integrity;
pub mod key;
pub mod layout;
pub mod limits;
mod log_throttle;
pub mod manager;
pub mod memory;
pub mod metrics;
pub mod runtime;
mod sync;
mod text;
pub mod tier;
pub mod transfer;
pub mod wasm;

pub use chunk::Chunk;
pub use config::Config;
pub use engine::{Engine, EngineBuilder, Request};
pub use key::{ChunkKey, ChunkSpec, Prompt, Salt};
pub use layout::{Dtype, EngineMetadata, KvShape};
pub use manager::{StorageManager, Tiers};
pub use runtime::block_on;
