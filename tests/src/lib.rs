//! What kvtier's integration tests share that is not the host's: independent models to compare it with.

pub mod simulator;
