//! Log lines: to the standard error, at the level of the command line or else of the environment.

use std::env;
use std::io::{self, IsTerminal as _};

use anyhow::{Context, Result, anyhow, ensure};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Command, Verbosity};

/// kvtier's own variable. A word in it that is not a filter is an error.
const VARIABLE: &str = "KVTIER_LOG";

/// The variable that many Rust programs share. It may hold words for other programs.
const SHARED_VARIABLE: &str = "RUST_LOG";

/// Starts logging for the whole process, by default at the level of the command.
///
/// # Errors
/// If a variable does not hold a filter, and if logging was started before.
pub fn start(verbosity: Verbosity, command: &Command) -> Result<()> {
    let filter = filter(verbosity, default_level(command), |name| env::var(name).ok())?;
    let layer = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // Reporting that the standard error is closed would panic, because it is closed.
        .log_internal_errors(false);
    layer.try_init().map_err(|error| anyhow!(error).context("cannot start logging"))
}

/// Returns the level without a filter: warnings, except for commands whose tests provoke them.
fn default_level(command: &Command) -> &'static str {
    if matches!(command, Command::Check(_) | Command::Dev(_)) { "error" } else { "warn" }
}

fn filter(
    verbosity: Verbosity,
    default: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<EnvFilter> {
    let level = match verbosity {
        Verbosity { quiet: true, .. } => Some("error"),
        Verbosity { verbose: 0, .. } => None,
        // Libraries log how they work, which does not help a user of this command.
        Verbosity { verbose: 1, .. } => Some("warn,kvtier=info"),
        Verbosity { verbose: 2, .. } => Some("warn,kvtier=debug"),
        Verbosity { .. } => Some("warn,kvtier=trace"),
    };
    let set = |name| variable(name).filter(|text| !text.is_empty());
    if let Some(level) = level {
        return Ok(EnvFilter::new(level));
    }
    if let Some(text) = set(VARIABLE) {
        refuse_unknown_words(&text)?;
        return parse(VARIABLE, &text);
    }
    set(SHARED_VARIABLE).map_or_else(|| Ok(EnvFilter::new(default)), |text| parse(SHARED_VARIABLE, &text))
}

fn parse(name: &str, text: &str) -> Result<EnvFilter> {
    EnvFilter::builder().parse(text).with_context(|| {
        format!("{name}={text} is not a log filter; give a level such as `debug`, or `kvtier=debug,warn`")
    })
}

/// Refuses words that are neither a level nor have one. A filter takes such a word for the name of a module whose lines
/// are all shown, so a misspelt level would show no line and no error.
fn refuse_unknown_words(text: &str) -> Result<()> {
    for word in text.split(',').map(str::trim) {
        let is_filter = word.contains(['=', '[']) || word.parse::<LevelFilter>().is_ok();
        ensure!(
            is_filter,
            "{VARIABLE}={text}: `{word}` is not a log level; give off, error, warn, info, debug or trace, \
             or one for a module, such as `kvtier=debug`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn shown_with(verbosity: Verbosity, variables: &[(&str, &str)]) -> Result<String> {
        let get =
            |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, text)| (*text).to_owned());
        Ok(filter(verbosity, "warn", get)?.to_string())
    }

    fn shown(variables: &[(&str, &str)]) -> Result<String> {
        shown_with(Verbosity::default(), variables)
    }

    #[test]
    fn a_command_whose_tests_provoke_warnings_shows_errors_only() {
        let level = |line: &str| default_level(&Cli::try_parse_from(line.split(' ')).unwrap().command);
        assert_eq!(["kvtier check a.wasm", "kvtier dev a.wasm"].map(level), ["error"; 2]);
        assert_eq!(level("kvtier replay t"), "warn");
    }

    #[test]
    fn the_first_variable_that_is_set_decides() {
        assert_eq!(shown(&[]).unwrap(), "warn");
        assert_eq!(shown(&[("RUST_LOG", "info")]).unwrap(), "info");
        assert_eq!(shown(&[("RUST_LOG", "info"), ("KVTIER_LOG", "kvtier=debug")]).unwrap(), "kvtier=debug");
        assert_eq!(shown(&[("RUST_LOG", "info"), ("KVTIER_LOG", "")]).unwrap(), "info");
    }

    #[test]
    fn the_command_line_decides_before_the_variables() {
        let variables = [("KVTIER_LOG", "trace")];
        let quiet = Verbosity { quiet: true, verbose: 0 };
        assert_eq!(shown_with(quiet, &variables).unwrap(), "error");
        for (verbose, level) in [(1, "info"), (2, "debug"), (3, "trace"), (9, "trace")] {
            let shown = shown_with(Verbosity { quiet: false, verbose }, &variables).unwrap();
            assert!(shown.contains(&format!("kvtier={level}")) && shown.contains("warn"), "{shown}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_variables_name() {
        let error = shown(&[("KVTIER_LOG", "kvtier=loud")]).unwrap_err().to_string();
        assert!(error.starts_with("KVTIER_LOG=kvtier=loud is not a log filter"), "{error}");
    }

    #[test]
    fn an_unknown_word_is_refused_and_not_taken_for_a_module() {
        for (text, word) in [("loud", "loud"), ("warn,louder", "louder"), ("kvtier", "kvtier")] {
            let error = shown(&[("KVTIER_LOG", text)]).unwrap_err().to_string();
            let expected = format!("KVTIER_LOG={text}: `{word}` is not a log level; give off, error, ");
            assert!(error.starts_with(&expected), "{error}");
        }
        for text in ["DEBUG", "off", "warn,kvtier=debug", "kvtier[lane]=trace"] {
            assert!(shown(&[("KVTIER_LOG", text)]).is_ok(), "{text}");
        }
        assert!(shown(&[("RUST_LOG", "hyper")]).is_ok(), "a module of another program");
    }
}
