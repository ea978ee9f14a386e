//! Small files by their paths: read, written and removed as a whole.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use cap_primitives::fs::{self, FollowSymlinks, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::paths::{Change, Directory, leads_nowhere, not_a_file};
use crate::limits::{SMALL_FILE_BYTES_MAX, TEMPORARY_NAMES_MAX};
use crate::wasm::contract::failed;
use crate::wasm::contract::types::{Caching, Error};

/// Checks the size of a small file when a call is made.
pub(super) fn check_size(size_bytes: u64) -> Result<(), Error> {
    if size_bytes <= SMALL_FILE_BYTES_MAX {
        return Ok(());
    }
    let why = format!(
        "the file has {size_bytes} bytes; at most {SMALL_FILE_BYTES_MAX} are read or written at once"
    );
    Err(Error::InvalidArgument(why))
}

impl Directory {
    /// Returns the content of a file; `None` if there is no such file.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut options = OpenOptions::new();
        // Opening a pipe would wait for a writer.
        options.read(true)._cap_fs_ext_follow(FollowSymlinks::No);
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = match fs::open(&self.file, Path::new(path), &options) {
            Err(error) if leads_nowhere(&error) => return Ok(None),
            opened => opened.map_err(|error| self.failed(path, Change::No, Caching::Cached, &error))?,
        };
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        if !metadata.is_file() {
            return Err(not_a_file(path));
        }
        check_size(metadata.len())?;
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        // Others may write to the file meanwhile.
        file.take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        check_size(bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    /// Writes a file under another name and renames it. A file that is not renamed is removed.
    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.write_then(path, bytes, || ())
    }

    /// As [`Self::write`]. Calls `written` when the file is written and does not have its final name yet.
    fn write_then(&self, path: &str, bytes: &[u8], written: impl FnOnce()) -> Result<(), Error> {
        let name = Path::new(path);
        // A name that ends in `..` has none.
        let (Some(parent), Some(_)) = (name.parent(), name.file_name()) else { return Err(not_a_file(path)) };
        let (temporary, mut file) = self.create_beside(parent, path)?;
        let done = file.write_all(bytes);
        drop(file);
        written();
        let done = done.and_then(|()| self.try_rename(&temporary, path));
        done.map_err(|error| {
            self.discard(&temporary);
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::ISDIR) => not_a_file(path),
                _ => self.failed(path, Change::Yes, Caching::Cached, &error),
            }
        })
    }

    /// Makes a new file in `parent`, and `parent` if it is missing. Returns the file's path.
    fn create_beside(&self, parent: &Path, path: &str) -> Result<(String, File), Error> {
        let refused = |error| Err(self.failed(path, Change::Yes, Caching::Cached, &error));
        if self.is_read_only {
            return refused(Errno::PERM.into());
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut is_made = false;
        for _ in 0..TEMPORARY_NAMES_MAX {
            let temporary = parent.join(temporary_name());
            match fs::open(&self.file, &temporary, &options) {
                // The path was given as text.
                Ok(file) => return Ok((temporary.to_string_lossy().into_owned(), file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_made => {
                    self.make_all(parent, path)?;
                    is_made = true;
                }
                Err(error) => return refused(error),
            }
        }
        Err(Error::Other("no temporary name is free".into()))
    }

    /// Removes a file or a link, and reports whether there was one.
    pub(super) fn remove(&self, path: &str) -> Result<bool, Error> {
        if self.is_read_only {
            let error = io::Error::from(Errno::PERM);
            return Err(self.failed(path, Change::Yes, Caching::Cached, &error));
        }
        match fs::remove_file(&self.file, Path::new(path)) {
            Ok(()) => Ok(true),
            Err(error) if leads_nowhere(&error) => Ok(false),
            Err(error) => Err(match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::ISDIR) => not_a_file(path),
                _ => self.failed(path, Change::Yes, Caching::Cached, &error),
            }),
        }
    }
}

/// Returns a name that no other process and thread uses.
fn temporary_name() -> String {
    // The standard library has no other source of random numbers.
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}.tmp", random(), random())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Grants;
    use crate::wasm::policy::{DenialLog, Denials, Secrets};

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let denial_log = DenialLog::new(&Denials::new("b", &Grants::default()), &Secrets::default());
        let file = Arc::new(File::open(folder.path()).unwrap());
        (folder, Directory { file, is_read_only: false, denial_log })
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn others_see_the_whole_file_or_the_one_before() {
        let (folder, directory) = directory();
        directory.write("in/a", b"before").unwrap();
        let written = directory.write_then("in/a", b"after", || {
            assert_eq!(directory.read("in/a"), Ok(Some(b"before".to_vec())));
            let names = names(&folder.path().join("in"));
            let temporary = names.iter().find_map(|name| name.strip_suffix(".tmp")).unwrap();
            assert!(temporary.len() == 32 && temporary.bytes().all(|byte| byte.is_ascii_hexdigit()));
        });
        assert_eq!(written, Ok(()));
        assert_eq!(directory.read("in/a"), Ok(Some(b"after".to_vec())));
        assert_eq!(names(&folder.path().join("in")), ["a"]);
    }

    #[test]
    fn a_file_that_cannot_be_renamed_leaves_nothing() {
        let (folder, directory) = directory();
        std::fs::create_dir_all(folder.path().join("taken/by/a/directory")).unwrap();
        assert_eq!(directory.write("taken", b"x"), Err(not_a_file("taken")));
        assert_eq!(names(folder.path()), ["taken"]);
    }

    #[test]
    fn the_largest_file_is_read_and_a_larger_one_is_not() {
        let (folder, directory) = directory();
        std::fs::write(folder.path().join("a"), vec![1; SMALL_FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(directory.read("a"), Err(Error::InvalidArgument(_))));
        std::fs::write(folder.path().join("a"), vec![1; SMALL_FILE_BYTES_MAX as usize]).unwrap();
        assert_eq!(directory.read("a").unwrap().unwrap().len() as u64, SMALL_FILE_BYTES_MAX);
    }

    #[test]
    fn temporary_names_differ() {
        let names: std::collections::HashSet<_> = (0..100).map(|_| temporary_name()).collect();
        assert_eq!(names.len(), 100);
    }
}
