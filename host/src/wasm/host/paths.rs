//! Chunks in files of their own: all that a chunk's file needs of the system, on one thread, one call after the other.
//!
//! Paths are resolved as WASI's own functions resolve them, and lead nowhere else.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cap_primitives::fs::{self, DirOptions, FollowSymlinks, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{direct, refused, splice};
use crate::limits::PATH_BYTES_MAX;
use crate::transfer::{Sinks, Sources};
use crate::wasm::contract::types::{Caching, Error, FileToLoad, FileToStore};
use crate::wasm::grants::{Witness, note_refused_path};

/// A directory that a guest has open, and who is told what it is refused there.
pub(super) struct Directory {
    pub(super) file: Arc<File>,
    pub(super) is_read_only: bool,
    pub(super) witness: Witness,
}

impl Directory {
    /// Writes a chunk to a file of another name and renames it. A file that is not renamed is removed.
    pub(super) fn store(&self, chunks: &Sources, file: &FileToStore, caching: Caching) -> Result<u64, Error> {
        self.store_then(chunks, file, caching, || ())
    }

    /// As [`Self::store`]; calls `written` when the file is written and has not got its name.
    fn store_then(
        &self,
        chunks: &Sources,
        file: &FileToStore,
        caching: Caching,
        written: impl FnOnce(),
    ) -> Result<u64, Error> {
        let chunk = chunks.chunk(file.index as usize).map_err(refused)?;
        let created = self.create(&file.temporary, caching)?;
        let stored = match caching {
            Caching::Cached => splice::write(&chunk, &created, 0),
            Caching::Direct => direct::write(&chunk, &created),
        };
        drop(created);
        written();
        let stored = stored.and_then(|n_bytes| {
            // What nobody waits for any more must not appear later.
            chunks.chunk(file.index as usize).map_err(refused)?;
            self.rename(&file.temporary, &file.name).map(|()| n_bytes)
        });
        if stored.is_err() {
            self.discard(&file.temporary);
        }
        stored
    }

    /// Fills a buffer from a file. `None` if there is no such file.
    pub(super) fn load(
        &self,
        buffers: &Sinks,
        file: &FileToLoad,
        caching: Caching,
    ) -> Result<Option<u64>, Error> {
        let mut sink = buffers.lease(file.index as usize).map_err(refused)?;
        let mut options = OpenOptions::new();
        // Who opens a pipe would wait for somebody to write.
        options.read(true)._cap_fs_ext_follow(FollowSymlinks::No);
        options.custom_flags((flags(caching) | OFlags::NONBLOCK).bits().cast_signed());
        let opened = match self.open(&file.name, &options) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| self.failed(&file.name, Change::No, caching, &error))?,
        };
        match opened.metadata() {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(Error::InvalidArgument(format!("{:?} is not a file", file.name))),
            Err(error) => return Err(splice::failed(&error)),
        }
        let n_bytes = match caching {
            Caching::Cached => splice::read(&mut sink, &opened, 0),
            Caching::Direct => direct::read(&mut sink, &opened),
        };
        n_bytes.map(Some)
    }

    /// Writes a block past the page cache, and removes it.
    pub(super) fn try_direct(&self, temporary: &str) -> Result<(), Error> {
        let file = self.create(temporary, Caching::Direct)?;
        let tried = direct::try_writing(&file);
        self.discard(temporary);
        tried
    }

    fn create(&self, path: &str, caching: Caching) -> Result<File, Error> {
        if self.is_read_only {
            let error = io::Error::from(Errno::PERM);
            return Err(self.failed(path, Change::Yes, caching, &error));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).custom_flags(flags(caching).bits().cast_signed());
        self.open(path, &options).map_err(|error| {
            // Some file systems make the file before they say that they cannot open it so.
            if says_unsupported(caching, &error) {
                self.discard(path);
            }
            self.failed(path, Change::Yes, caching, &error)
        })
    }

    fn open(&self, path: &str, options: &OpenOptions) -> io::Result<File> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        fs::open(&self.file, Path::new(path), options)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let renamed = match self.try_rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match Path::new(to).parent() {
                Some(parent) => self.make(parent).and_then(|()| self.try_rename(from, to)),
                None => Err(error),
            },
            renamed => renamed,
        };
        renamed.map_err(|error| self.failed(to, Change::Yes, Caching::Cached, &error))
    }

    fn try_rename(&self, from: &str, to: &str) -> io::Result<()> {
        if to.len() > PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        fs::rename(&self.file, Path::new(from), &self.file, Path::new(to))
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(&self.file, path, &DirOptions::new()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Removes a file that is of no use. One that stays is found by whoever looks for it under its temporary name.
    fn discard(&self, path: &str) {
        if let Err(error) = fs::remove_file(&self.file, Path::new(path)) {
            tracing::debug!(%error, "an unfinished file stays");
        }
    }

    /// The contract's error for one of the system's. Notes what was refused.
    fn failed(&self, path: &str, change: Change, caching: Caching, error: &io::Error) -> Error {
        let read_only = change == Change::Yes && self.is_read_only;
        note_refused_path(&self.witness, path, read_only, error);
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            _ if says_unsupported(caching, error) => Error::Unsupported,
            _ if read_only => {
                Error::Other("not permitted; `allow.fs` grants the directory for reading".into())
            }
            Some(Errno::ACCESS) => {
                Error::Other("not permitted; the directory's owner and mode must allow it".into())
            }
            Some(Errno::ROFS) => Error::Other("the file system is read-only".into()),
            Some(Errno::NAMETOOLONG) => {
                let why = format!("a name is too long, or a path longer than {PATH_BYTES_MAX} bytes");
                Error::InvalidArgument(why)
            }
            _ => splice::failed(error),
        }
    }
}

/// Whether the file system would have been changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    No,
    Yes,
}

fn flags(caching: Caching) -> OFlags {
    match caching {
        Caching::Cached => OFlags::empty(),
        Caching::Direct => OFlags::DIRECT,
    }
}

/// Whether a file system has said that it does no direct I/O.
fn says_unsupported(caching: Caching, error: &io::Error) -> bool {
    caching == Caching::Direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

#[cfg(test)]
mod tests;
