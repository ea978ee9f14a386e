//! Going through the directory, some names at a time.

use std::time::Duration;

use kvtier_guest::wasip3::filesystem::types::{DescriptorType, ErrorCode};
use kvtier_guest::{ChunkKey, Error};

use super::granted::Listing;
use super::{Disk, modified_ns, names, now_ns};

/// Age from which on a file in `tmp/` is one that its writer has left behind.
const TEMPORARY_AGE_MAX: Duration = Duration::from_mins(10);

/// All chunks that there are.
pub(crate) struct Scan<'a> {
    disk: &'a Disk,
    directories: std::vec::IntoIter<String>,
    current: Option<(String, Listing)>,
}

impl Scan<'_> {
    /// Returns some more keys; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<ChunkKey>>, Error> {
        loop {
            if let Some((directory, listing)) = &mut self.current {
                if let Some(entries) = listing.next().await.map_err(|code| self.disk.failed(code))? {
                    let keys = entries.iter().filter_map(|entry| names::key_in(directory, &entry.name));
                    return Ok(Some(keys.collect()));
                }
                self.current = None;
            }
            let Some(directory) = self.directories.next() else { return Ok(None) };
            match self.disk.granted.list(&self.disk.path(&directory)).await {
                Ok(listing) => self.current = Some((directory, listing)),
                // Removed since.
                Err(ErrorCode::NoEntry) => {}
                Err(code) => return Err(self.disk.failed(code)),
            }
        }
    }
}

/// Chunks that others have stored or removed.
pub(crate) struct Notes<'a> {
    disk: &'a Disk,
    listing: Listing,
}

impl Notes<'_> {
    /// Returns some more keys; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<ChunkKey>>, Error> {
        let entries = self.listing.next().await.map_err(|code| self.disk.failed(code))?;
        Ok(entries
            .map(|entries| entries.iter().filter_map(|entry| ChunkKey::from_hex(&entry.name)).collect()))
    }
}

impl Disk {
    /// Begins to go through all chunks.
    pub(crate) async fn scan(&self) -> Result<Scan<'_>, Error> {
        let mut listing = self.granted.list(&self.prefix).await.map_err(|code| self.failed(code))?;
        let mut directories = Vec::new();
        while let Some(entries) = listing.next().await.map_err(|code| self.failed(code))? {
            for entry in entries.into_iter().filter(|entry| names::is_directory_of_chunks(&entry.name)) {
                let is_directory = match entry.type_ {
                    DescriptorType::Directory => true,
                    DescriptorType::SymbolicLink => {
                        matches!(self.granted.is_directory(self.path(&entry.name)).await, Ok(true))
                    }
                    _ => false,
                };
                if is_directory {
                    directories.push(entry.name);
                }
            }
        }
        Ok(Scan { disk: self, directories: directories.into_iter(), current: None })
    }

    /// Begins to read the notes of other instances. `None` if there are no other instances.
    pub(crate) async fn notes(&self) -> Result<Option<Notes<'_>>, Error> {
        match self.granted.list(&self.path(names::NOTES)).await {
            Ok(listing) => Ok(Some(Notes { disk: self, listing })),
            Err(ErrorCode::NoEntry) => Ok(None),
            Err(code) => Err(self.failed(code)),
        }
    }

    /// Removes what others have left unfinished long ago, and returns how many files that were. What is younger may be
    /// another process's, at work.
    pub(crate) async fn clean(&self) -> Result<usize, Error> {
        let mut listing = match self.granted.list(&self.path(names::TEMPORARY)).await {
            Err(ErrorCode::NoEntry) => return Ok(0),
            listing => listing.map_err(|code| self.failed(code))?,
        };
        let oldest_ns =
            now_ns().saturating_sub(i64::try_from(TEMPORARY_AGE_MAX.as_nanos()).unwrap_or(i64::MAX));
        let mut n_removed = 0;
        while let Some(entries) = listing.next().await.map_err(|code| self.failed(code))? {
            for entry in entries {
                if matches!(entry.type_, DescriptorType::Directory) || !names::is_temporary(&entry.name) {
                    continue;
                }
                let path = self.path(&format!("{}/{}", names::TEMPORARY, entry.name));
                let is_old = match self.granted.stat(path.clone()).await {
                    Ok(stat) => modified_ns(&stat) < oldest_ns,
                    Err(_) => false,
                };
                if is_old && self.unlink(path).await? {
                    n_removed += 1;
                }
            }
        }
        Ok(n_removed)
    }
}
