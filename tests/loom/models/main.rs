//! Every order in which the threads of a protocol can run, and every value that a load may see. Each
//! protocol stands beside one that is broken on purpose and has to fail.

#![allow(clippy::unwrap_used, reason = "tests")]

mod life;
mod release;
