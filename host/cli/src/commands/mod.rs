//! The commands.

pub mod check;
pub mod compile;
pub mod completions;
pub mod componentize;
pub mod compose;
pub mod config;
pub mod dev;
pub mod generate;
pub mod inspect;
pub mod new;
mod output_file;
pub mod replay;

use std::fs::File;
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

/// Creates a file, before the work whose result it is to have.
fn create(path: &Path, what: &str) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create the {what} {}", path.display()))
}

fn print(out: &mut impl Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to the standard output")
}

fn print_json(out: &mut impl Write, value: &serde_json::Value) -> Result<()> {
    print(out, &format!("{value:#}\n"))
}
