//! `kvtier compose`.

use std::path::PathBuf;

use clap::Args;

/// `kvtier compose`.
#[derive(Debug, Args)]
pub struct ComposeArgs {
    /// The component in front: it imports kvtier:storage/backend.
    #[arg(value_name = "OUTER")]
    pub outer: PathBuf,

    /// The component behind it: it exports kvtier:storage/backend.
    #[arg(value_name = "INNER")]
    pub inner: PathBuf,

    /// Write the component that has both to this file, and replace it if it exists.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
}
