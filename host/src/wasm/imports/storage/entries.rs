//! The entries of a directory, in the order of their names.
//!
//! Nothing is held between two calls, so each reads all names and keeps the first ones after a given name.

use std::collections::BinaryHeap;
use std::path::Path;

use cap_primitives::fs;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::paths::{Change, Directory, leads_nowhere};
use crate::limits::LISTED_ENTRIES_MAX;
use crate::wasm::contract::failed;
use crate::wasm::contract::types::{Caching, DirectoryEntry, EntryKind, Error};

impl Directory {
    /// Returns the first entries of a directory below this one, or of this one if the path is empty, whose names come
    /// after `after`.
    pub(super) fn list(&self, path: &str, after: &str) -> Result<Vec<DirectoryEntry>, Error> {
        let below = Path::new(if path.is_empty() { "." } else { path });
        let opened = match fs::open_dir_nofollow(&self.file, below) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) if leads_nowhere(&error) => {
                return Err(Error::InvalidArgument(format!("{path:?} is not a directory")));
            }
            opened => opened.map_err(|error| self.failed(path, Change::No, Caching::Cached, &error))?,
        };
        let refused = |error: Errno| self.failed(path, Change::No, Caching::Cached, &error.into());
        // Opened again for reading: the path was resolved without.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(opened, ".", flags, Mode::empty()).map_err(refused)?;
        let mut directory = Dir::new(readable).map_err(refused)?;
        let mut after = after.to_owned();
        loop {
            let names = first_names(&mut directory, &after).map_err(refused)?;
            let Some(last) = names.last().cloned() else { return Ok(Vec::new()) };
            let looked_at = names.into_iter().filter_map(|name| entry(&directory, name).transpose());
            let entries = looked_at.collect::<Result<Vec<_>, _>>()?;
            if !entries.is_empty() {
                return Ok(entries);
            }
            // All were removed since, and the guest takes an empty list for the end.
            after = last;
            directory.rewind();
        }
    }
}

/// Returns the first names after `after`, in order.
fn first_names(directory: &mut Dir, after: &str) -> Result<Vec<String>, Errno> {
    // The last of them is on top.
    let mut first = BinaryHeap::new();
    while let Some(entry) = directory.read() {
        let entry = entry?;
        // Names that are not UTF-8 are left out: the guest could not use them.
        let Ok(name) = entry.file_name().to_str() else { continue };
        let is_full = first.len() == LISTED_ENTRIES_MAX;
        if matches!(name, "." | "..")
            || name <= after
            || (is_full && first.peek().is_some_and(|last: &String| name >= last.as_str()))
        {
            continue;
        }
        if is_full {
            first.pop();
        }
        first.push(name.to_owned());
    }
    Ok(first.into_sorted_vec())
}

/// Looks at an entry; `None` if it was removed since.
fn entry(directory: &Dir, name: String) -> Result<Option<DirectoryEntry>, Error> {
    let fd = directory.fd().map_err(refused)?;
    let stat = match rustix::fs::statat(fd, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat.map_err(refused)?,
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    };
    let size = if kind == EntryKind::File { stat.st_size as u64 } else { 0 };
    Ok(Some(DirectoryEntry { name, kind, size, modified_ns: modified_ns(stat.st_mtime, stat.st_mtime_nsec) }))
}

/// Returns a time in nanoseconds since 1970; 0 if it is earlier, or later than a `u64` can count.
fn modified_ns(seconds: i64, nanoseconds: u64) -> u64 {
    let whole = u64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1_000_000_000));
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(0)
}

fn refused(error: Errno) -> Error {
    failed(&error.into())
}
