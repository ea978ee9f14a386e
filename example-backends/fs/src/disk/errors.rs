//! Errors of the directory, in words for the operator.

use kvtier_guest::wasip3::filesystem::types::{DescriptorType, ErrorCode};
use kvtier_guest::{ChunkKey, Error, Level};

use super::{Disk, names};

impl Disk {
    /// Describes what is in the place of a chunk's file, or of its directory, if it cannot be replaced.
    pub(super) async fn obstacle(&self, key: ChunkKey) -> Option<String> {
        let (directory, file) = (self.path(&names::directory_of(key)), self.file_of(key));
        let is_there = self.granted.stat(directory.clone()).await.is_ok();
        if is_there && !matches!(self.granted.is_directory(directory.clone()).await, Ok(true)) {
            return Some(format!(
                "{}: `{directory}` is not a directory; remove it or replace it with one",
                self.name
            ));
        }
        let found = self.granted.stat(file.clone()).await.ok()?.type_;
        let can_be_replaced = matches!(found, DescriptorType::RegularFile | DescriptorType::SymbolicLink);
        (!can_be_replaced).then(|| format!("{}: `{file}` is not a file; remove it", self.name))
    }

    /// Logs once when the disk begins to refuse chunks, and once when it accepts them again; at growing intervals if
    /// these alternate.
    pub(crate) fn note(&self, written: &Result<(), Error>) {
        let name = &self.name;
        match written {
            Ok(()) if self.refuses.replace(false) => {
                self.recoveries.log(Level::Info, format_args!("{name}: chunks are stored again"));
            }
            // The end of a call is not a fault of the disk.
            Ok(()) | Err(Error::InvalidArgument(_)) => {}
            Err(error) if !self.refuses.replace(true) => {
                let message = format_args!("{name}: chunks cannot be stored, and are only read: {error:?}");
                self.refusals.log(Level::Warn, message);
            }
            Err(_) => {}
        }
    }

    /// Returns the error for a change where the directory is granted for reading.
    pub(crate) fn read_only(&self) -> Error {
        self.failed(ErrorCode::NotPermitted)
    }

    /// Returns the contract's error, which names the directory. A full disk is `no-space`.
    pub(super) fn failed(&self, code: ErrorCode) -> Error {
        let why = match code {
            ErrorCode::Access | ErrorCode::NotPermitted | ErrorCode::ReadOnly => {
                "not permitted; the directory's owner and mode must allow it, and `allow.fs` grant it with `:rw`"
                    .to_owned()
            }
            // WASI has codes for a read-only file system and for a quota, but hosts say `io`.
            ErrorCode::Io => "the file system is read-only, over its quota, or failing".to_owned(),
            code => match Error::from(code) {
                Error::Other(words) => words,
                error => return error,
            },
        };
        Error::other(format!("{}: {why}", self.name))
    }

    /// Adds the directory's name to an error of the host.
    pub(super) fn named(&self, error: Error) -> Error {
        match error {
            Error::Other(words) => Error::other(format!("{}: {words}", self.name)),
            error => error,
        }
    }
}
