//! Shared parts of kvtier's integration tests and benches: engines over real components, the fault table, and
//! independent models to compare the host with.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests fail by panicking")]

pub mod faults;
pub mod fuzz;
pub mod model;
pub mod simulator;
pub mod support;
