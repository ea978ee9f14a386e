//! Errors of building an engine.

use crate::config::ConfigError;
use crate::layout::LayoutError;
use crate::memory::PoolError;
#[cfg(feature = "wasm")]
use crate::wasm::{LoadError, ThreadsError};

/// The reason why an engine could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Configuration and metadata disagree on the chunk size.
    #[error(
        "chunk_size is {configured} in the configuration but {metadata} in the metadata's kv_shape; make them equal"
    )]
    ChunkSize {
        /// Tokens of a chunk in the configuration.
        configured: usize,
        /// Tokens of a chunk in the metadata.
        metadata: usize,
    },
    /// The layout of an engine on keys is malformed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The metadata contradicts itself.
    #[error("worker_id is {worker_id} of world_size {world_size}; give a worker in 0..world_size")]
    Worker {
        /// The worker's index.
        worker_id: u32,
        /// The number of workers.
        world_size: u32,
    },
    /// The name of a native tier is malformed, reserved, or that of another tier; or there are too many tiers.
    #[error(transparent)]
    TierName(ConfigError),
    /// The buffer pool could not be reserved.
    #[error("the buffer pool of max_local_cpu_size could not be reserved: {0}")]
    Pool(#[from] PoolError),
    /// The system grants no more threads.
    #[error(
        "the control thread could not be started: {0}; raise ulimit -u (threads) or ulimit -v (their stacks)"
    )]
    Control(#[source] std::io::Error),
    /// A backend is configured, but the library was built without the feature `wasm`.
    #[cfg(not(feature = "wasm"))]
    #[error(
        "backend `{0}` is a component, and this kvtier was built without them; build it with the feature `wasm`"
    )]
    WithoutComponents(String),
    /// The threads that run backends could not be started.
    #[cfg(feature = "wasm")]
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// A backend could not be loaded and `kvtier.on_load_error` is `fail`.
    #[cfg(feature = "wasm")]
    #[error("backend `{backend}`: {source}")]
    Load {
        /// The backend's name.
        backend: String,
        /// The cause.
        source: LoadError,
    },
}
