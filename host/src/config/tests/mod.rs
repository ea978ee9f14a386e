//! Tests of the configuration as a whole; small parts are tested beside their code.

mod errors;
mod foreign;
mod lmcache;
mod read;
mod reference;
mod show;
mod vectors;

use super::{Config, ConfigError, ReadConfig};

/// The directory for relative paths of the tests' texts. Nothing is read there.
const BASE_DIR: &str = "/etc/kvtier";

/// Reads a configuration text with an empty environment.
fn read(text: &str) -> Result<Config, ConfigError> {
    read_with(text, &[])
}

/// Reads a configuration text with some variables.
fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    read_all_with(text, variables).map(|read| read.config)
}

/// Reads a configuration text with an empty environment, and returns the messages for the operator.
fn read_all(text: &str) -> Result<ReadConfig, ConfigError> {
    read_all_with(text, &[])
}

fn read_all_with(text: &str, variables: &[(&str, &str)]) -> Result<ReadConfig, ConfigError> {
    let env = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let read = Config::from_yaml(text, BASE_DIR, env)?;
    // A configuration that was read must satisfy the checks of one made in code.
    read.config.validate().unwrap();
    Ok(read)
}

/// Returns the names of the backends, in order.
fn names(config: &Config) -> Vec<&str> {
    config.backends.iter().map(|backend| backend.name.as_str()).collect()
}

/// Returns an `extra_config` with the required keys of some backends.
fn extra_config(names: &[&str]) -> String {
    use std::fmt::Write;
    let mut text = "extra_config:\n".to_owned();
    for name in names {
        write!(
            text,
            "  external_backend.{name}.module_path: {name}.wasm\n  external_backend.{name}.class_name: Class\n"
        )
        .unwrap();
    }
    text
}

/// Returns a configuration with one backend `disk` that has the given lines in its section.
fn disk_with(lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| format!("  external_backend.disk.{line}\n")).collect();
    format!("external_backends: disk\n{}{}", extra_config(&["disk"]), lines.concat())
}
