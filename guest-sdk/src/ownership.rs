//! Being the one that keeps a directory to a capacity.

use wasip3::filesystem::types::Descriptor;

use crate::bindings::kvtier::storage::{files, files_blocking};
use crate::{Error, Ownership};

/// Asks to be the instance that keeps `path`, a directory below `directory`, to a capacity: of all instances that share
/// it, in this process or another, the one that evicts. Ask again from time to time; see the contract's
/// `files.keep-capacity`.
///
/// # Errors
/// [`Error::Unsupported`] if the file system has no locks; else see the contract's `files.keep-capacity`.
pub async fn keep_capacity(directory: &Descriptor, path: String) -> Result<Ownership, Error> {
    files::keep_capacity(directory, path).await
}

/// [`keep_capacity`] for a [`BlockingBackend`](crate::BlockingBackend).
///
/// # Errors
/// As [`keep_capacity`].
pub fn keep_capacity_blocking(
    directory: &wasip2::filesystem::types::Descriptor,
    path: &str,
) -> Result<Ownership, Error> {
    files_blocking::keep_capacity(directory, path)
}
