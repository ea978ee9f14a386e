//! Chunks in files, one per file: all system calls for a file, one after the other on one thread.
//!
//! Paths are resolved as WASI's own functions resolve them, and cannot lead out of the directory.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cap_primitives::fs::{self, DirOptions, FollowSymlinks, OpenOptions, OpenOptionsExt};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{direct, refused, splice};
use crate::limits::PATH_BYTES_MAX;
use crate::transfer::{Sinks, Sources};
use crate::wasm::contract::failed;
use crate::wasm::contract::types::{Caching, Error, FileToLoad, FileToStore};
use crate::wasm::imports::filesystem::note_refused_path;
use crate::wasm::policy::DenialLog;
use crate::wasm::state::ownership::{Question, Tried};

/// Checks a path when a call is made, before the call waits: until then the host has to keep the path.
pub(super) fn check_path(path: &str) -> Result<(), Error> {
    let n_bytes = path.len();
    if n_bytes > PATH_BYTES_MAX {
        let why = format!("a path has {n_bytes} bytes; at most {PATH_BYTES_MAX} are allowed");
        return Err(Error::InvalidArgument(why));
    }
    if path.contains('\0') {
        return Err(Error::InvalidArgument(format!("the path {path:?} has a NUL character in it")));
    }
    Ok(())
}

/// A directory that a guest has open, with the log for its denials.
pub(super) struct Directory {
    pub(super) file: Arc<File>,
    pub(super) is_read_only: bool,
    pub(super) denial_log: DenialLog,
}

impl Directory {
    /// Writes a chunk to a file of another name and renames it. A file that is not renamed is removed.
    pub(super) fn store(&self, chunks: &Sources, file: &FileToStore, caching: Caching) -> Result<u64, Error> {
        self.store_then(chunks, file, caching, || ())
    }

    /// As [`Self::store`]. Calls `written` when the file is written and does not have its final name yet.
    fn store_then(
        &self,
        chunks: &Sources,
        file: &FileToStore,
        caching: Caching,
        written: impl FnOnce(),
    ) -> Result<u64, Error> {
        check_path(&file.temporary).and_then(|()| check_path(&file.name))?;
        let chunk = chunks.chunk(file.index as usize).map_err(refused)?;
        let created = self.create(&file.temporary, caching)?;
        let stored = match caching {
            Caching::Cached => splice::write(&chunk, &created, 0),
            Caching::Direct => direct::write(&chunk, &created),
        };
        drop(created);
        written();
        let stored = stored.and_then(|n_bytes| {
            // A chunk whose call has ended must not appear later.
            chunks.chunk(file.index as usize).map_err(refused)?;
            self.rename(&file.temporary, &file.name).map(|()| n_bytes)
        });
        if stored.is_err() {
            self.discard(&file.temporary);
        }
        stored
    }

    /// Fills a buffer from a file and returns the number of bytes read, `None` if there is no such file. Reads nothing
    /// of a file that is larger than the buffer, and returns its size.
    pub(super) fn load(
        &self,
        buffers: &Sinks,
        file: &FileToLoad,
        caching: Caching,
    ) -> Result<Option<u64>, Error> {
        check_path(&file.name)?;
        let mut sink = buffers.lease(file.index as usize).map_err(refused)?;
        let mut options = OpenOptions::new();
        // Opening a pipe would wait for a writer.
        options.read(true)._cap_fs_ext_follow(FollowSymlinks::No);
        options.custom_flags((flags(caching) | OFlags::NONBLOCK).bits().cast_signed());
        let opened = match fs::open(&self.file, Path::new(&file.name), &options) {
            Err(error) if leads_nowhere(&error) => return Ok(None),
            opened => opened.map_err(|error| self.failed(&file.name, Change::No, caching, &error))?,
        };
        match opened.metadata() {
            // A larger file cannot be this chunk.
            Ok(metadata) if metadata.is_file() && metadata.len() > sink.capacity() as u64 => {
                return Ok(Some(metadata.len()));
            }
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(not_a_file(&file.name)),
            Err(error) => return Err(failed(&error)),
        }
        let n_bytes = match caching {
            Caching::Cached => splice::read(&mut sink, &opened, 0),
            Caching::Direct => direct::read(&mut sink, &opened),
        };
        n_bytes.map(Some)
    }

    /// Writes a block past the page cache, and removes it.
    pub(super) fn try_direct(&self, temporary: &str) -> Result<(), Error> {
        check_path(temporary)?;
        let file = self.create(temporary, Caching::Direct)?;
        let tried = direct::try_writing(&file);
        self.discard(temporary);
        tried
    }

