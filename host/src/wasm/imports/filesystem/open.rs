//! Opening a file or a directory below another directory.
//!
//! This is what WASI's own function does, with paths resolved by the same crate, and with `O_NONBLOCK` in addition: it
//! does not wait for the other end of a pipe or a terminal. Regular files are read and written as without it.

use std::fs::File as StdFile;
use std::path::Path;
use std::sync::Arc;

use cap_primitives::fs::{FollowSymlinks, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use wasmtime::component::Resource;
use wasmtime_wasi::OpenMode;
use wasmtime_wasi::filesystem::{Descriptor, Dir, File};

use super::{DeniedBy, Failure, StoreAccess, begin, record};
use crate::wasm::policy::open_files::OpenFileSlot;
use crate::wasm::state::FilesView;
use crate::wasm::state::file_work::Begun;

/// How a file is to be opened.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "WASI has them as sets of flags")]
pub(super) struct How {
    pub(super) follows: bool,
    pub(super) creates: bool,
    pub(super) is_new: bool,
    pub(super) truncates: bool,
    pub(super) is_directory: bool,
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) syncs: bool,
}

/// Opens a file or a directory below the one that `from` has open.
///
/// # Errors
/// A trap, if there is no such descriptor.
pub(super) async fn open_at(
    mut store: impl StoreAccess,
    from: Resource<Descriptor>,
    path: String,
    how: How,
) -> wasmtime::Result<Result<Resource<Descriptor>, Failure>> {
    let opening = match store.state(|state| Opening::new(&mut state.files(), &from, path, how))? {
        Ok(opening) => opening,
        Err(failure) => return Ok(Err(failure)),
    };
    let opened = opening.open().await?;
    store.state(|state| opened.put(&mut state.files()))
}

/// A file that is about to be opened, with what it holds of the limits.
struct Opening {
    directory: Dir,
    path: String,
    how: How,
    begun: Begun,
    slot: OpenFileSlot,
}

/// A file that was opened, or why it was not.
struct Opened {
    path: String,
    how: How,
    is_read_only: bool,
    slot: OpenFileSlot,
    descriptor: Result<Descriptor, Failure>,
}

impl Opening {
    /// Counts the file among the open ones, and the operation among the pending ones.
    fn new(
        files: &mut FilesView<'_>,
        from: &Resource<Descriptor>,
        path: String,
        how: How,
    ) -> wasmtime::Result<Result<Self, Failure>> {
        let Descriptor::Dir(directory) = files.table.get(from)? else {
            return Ok(Err(Failure::NotDirectory));
        };
        let directory = directory.clone();
        let begun = match begin(files, &[&path]) {
            Ok(begun) => begun,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(slot) = files.open_files.reserve(files.table) else {
            return Ok(Err(Failure::OpenFiles));
        };
        Ok(Ok(Self { directory, path, how, begun, slot }))
    }

    /// Opens it on a thread that may block.
    async fn open(self) -> wasmtime::Result<Opened> {
        let Self { directory, path, how, begun, slot } = self;
        let is_read_only = directory.perms.write_not_permitted();
        let descriptor = match how.options(is_read_only) {
            Err(failure) => Err(failure),
            Ok((options, mode)) => {
                let (handle, path) = (Arc::clone(&directory.dir), path.clone());
                let open = move || {
                    let _begun = begun;
                    open(&handle, &path, &options, how.is_directory)
                };
                let opened = tokio::task::spawn_blocking(open).await?;
                opened.map(|(file, is_directory)| {
                    if is_directory {
                        Descriptor::Dir(Dir::new(file, directory.perms, mode, false))
                    } else {
                        Descriptor::File(File::new(file, directory.perms, mode, false))
                    }
                })
            }
        };
        Ok(Opened { path, how, is_read_only, slot, descriptor })
    }
}

impl Opened {
    /// Puts the file into the table, or records that it was refused.
    fn put(self, files: &mut FilesView<'_>) -> wasmtime::Result<Result<Resource<Descriptor>, Failure>> {
        match self.descriptor {
            Ok(descriptor) => {
                match &descriptor {
                    Descriptor::File(file) => files.open_files.opened(&file.file, self.slot),
                    Descriptor::Dir(directory) => files.open_files.opened(&directory.dir, self.slot),
                }
                Ok(Ok(files.table.push(descriptor)?))
            }
            Err(failure) => {
                let denied_by = match &failure {
                    Failure::NotPermitted => Some(DeniedBy::NotPermitted),
                    Failure::System(error) => DeniedBy::of(error),
                    _ => None,
                };
                if let Some(denied_by) = denied_by {
                    let changes = self.how.changes() && self.is_read_only;
                    record(files.denial_log, &self.path, denied_by, changes);
                }
                Ok(Err(failure))
            }
        }
    }
}

impl How {
    fn changes(self) -> bool {
        self.creates || self.truncates || self.writes
    }

    /// Returns the options for the system, and what the descriptor may be used for.
    fn options(self, is_read_only: bool) -> Result<(OpenOptions, OpenMode), Failure> {
        let changes = self.changes();
        if self.syncs {
            return Err(Failure::Unsupported);
        }
        if self.is_directory && (self.creates || self.is_new || self.truncates) {
            return Err(Failure::Invalid);
        }
        if changes && is_read_only {
            return Err(Failure::NotPermitted);
        }
        let mut mode = OpenMode::empty();
        // A file that is opened for neither is opened for reading: the system needs one of them.
        mode.set(OpenMode::READ, self.reads || !self.writes);
        mode.set(OpenMode::WRITE, changes);
        let mut options = OpenOptions::new();
        options
            .read(mode.contains(OpenMode::READ))
            .write(mode.contains(OpenMode::WRITE))
            .create(self.creates && !self.is_new)
            .create_new(self.creates && self.is_new)
            .truncate(self.truncates)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            ._cap_fs_ext_follow(if self.follows { FollowSymlinks::Yes } else { FollowSymlinks::No });
        Ok((options, mode))
    }
}

/// Opens a path; returns the file and whether it is a directory.
fn open(
    from: &StdFile,
    path: &str,
    options: &OpenOptions,
    must_be_directory: bool,
) -> Result<(StdFile, bool), Failure> {
    let file = cap_primitives::fs::open(from, Path::new(path), options)?;
    let is_directory = file.metadata()?.is_dir();
    if must_be_directory && !is_directory {
        return Err(Failure::NotDirectory);
    }
    Ok((file, is_directory))
}
