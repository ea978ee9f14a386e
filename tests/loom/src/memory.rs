//! Takes the place of the host's module of this name.

#[path = "../../../host/src/memory/signal.rs"]
pub mod signal;
