//! Where log lines go: to the standard error, as much as `KVTIER_LOG` or else `RUST_LOG` asks for.

use std::env;
use std::io::{self, IsTerminal as _};

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

/// The variables that are asked for a filter, in this order.
const VARIABLES: [&str; 2] = ["KVTIER_LOG", "RUST_LOG"];

/// Without a filter, warnings and errors are shown.
const DEFAULT: &str = "warn";

/// Starts logging for the whole process.
///
/// # Errors
/// When the variable holds no filter, and when logging was started before.
pub fn start() -> Result<()> {
    let filter = filter(|name| env::var(name).ok())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow!(error).context("cannot start logging"))
}

fn filter(variable: impl Fn(&str) -> Option<String>) -> Result<EnvFilter> {
    let set =
        |name: &&str| variable(name).filter(|text| !text.is_empty()).map(|text| ((*name).to_owned(), text));
    let Some((name, text)) = VARIABLES.iter().find_map(set) else { return Ok(EnvFilter::new(DEFAULT)) };
    EnvFilter::builder().parse(&text).with_context(|| {
        format!("{name}={text} is no log filter; give a level such as `debug`, or `kvtier=debug,warn` for one crate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(variables: &[(&str, &str)]) -> Result<String> {
        let get =
            |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, text)| (*text).to_owned());
        Ok(filter(get)?.to_string())
    }

    #[test]
    fn the_first_variable_that_is_set_decides() {
        assert_eq!(shown(&[]).unwrap(), "warn");
        assert_eq!(shown(&[("RUST_LOG", "info")]).unwrap(), "info");
        assert_eq!(shown(&[("RUST_LOG", "info"), ("KVTIER_LOG", "kvtier=debug")]).unwrap(), "kvtier=debug");
        assert_eq!(shown(&[("RUST_LOG", "info"), ("KVTIER_LOG", "")]).unwrap(), "info");
    }

    #[test]
    fn nonsense_is_refused_with_the_variables_name() {
        let error = shown(&[("KVTIER_LOG", "kvtier=loud")]).unwrap_err().to_string();
        assert!(error.starts_with("KVTIER_LOG=kvtier=loud is no log filter"), "{error}");
    }
}
