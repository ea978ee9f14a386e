//! Sources of the host, compiled with the primitives of a model checker in the place of the system's.

pub mod chunk;
pub mod memory;
mod sync;
