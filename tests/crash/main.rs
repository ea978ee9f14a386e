//! Repeatedly kills a process that stores chunks, and examines what it leaves behind.
//!
//! The parent (`harness`) starts itself as a child that embeds an engine with a backend of files and works on it from
//! several threads (`child`). At a random moment it kills the child with SIGKILL, examines every file of the directory
//! itself (`folder`), compares the files with the answers that the child got (`journal`), and starts a new process on
//! the directory, which reads everything back.

mod child;
mod chunks;
mod folder;
mod harness;
mod journal;
mod process;
mod random;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Repeatedly kills a process that stores chunks, and checks what it leaves behind.
#[derive(Debug, Parser)]
#[command(name = "kvtier-crash")]
pub(crate) struct Args {
    #[command(subcommand)]
    child: Option<Role>,
    /// How often the process is killed
    #[arg(long, default_value_t = 250)]
    pub(crate) kills: u32,
    /// Seed of the moments and operations; random by default
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The backend under test
    #[arg(long, value_enum, default_value = "fs")]
    pub(crate) backend: Backend,
}

/// The backend under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The `fs` backend
    Fs,
    /// A backend that writes files in place, which must fail
    Inplace,
}

/// The role of a child.
#[derive(Debug, Subcommand)]
enum Role {
    /// Puts, gets and removes chunks until it is killed (started by the harness)
    #[command(hide = true)]
    Load(ChildArgs),
    /// Reads all chunks once (started by the harness)
    #[command(hide = true)]
    Read(ChildArgs),
}

/// The arguments of a child.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChildArgs {
    #[arg(long, value_enum)]
    pub(crate) backend: Backend,
    #[arg(long)]
    pub(crate) directory: PathBuf,
    /// Bytes that the backend may keep; no limit by default
    #[arg(long)]
    pub(crate) capacity: Option<u64>,
    /// Seed of the operations
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Stores chunks until the capacity is used up, after reading
    #[arg(long)]
    pub(crate) fill: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.child {
        Some(Role::Load(child)) => child::load(child),
        Some(Role::Read(child)) => child::read(child),
        None => harness::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
