//! kvtier's integration tests: real components, built by `cargo xtask guests`, in a real engine.

mod first_chunk;
mod support;
