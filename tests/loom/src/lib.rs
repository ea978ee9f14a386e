//! Sources of the host, compiled with a model checker's primitives in place of the system's.

pub mod chunk;
pub mod memory;
mod sync;
