//! The commands.

pub mod compile;
pub mod completions;
pub mod compose;
pub mod config;
pub mod generate;
pub mod inspect;
pub mod replay;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use kvtier::{Config, ConfigError, ReadConfig};

/// Reads a configuration file, or without one what the environment names: `LMCACHE_CONFIG_FILE`, else `LMCACHE_*`.
///
/// # Errors
/// If the configuration is invalid; the message names it.
pub(crate) fn read_config(path: Option<&Path>) -> Result<ReadConfig, ConfigError> {
    path.map_or_else(Config::from_env, Config::from_file)
}

fn print(out: &mut impl Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to the standard output")
}

fn print_json(out: &mut impl Write, value: &serde_json::Value) -> Result<()> {
    print(out, &format!("{value:#}\n"))
}
