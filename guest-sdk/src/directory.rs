//! Files by their paths: a file backend without WASI.
//!
//! A path begins with the guest's path of a directory that the operator grants with `allow.fs`, as in `/data/chunks`.
//! The contract's interface `directory` has the rules and the errors.
//!
//! ```no_run
//! use kvtier_guest::prelude::*;
//! use kvtier_guest::{Caching, FileToStore, directory};
//!
//! # async fn example(keys: &[ChunkKey], data: &Sources) -> Result<(), Error> {
//! let files = keys.iter().zip(0..).map(|(key, index)| FileToStore {
//!     index,
//!     temporary: format!("{key}.tmp"),
//!     name: format!("{key}.kv"),
//! });
//! let stored = data.store_all_in("/data/chunks", files.collect(), Caching::Cached).await;
//!
//! let mut pages = directory::pages("/data/chunks");
//! while let Some(entries) = pages.next().await? {
//!     for entry in entries {
//!         info!("{}: {} bytes", entry.name, entry.size);
//!     }
//! }
//! # drop(stored);
//! # Ok(())
//! # }
//! ```

use crate::bindings::kvtier::storage::{directory, directory_blocking};
use crate::{Caching, DirectoryEntry, Error, FileToLoad, FileToStore, Sinks, Sources};

impl Sources {
    /// Writes chunks to files of their own below the directory with this path, as [`store_all`](Self::store_all) does.
    /// Makes the directory if it is missing.
    ///
    /// # Errors
    /// For each file, see the contract's `directory.store-all`.
    pub async fn store_all_in(
        &self,
        directory: &str,
        files: Vec<FileToStore>,
        caching: Caching,
    ) -> Vec<Result<u64, Error>> {
        directory::store_all(self, directory.to_owned(), files, caching).await
    }

    /// [`store_all_in`](Self::store_all_in) for a [`BlockingBackend`](crate::BlockingBackend).
    ///
    /// # Errors
    /// As [`store_all_in`](Self::store_all_in).
    pub fn store_all_in_blocking(
        &self,
        directory: &str,
        files: &[FileToStore],
        caching: Caching,
    ) -> Vec<Result<u64, Error>> {
        directory_blocking::store_all(self, directory, files, caching)
    }
}

impl Sinks {
    /// Fills buffers from files of their own below the directory with this path, as [`load_all`](Self::load_all) does.
    ///
    /// # Errors
    /// For each file, see the contract's `directory.load-all`.
    pub async fn load_all_in(
        &self,
        directory: &str,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Vec<Result<Option<u64>, Error>> {
        directory::load_all(self, directory.to_owned(), files, caching).await
    }

    /// [`load_all_in`](Self::load_all_in) for a [`BlockingBackend`](crate::BlockingBackend).
    ///
    /// # Errors
    /// As [`load_all_in`](Self::load_all_in).
    pub fn load_all_in_blocking(
        &self,
        directory: &str,
        files: &[FileToLoad],
        caching: Caching,
    ) -> Vec<Result<Option<u64>, Error>> {
        directory_blocking::load_all(self, directory, files, caching)
    }
}

/// Returns up to 4096 entries of a directory, in the order of their names, whose names come after `after`.
///
/// # Errors
/// See the contract's `directory.list`.
pub async fn list(directory: &str, after: &str) -> Result<Vec<DirectoryEntry>, Error> {
    directory::list(directory.to_owned(), after.to_owned()).await
}

/// [`list`] for a [`BlockingBackend`](crate::BlockingBackend).
///
/// # Errors
/// As [`list`].
pub fn list_blocking(directory: &str, after: &str) -> Result<Vec<DirectoryEntry>, Error> {
    directory_blocking::list(directory, after)
}

/// Removes a file or a link, and reports whether there was one.
///
/// # Errors
/// See the contract's `directory.remove`.
pub async fn remove(path: &str) -> Result<bool, Error> {
    directory::remove(path.to_owned()).await
}

/// [`remove`] for a [`BlockingBackend`](crate::BlockingBackend).
///
/// # Errors
/// As [`remove`].
pub fn remove_blocking(path: &str) -> Result<bool, Error> {
    directory_blocking::remove(path)
}

/// Returns the content of a file of up to 1 MiB, or `None` if there is no such file.
///
/// # Errors
/// See the contract's `directory.read`.
pub async fn read(path: &str) -> Result<Option<Vec<u8>>, Error> {
    directory::read(path.to_owned()).await
}

/// [`read`] for a [`BlockingBackend`](crate::BlockingBackend).
///
/// # Errors
/// As [`read`].
pub fn read_blocking(path: &str) -> Result<Option<Vec<u8>>, Error> {
    directory_blocking::read(path)
}

/// Writes a file of up to 1 MiB and replaces any file of that name: others see the whole file or the one before.
///
/// # Errors
/// See the contract's `directory.write`.
pub async fn write(path: &str, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
    directory::write(path.to_owned(), bytes.into()).await
}

/// [`write()`] for a [`BlockingBackend`](crate::BlockingBackend).
///
/// # Errors
/// As [`write()`].
pub fn write_blocking(path: &str, bytes: &[u8]) -> Result<(), Error> {
    directory_blocking::write(path, bytes)
}

/// Returns all entries of a directory, some at a time.
pub fn pages(directory: &str) -> Pages {
    Pages { directory: directory.to_owned(), after: Some(String::new()) }
}

/// The entries of a directory, some at a time, in the order of their names.
#[derive(Debug)]
pub struct Pages {
    directory: String,
    /// The last name so far; `None` after the last of all.
    after: Option<String>,
}

impl Pages {
    /// Returns some more entries; `None` after the last.
    ///
    /// # Errors
    /// See the contract's `directory.list`.
    pub async fn next(&mut self) -> Result<Option<Vec<DirectoryEntry>>, Error> {
        let Some(after) = &self.after else { return Ok(None) };
        let page = list(&self.directory, after).await;
        Ok(self.turn(page?))
    }

    /// [`next`](Self::next) for a [`BlockingBackend`](crate::BlockingBackend).
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_blocking(&mut self) -> Result<Option<Vec<DirectoryEntry>>, Error> {
        let Some(after) = &self.after else { return Ok(None) };
        let page = list_blocking(&self.directory, after);
        Ok(self.turn(page?))
    }

    fn turn(&mut self, page: Vec<DirectoryEntry>) -> Option<Vec<DirectoryEntry>> {
        self.after = page.last().map(|entry| entry.name.clone());
        (!page.is_empty()).then_some(page)
    }
}
