//! What kvtier's integration tests and benches share: engines over real components, the table of faults, and
//! independent models to compare the host with.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests fail by panicking")]

pub mod faults;
pub mod fuzz;
pub mod model;
pub mod simulator;
pub mod support;
