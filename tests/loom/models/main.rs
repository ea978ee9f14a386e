//! Runs protocols in every order of their threads, with every value that a load may see. Beside each protocol is a
//! variant that is broken on purpose and has to fail.

#![allow(clippy::unwrap_used, reason = "tests")]

mod life;
mod release;
