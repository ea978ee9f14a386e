//! The `kvtier` command, as a library so that tests can drive its parts.
//!
//! [`args`] defines the command line, [`run`] runs a command, and `main.rs` prints errors and sets the exit code. Only
//! `engine` depends on the host library's engine: a replay reaches it through [`replay::Chain`].

pub mod args;
pub mod commands;
pub mod content;
pub mod engine;
pub mod format;
pub mod generate;
pub mod histogram;
pub mod logging;
pub mod machine;
mod output;
pub mod presets;
pub mod progress;
mod random;
pub mod replay;
pub mod report;
#[cfg(test)]
mod sample;
pub mod series;
pub mod svg;
pub mod table;
pub mod trace;

use std::path::Path;

use anyhow::{Context, Result};
use kvtier::__internal::wasm;
use kvtier::CompileLimits;

use crate::args::{Cli, Command, ConfigArgs, InspectArgs, TraceCommand};
use crate::commands::compile::{compile, compile_one};
use crate::commands::completions::completions;
use crate::commands::config::config;
use crate::commands::generate::generate;
use crate::commands::inspect::inspect;
use crate::output::Output;

/// Runs one command. A report shows `command_line`. `program` is the file of the `kvtier` command, which compiles
/// components unless the configuration names another compiler.
///
/// # Errors
/// If the command failed, with the causes.
pub fn run(cli: Cli, command_line: &str, program: Option<&Path>) -> Result<()> {
    let mut out = Output::new();
    match cli.command {
        Command::Replay(mut args) => {
            args.is_quiet = cli.verbosity.quiet;
            commands::replay::replay(&args, command_line, &mut out, || engine::open(&args, program))
        }
        Command::Generate(args) | Command::Trace(TraceCommand::Generate(args)) => generate(&args),
        Command::Inspect(InspectArgs { component: Some(component), json, .. }) => {
            limit_this_process()?;
            inspect(&component, json, &mut out)
        }
        Command::Inspect(InspectArgs { config: file, json, .. })
        | Command::Config(ConfigArgs { file, json }) => {
            limit_this_process()?;
            config(file.as_deref(), json, program, &mut out)
        }
        Command::Compile(args) => compile(&args, program, &mut out),
        Command::Completions(args) => completions(&args, &mut out),
        Command::CompileOne(args) => compile_one(&args),
    }
}

/// Limits this process, for commands that compile components in it and do nothing else.
fn limit_this_process() -> Result<()> {
    wasm::limit_process(&CompileLimits::default()).context("cannot limit this process")
}

/// Renders an error as the command prints it: the failure, then each cause that the lines before do not contain.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str("  because: ");
            text.push_str(&cause);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_part_of_the_message_is_not_repeated() {
        let error = anyhow::anyhow!("disk full").context("backend `a`: disk full").context("cannot open");
        assert_eq!(explain(&error), "error: cannot open\n  because: backend `a`: disk full\n");
        assert_eq!(explain(&anyhow::anyhow!("alone")), "error: alone\n");
    }
}
