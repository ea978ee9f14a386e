//! The `kvtier` command. Exit codes: 0 success, 1 failure, 2 wrong usage, 3 a backend that failed the judgement of a
//! replay.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use kvtier::{Compiler, Config};
use kvtier_cli::args::Cli;
use kvtier_cli::{exit_code, explain, logging};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let command_line = std::iter::once("kvtier".to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    let program = std::env::current_exe().ok();
    // This program is the compiler, unless the configuration names one.
    let adapt = |config: &mut Config| {
        if let (Compiler::OnPath, Some(program)) = (&config.compiler, &program) {
            config.compiler = Compiler::Program(program.clone());
        }
    };
    let started = logging::start(cli.verbosity, &cli.command);
    match started.and_then(|()| kvtier_cli::run(cli, &command_line, &adapt)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere to report that the standard error is closed.
            std::io::stderr().write_all(explain(&error).as_bytes()).unwrap_or_default();
            ExitCode::from(exit_code(&error))
        }
    }
}
