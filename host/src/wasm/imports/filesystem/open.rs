//! Opening a file or a directory below another directory.
//!
//! As WASI's own function does it, resolved by the same crate, but for `O_NONBLOCK`: the other end of a pipe, or of a
//! terminal, is not waited for. Reading and writing regular files does not change by it.

use std::fs::File as StdFile;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cap_primitives::fs::{FollowSymlinks, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use wasmtime::component::Resource;
use wasmtime_wasi::OpenMode;
use wasmtime_wasi::filesystem::{Descriptor, Dir, File};

use super::{Beyond, DeniedBy, begin, record};
use crate::wasm::policy::open_files::OpenFileSlot;
use crate::wasm::state::GuestState;
use crate::wasm::state::file_work::Begun;

/// How a file is to be opened.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "as WASI has them, in sets of flags")]
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

/// Why a file was not opened.
pub(super) enum Failure {
    NotPermitted,
    NotDirectory,
    Invalid,
    Unsupported,
    System(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// A file that is about to be opened, with all that is held for it.
pub(super) struct Opening {
    directory: Dir,
    path: String,
    how: How,
    begun: Begun,
    place: OpenFileSlot,
}

/// What came of it.
pub(super) struct Opened {
    path: String,
    how: How,
    is_read_only: bool,
    place: OpenFileSlot,
    descriptor: Result<Descriptor, Failure>,
}

impl Opening {
    /// Takes its place among the open files and the pending operations. `Ok(None)` if it begins at what is not a
    /// directory.
    ///
    /// # Errors
    /// A trap, if there is no such descriptor.
    pub(super) fn new(
        state: &mut GuestState,
        from: &Resource<Descriptor>,
        path: String,
        how: How,
    ) -> wasmtime::Result<Result<Option<Self>, Beyond>> {
        let Descriptor::Dir(directory) = state.table.get(from)? else { return Ok(Ok(None)) };
        let directory = directory.clone();
        let begun = match begin(state, &[&path]) {
            Ok(begun) => begun,
            Err(beyond) => return Ok(Err(beyond)),
        };
        let Some(place) = state.budgets.open_files.reserve(&state.table) else {
            return Ok(Err(Beyond::OpenFiles));
        };
        Ok(Ok(Some(Self { directory, path, how, begun, place })))
    }

    /// Opens it on a thread that may block.
    pub(super) async fn open(self) -> wasmtime::Result<Opened> {
        let Self { directory, path, how, begun, place } = self;
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
        Ok(Opened { path, how, is_read_only, place, descriptor })
    }
}

impl Opened {
    /// Puts the file into the table, or notes that it was refused.
    pub(super) fn put(
        self,
        state: &mut GuestState,
    ) -> wasmtime::Result<Result<Resource<Descriptor>, Failure>> {
        match self.descriptor {
            Ok(descriptor) => {
                match &descriptor {
                    Descriptor::File(file) => state.budgets.open_files.opened(&file.file, self.place),
                    Descriptor::Dir(directory) => state.budgets.open_files.opened(&directory.dir, self.place),
                }
                Ok(Ok(state.table.push(descriptor)?))
            }
            Err(failure) => {
                if let Some(refusal) = failure.refusal() {
                    let changes = self.how.creates || self.how.truncates || self.how.writes;
                    record(&state.policy.denial_log, &self.path, refusal, changes && self.is_read_only);
                }
                Ok(Err(failure))
            }
        }
    }
}

impl Failure {
    fn refusal(&self) -> Option<DeniedBy> {
        match self {
            Self::NotPermitted => Some(DeniedBy::NotPermitted),
            Self::System(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let by_system = error.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error());
                Some(if by_system { DeniedBy::Access } else { DeniedBy::NotPermitted })
            }
            _ => None,
        }
    }
}

impl How {
    /// Returns what the system is asked for, and what the descriptor may be used for.
    fn options(self, is_read_only: bool) -> Result<(OpenOptions, OpenMode), Failure> {
        let changes = self.creates || self.truncates || self.writes;
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
        // What is not written is opened for reading, so that it can be opened at all.
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

/// Opens a path, and tells whether it is a directory.
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
