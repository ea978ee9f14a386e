//! `kvtier completions`: the completions of a shell.

use std::io::Write;

use anyhow::Result;
use clap::{Command, CommandFactory as _};
use clap_complete::generate;

use super::print;
use crate::args::{Cli, CompletionsArgs};

/// Writes the completions of a shell to `out`.
///
/// # Errors
/// If `out` cannot be written.
pub fn completions(args: &CompletionsArgs, out: &mut impl Write) -> Result<()> {
    let all = Cli::command();
    // Completions would offer hidden commands.
    let visible = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command =
        Command::new("kvtier").args(all.get_arguments().cloned()).subcommands(visible.collect::<Vec<_>>());
    // Into memory first: `generate` panics if it cannot write.
    let mut script = Vec::new();
    generate(args.shell, &mut command, "kvtier", &mut script);
    print(out, &String::from_utf8_lossy(&script))
}
