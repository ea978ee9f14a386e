//! Sources of the host, compiled with the primitives of a model checker in the place of the system's.

/// Stands for the host's module of this name.
pub mod memory {
    #[path = "../../../../host/src/memory/signal.rs"]
    pub mod signal;
}

/// Stands for the host's module of this name.
pub mod chunk;
mod sync;
