//! The `kvtier` command. It is a library for its own binary and tests only, and not an API: any release may change it.
//!
//! [`args`] defines the command line, [`run`] runs a command, and `main.rs` prints errors and sets the exit code. Only
//! `engine` depends on the host library's engine: a replay reaches it through [`replay::Chain`].

#[doc(hidden)]
pub mod args;
#[doc(hidden)]
pub mod check;
#[doc(hidden)]
pub mod commands;
#[doc(hidden)]
pub mod content;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod format;
#[doc(hidden)]
pub mod generate;
#[doc(hidden)]
pub mod histogram;
#[doc(hidden)]
pub mod logging;
#[doc(hidden)]
pub mod machine;
mod output;
#[doc(hidden)]
pub mod presets;
#[doc(hidden)]
pub mod progress;
#[doc(hidden)]
pub mod project;
mod random;
#[doc(hidden)]
pub mod replay;
#[doc(hidden)]
pub mod report;
#[cfg(test)]
mod sample;
#[doc(hidden)]
pub mod series;
#[doc(hidden)]
pub mod svg;
#[doc(hidden)]
pub mod table;
#[doc(hidden)]
pub mod trace;

use anyhow::{Context, Result};
use kvtier::__internal::wasm;
use kvtier::{CompileLimits, Config};

use crate::args::{Cli, Command, ConfigArgs, InspectArgs, TraceCommand};
use crate::commands::check::check as check_class;
use crate::commands::compile::{compile, compile_one};
use crate::commands::completions::completions;
use crate::commands::componentize::componentize;
use crate::commands::compose::compose;
use crate::commands::config::config;
use crate::commands::dev::dev;
use crate::commands::generate::generate;
use crate::commands::inspect::inspect;
use crate::commands::new::new;
use crate::output::Output;

/// Fits a configuration to the program that contains the command: names its compiler, for instance.
pub type Adapt<'a> = &'a dyn Fn(&mut Config);

/// Runs one command. A report shows `command_line`. Each configuration that the command reads passes through `adapt`.
///
/// # Errors
/// If the command failed, with the causes.
pub fn run(cli: Cli, command_line: &str, adapt: Adapt<'_>) -> Result<()> {
    let mut out = Output::new();
    match cli.command {
        Command::Replay(mut args) => {
            args.is_quiet = cli.verbosity.quiet;
            commands::replay::replay(&args, command_line, &mut out, || engine::open(&args, adapt))
        }
        Command::Check(mut args) => {
            args.is_quiet = cli.verbosity.quiet;
            check_class(&args, adapt, &mut out)
        }
        Command::Dev(args) => dev(&args, adapt, &mut out),
        Command::Generate(args) | Command::Trace(TraceCommand::Generate(args)) => generate(&args),
        Command::Inspect(InspectArgs { component: Some(component), json, .. }) => {
            limit_this_process()?;
            inspect(&component, json, &mut out)
        }
        Command::Inspect(InspectArgs { config: file, json, .. })
        | Command::Config(ConfigArgs { file, json }) => {
            limit_this_process()?;
            config(file.as_deref(), json, adapt, &mut out)
        }
        Command::Compile(args) => compile(&args, adapt, &mut out),
        Command::New(args) => new(&args, &mut out),
        Command::Componentize(args) => {
            limit_this_process()?;
            componentize(&args, &mut out)
        }
        Command::Compose(args) => {
            limit_this_process()?;
            compose(&args, &mut out)
        }
        Command::Completions(args) => completions(&args, &mut out),
        Command::CompileOne(args) => compile_one(&args),
    }
}

/// Limits this process, for commands that compile components in it and do nothing else.
fn limit_this_process() -> Result<()> {
    wasm::limit_process(&CompileLimits::default()).context("cannot limit this process")
}

/// Returns the exit code for an error: 3 if the command did its work, and backends failed its judgement; else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_judged = error.is::<replay::FaultyBackends>() || error.is::<check::BrokenContract>();
    if is_judged { 3 } else { 1 }
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
