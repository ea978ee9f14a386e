//! What each command does with its arguments.

pub mod compile;
pub mod config;
pub mod inspect;
pub mod replay;
