//! The `kvtier` command, for `python -m kvtier` and for the compiler process of engines.

use std::io::Write as _;

use clap::Parser as _;
use clap::error::ErrorKind;
use kvtier::Config;
use kvtier_cli::args::Cli;
use kvtier_cli::{exit_code, explain, logging};
use pyo3::prelude::*;

use crate::build;

/// Runs the command with the given words, without the program's name, and returns its exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, words: Vec<String>) -> PyResult<i32> {
    let compiler = build::compiler(py)?;
    Ok(py.detach(move || run(words, compiler)))
}

fn run(words: Vec<String>, compiler: Option<(std::path::PathBuf, Vec<String>)>) -> i32 {
    let words = std::iter::once("kvtier".to_owned()).chain(words).collect::<Vec<_>>();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                0
            } else {
                2
            };
            error.print().unwrap_or_default();
            return code;
        }
    };
    let adapt = |config: &mut Config| build::adapt(config, compiler.clone());
    let started = logging::start(cli.verbosity, &cli.command);
    match started.and_then(|()| kvtier_cli::run(cli, &words.join(" "), &adapt)) {
        Ok(()) => 0,
        Err(error) => {
            std::io::stderr().write_all(explain(&error).as_bytes()).unwrap_or_default();
            exit_code(&error).into()
        }
    }
}
