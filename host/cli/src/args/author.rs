//! The arguments of the commands that make a project of a backend.

use std::path::PathBuf;

use clap::Args;

use crate::project::{Language, Medium};

/// `kvtier new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// The project, and the folder to make: lower-case words with - between them.
    #[arg(value_name = "NAME", required_unless_present = "list", conflicts_with = "list")]
    pub name: Option<String>,

    /// The language.
    #[arg(long, value_name = "LANGUAGE", required_unless_present = "list")]
    pub lang: Option<Language>,

    /// Where the backend keeps chunks.
    #[arg(long, value_name = "WHERE", default_value = "memory")]
    pub on: Medium,

    /// Folder to make the project in.
    #[arg(long = "in", value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,

    /// Folder of the crate kvtier-guest, for Rust, instead of the published crate.
    #[arg(long, value_name = "PATH")]
    pub sdk: Option<PathBuf>,

    /// List the templates instead.
    #[arg(long)]
    pub list: bool,
}

/// `kvtier componentize`.
#[derive(Debug, Args)]
pub struct ComponentizeArgs {
    /// The core module, as the linker wrote it.
    #[arg(value_name = "MODULE")]
    pub module: PathBuf,

    /// The component to write; replaced if it exists.
    #[arg(short, long, value_name = "COMPONENT")]
    pub out: PathBuf,
}
