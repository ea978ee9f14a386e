//! kvtier stores the KV cache of large language models in tiers: first a zero-copy CPU tier, then storage backends
//! written by others, each one a sandboxed WebAssembly component.
//!
//! An [`Engine`] is built by [`EngineBuilder`] from an LMCache-style YAML file or from a [`Config`] made in code. It
//! works on the tokens of a [`Prompt`]: `lookup`, `retrieve`, `allocate` and `store`. No backend decides when a call
//! returns, what memory it can see, or which bytes are called KV.
//!
//! ```
//! use kvtier::{Config, Dtype, EngineBuilder, EngineMetadata, KvShape, Salt, Tiers, block_on};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # block_on(async {
//! let metadata = EngineMetadata {
//!     model_name: "meta-llama/Llama-3-8B".into(),
//!     world_size: 1,
//!     worker_id: 0,
//!     kv_dtype: Dtype::BFloat16,
//!     kv_shape: KvShape::new([32, 2, 256, 8, 128])?,
//! };
//! let config = Config { pool_size_bytes: 1 << 30, ..Config::default() };
//! let engine = EngineBuilder::new(config, metadata).build().await?;
//!
//! // Two chunks of 256 tokens. Their keys are derived here, once.
//! let tokens: Vec<u32> = (0..512).collect();
//! let prompt = engine.prompt(&tokens, &Salt::none());
//!
//! // Buffers for the chunks that are not stored yet; the serving engine copies its KV tensors into them.
//! let mut allocation = engine.allocate(&prompt).await?;
//! for missing in allocation.missing() {
//!     missing.bytes.fill(missing.position as u8);
//! }
//! engine.store(allocation, &Tiers::All).await;
//!
//! // Another prompt with the same beginning finds it. The chunks are shared, not copied.
//! let prompt = engine.prompt(&[&tokens[..], &[7; 256]].concat(), &Salt::none());
//! let prefix = engine.lookup_pinned(&prompt, "request-1").await?;
//! assert_eq!(prefix.n_tokens, 512);
//! let found = engine.retrieve(&prompt, Some(&prefix)).await?;
//! assert_eq!(found.retrieved.chunks[1][0], 1);
//! engine.unpin("request-1").await;
//! engine.close().await?;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! - Any executor can drive the futures. [`block_on`] and [`Engine::blocking`] are for callers without one.
//! - [`StorageManager`], reached by [`Engine::storage`], does the same on keys, for engines that have their own keys.
//!   [`EngineBuilder::on_keys`] builds one that knows neither tokens nor a KV shape. It also has the status, the
//!   metrics and the operations on backends.
//! - Features, all on by default: `wasm` (components; without it no wasmtime is compiled, and tiers are native), `http`
//!   (HTTP for components) and `yaml` (configuration files in YAML, else JSON).
//! - [`tier`] has the trait of a native tier, and [`memory`] the trait by which the serving engine lends its memory.
//!   [`start_backend`] starts one backend without a chain, to check its behaviour.

#![cfg_attr(
    not(feature = "http"),
    allow(dead_code, unused_imports, reason = "components and HTTP use some of what is compiled for all")
)]

mod backoff;
mod chunk;
mod clock;
mod config;
mod copies;
mod cpu;
mod engine;
mod integrity;
mod key;
mod layout;
mod limits;
mod log_throttle;
mod manager;
pub mod memory;
mod metrics;
mod runtime;
mod sync;
mod text;
pub mod tier;
mod transfer;
#[cfg(feature = "wasm")]
mod wasm;

pub use chunk::Chunk;
pub use clock::Clock;
pub use config::{
    BackendConfig, BackendLimits, BreakerConfig, CompileCache, CompileLimits, CompilePolicy, Compiler,
    Config, ConfigError, ConfigProblem, EnvGrant, FsAccess, FsGrant, Grants, HttpScheme, IpNetwork, NetGrant,
    NetHost, OnFull, OnLoadError, Origin, PortRange, ReadConfig, Secret, SecretError, SecretSource,
    Sha256Digest, ShownSetting, config_file_from_env,
};
pub use cpu::{Cleared, CpuStats, EvictionPolicy, Evictions, HotCache, UnknownPolicy};
#[cfg(feature = "wasm")]
pub use engine::start_backend;
pub use engine::{
    Blocking, BuildError, Engine, EngineBuilder, Prefix, PromptChunk, Request, RequestError, RetrievedPrefix,
};
pub use key::{ChunkKey, ChunkSpec, KeyChain, Namespace, Prompt, Salt};
pub use layout::{Dtype, EngineMetadata, KvShape, LayoutError, StorageMetadata};
pub use manager::{
    Allocation, BackendReceipt, BackendStatus, BreakerState, BreakerStatus, CPU_TIER, ClearReport,
    CloseError, FailedClose, FlushError, Lookup, Miss, MissedChunk, Missing, NotFetched, Offer, PendingPuts,
    PutOutcome, Receipt, RecreateError, RemoveError, Retrieved, Served, Status, StorageManager, Stored,
    TierIndex, Tiers, UnknownBackend,
};
pub use metrics::{
    BreakerCounts, Bucket, DropReason, ErrorCount, Latency, Operation, OperationLatency, TierCounts,
};
pub use runtime::{block_on, block_on_for};
#[cfg(feature = "wasm")]
pub use wasm::{
    CONTRACT_VERSION, ClassError, CompileLimit, ComponentError, LoadError, NetError, OverlapError,
    ThreadsError, TlsError,
};

/// Parts that the `kvtier` command and the tests of this repository need beyond the public API. Not part of the API:
/// they may change in any release.
#[doc(hidden)]
pub mod __internal {
    pub mod chunk {
        pub use crate::chunk::*;
    }
    pub mod config {
        pub use crate::config::*;
    }
    #[cfg(feature = "count-copies")]
    pub mod copies {
        pub use crate::copies::*;
    }
    pub mod cpu {
        pub use crate::cpu::*;
    }
    pub mod limits {
        pub use crate::limits::*;
    }
    pub mod manager {
        pub use crate::manager::*;
    }
    pub mod metrics {
        pub use crate::metrics::*;
    }
    pub mod runtime {
        pub use crate::runtime::*;
    }
    pub mod transfer {
        pub use crate::transfer::*;
    }
    #[cfg(feature = "wasm")]
    pub mod wasm {
        pub use crate::wasm::*;
    }
}
