//! `wasi:io`: polls and streams of WASI 0.2.

pub(super) mod polls;
pub(super) mod streams;