    /// Opens a directory below this one, or this one if the path is empty.
    fn open_directory(&self, path: &str) -> Result<File, Error> {
        check_path(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Always opened again: duplicated descriptors share their lock.
        let open = |directory: &File| rustix::fs::openat(directory, ".", flags, Mode::empty());
        let opened = match path {
            "" => open(&self.file).map_err(io::Error::from),
            path => fs::open_dir(&self.file, Path::new(path)).and_then(|found| Ok(open(&found)?)),
        };
        opened.map(File::from).map_err(|error| self.failed(path, Change::No, Caching::Cached, &error))
    }

    /// Opens a directory below this one; `None` if there is none. Does not follow a link as the last part of the path.
    pub(super) fn open_below(&self, path: &str) -> Result<Option<Self>, Error> {
        match fs::open_dir_nofollow(&self.file, Path::new(path)) {
            Ok(file) => Ok(Some(Self {
                file: Arc::new(file),
                is_read_only: self.is_read_only,
                denial_log: self.denial_log.clone(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if leads_nowhere(&error) => {
                Err(Error::InvalidArgument(format!("{path:?} is not a directory")))
            }
            Err(error) => Err(self.failed(path, Change::No, Caching::Cached, &error)),
        }
    }

    /// Makes a directory, and those that lead to it. `path` is shown if that fails.
    pub(super) fn make_all(&self, directory: &Path, path: &str) -> Result<(), Error> {
        if self.is_read_only {
            let error = io::Error::from(Errno::PERM);
            return Err(self.failed(path, Change::Yes, Caching::Cached, &error));
        }
        let mut ancestors: Vec<&Path> = directory.ancestors().collect();
        ancestors.retain(|ancestor| !ancestor.as_os_str().is_empty());
        ancestors.into_iter().rev().try_for_each(|ancestor| {
            let made = self.make(ancestor);
            made.map_err(|error| self.failed(path, Change::Yes, Caching::Cached, &error))
        })
    }

    /// Tries to make the instance the owner of a directory below this one. May block.
    pub(super) fn own(&self, question: &Question, path: &str) -> Result<Tried, Error> {
        if self.is_read_only { Ok(Tried::ReadOnly) } else { question.ask(self.open_directory(path)?) }
    }

    fn create(&self, path: &str, caching: Caching) -> Result<File, Error> {
        if self.is_read_only {
            let error = io::Error::from(Errno::PERM);
            return Err(self.failed(path, Change::Yes, caching, &error));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).custom_flags(flags(caching).bits().cast_signed());
        fs::open(&self.file, Path::new(path), &options).map_err(|error| {
            let failed = self.failed(path, Change::Yes, caching, &error);
            // Some file systems create the file before they fail to open it for direct I/O.
            if failed == Error::Unsupported {
                self.discard(path);
            }
            failed
        })
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

    pub(super) fn try_rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(&self.file, Path::new(from), &self.file, Path::new(to))
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(&self.file, path, &DirOptions::new()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Removes an unfinished file. One that stays can be found by its temporary name.
    pub(super) fn discard(&self, path: &str) {
        if let Err(error) = fs::remove_file(&self.file, Path::new(path)) {
            tracing::debug!(%error, "an unfinished file stays");
        }
    }

    /// Returns the contract's error for one of the system's. Records a denial.
    pub(super) fn failed(&self, path: &str, change: Change, caching: Caching, error: &io::Error) -> Error {
        let read_only = change == Change::Yes && self.is_read_only;
        note_refused_path(&self.denial_log, path, read_only, error);
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::INVAL) if caching == Caching::Direct => self.explain_direct(path),
            // The last part is not followed.
            Some(Errno::LOOP) => {
                Error::InvalidArgument(format!("{path:?} is a link, or leads through a circle of links"))
            }
            _ if read_only => {
                Error::Other("not permitted; `allow.fs` grants the directory for reading".into())
            }
            Some(Errno::ACCESS) => {
                Error::Other("not permitted; the directory's owner and mode must allow it".into())
            }
            Some(Errno::ROFS) => Error::Other("the file system is read-only".into()),
            Some(Errno::NAMETOOLONG) => {
                Error::InvalidArgument(format!("the path {path:?} is too long, or a name in it"))
            }
            _ => failed(error),
        }
    }

    /// Returns why the system does not open a path for direct I/O: the file system has none, or the path is a directory
    /// or a pipe. The system has one error code for all of these.
    fn explain_direct(&self, path: &str) -> Error {
        match fs::stat(&self.file, Path::new(path), FollowSymlinks::No) {
            Ok(found) if !found.is_file() => not_a_file(path),
            _ => Error::Unsupported,
        }
    }
}

/// Reports whether the file, or a directory in its path, does not exist.
pub(super) fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn not_a_file(path: &str) -> Error {
    Error::InvalidArgument(format!("{path:?} is not a file"))
}

/// The effect of an operation on the file system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    No,
    Yes,
}

fn flags(caching: Caching) -> OFlags {
    match caching {
        Caching::Cached => OFlags::empty(),
        Caching::Direct => OFlags::DIRECT,
    }
}

#[cfg(test)]
mod tests;
