//! The `kvtier` command, as a library so that tests can drive its parts.
//!
//! Commands are parsed by [`args`]; `main.rs` prints errors and decides the exit code. Only `engine` names the
//! host library's engine: the replay reaches it through [`replay::Chain`].

pub mod args;
pub mod commands;
pub mod content;
pub mod engine;
pub mod format;
pub mod generate;
pub mod histogram;
pub mod logging;
pub mod machine;
pub mod presets;
pub mod progress;
mod random;
pub mod redact;
pub mod replay;
pub mod report;
#[cfg(test)]
mod sample;
pub mod series;
pub mod svg;
pub mod table;
pub mod trace;

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use kvtier::config::CompileLimits;
use kvtier::wasm;

use crate::args::{Cli, Command, InspectArgs, TraceCommand};
use crate::commands::{compile, config as review, inspect, replay as command};

/// Runs one command. `command_line` is what a report shows of it, `program` the `kvtier` command's own file, which
/// compiles components unless the configuration names another compiler.
///
/// # Errors
/// Whatever the command could not do, with its causes.
pub fn run(cli: Cli, command_line: &str, program: Option<&Path>) -> Result<()> {
    match cli.command {
        Command::Trace(TraceCommand::Generate(args)) => command::generate(&args),
        Command::Replay(args) => {
            command::replay(&args, command_line, &mut io::stdout(), || engine::open(&args, program))
        }
        Command::Compile(args) => compile::compile(&args, program, &mut io::stdout()),
        Command::CompileOne(args) => compile::compile_one(&args),
        Command::Inspect(InspectArgs { component: Some(component), .. }) => {
            limit_this_process()?;
            let inspection = inspect::look(&component)?;
            print(&inspect::render(&inspection))?;
            inspect::ensure_usable(&inspection)
        }
        Command::Inspect(InspectArgs { config, .. }) => {
            limit_this_process()?;
            let reviews = review::look(&config.unwrap_or_default(), program)?;
            print(&review::render(&reviews))?;
            review::ensure_usable(&reviews)
        }
    }
}

fn print(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to the standard output")
}

/// For commands that compile components in this process, which has nothing else to do.
fn limit_this_process() -> Result<()> {
    wasm::limit_process(&CompileLimits::default()).context("cannot limit this process")
}

/// Renders an error as the command prints it: what failed, then each cause that the lines before do not say already.
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
    fn a_cause_that_is_part_of_the_message_is_not_said_twice() {
        let error = anyhow::anyhow!("disk full").context("backend `a`: disk full").context("cannot open");
        assert_eq!(explain(&error), "error: cannot open\n  because: backend `a`: disk full\n");
        assert_eq!(explain(&anyhow::anyhow!("alone")), "error: alone\n");
    }
}
