//! The directory: names, temporary files and what can be done with them. Knows nothing of capacity.

use std::cell::Cell;

use kvtier_guest::futures_util::{StreamExt, stream};
use kvtier_guest::wasip3::filesystem::preopens;
use kvtier_guest::wasip3::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};
use kvtier_guest::{ChunkKey, Error, Sinks, Sources};

use crate::config::locate;

/// Files that are looked at together while the directory is read.
const STATS_AT_ONCE: usize = 16;
const TEMPORARY: &str = "tmp";
const SUFFIX: &str = ".kv";

/// A directory of chunks: `ab/ab….kv` for each, and `tmp/` for those that are being written.
pub(crate) struct Disk {
    granted: Descriptor,
    /// Empty, or a path below the granted directory that ends in `/`.
    prefix: String,
    n_temporary: Cell<u64>,
}

/// A chunk found on disk.
pub(crate) struct Found {
    pub(crate) key: ChunkKey,
    pub(crate) size_bytes: u64,
    modified: (i64, u32),
}

impl Disk {
    /// Finds the directory among those granted. Does not touch it.
    pub(crate) fn new(root: Option<&str>) -> Result<Self, Error> {
        let mut granted = preopens::get_directories();
        let paths: Vec<String> = granted.iter().map(|(_, path)| path.clone()).collect();
        let (index, rest) = locate(root, &paths)?;
        let (granted, _) = granted.swap_remove(index);
        let prefix = if rest.is_empty() { String::new() } else { format!("{rest}/") };
        Ok(Self { granted, prefix, n_temporary: Cell::new(0) })
    }

    /// Makes the directories that are missing, and removes what an earlier instance left unfinished.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        let ends = self.prefix.match_indices('/').map(|(end, _)| end);
        for end in ends.collect::<Vec<_>>() {
            self.make_directory(self.prefix[..end].to_owned()).await?;
        }
        self.make_directory(self.path(TEMPORARY)).await?;
        for (_, name) in self.list(&self.path(TEMPORARY)).await? {
            self.unlink(self.path(&format!("{TEMPORARY}/{name}"))).await?;
        }
        Ok(())
    }

    /// Returns all chunks, those written first before the others.
    pub(crate) async fn scan(&self) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        for (kind, directory) in self.list(&self.path("")).await? {
            let is_ours = directory.len() == 2 && directory.bytes().all(|b| b.is_ascii_hexdigit());
            if !is_ours || !matches!(kind, DescriptorType::Directory) {
                continue;
            }
            let names = self.list(&self.path(&directory)).await?;
            // Files of other names, or in the wrong place, are not ours and stay.
            let keys = names.iter().filter_map(|(_, name)| {
                let key = ChunkKey::from_hex(name.strip_suffix(SUFFIX)?)?;
                name.starts_with(&directory).then_some(key)
            });
            let stats = stream::iter(keys).map(|key| self.stat(key)).buffered(STATS_AT_ONCE);
            for stat in stats.collect::<Vec<_>>().await {
                found.extend(stat?);
            }
        }
        found.sort_by_key(|chunk| (chunk.modified, chunk.key));
        Ok(found)
    }

    /// Writes chunk `index` of `data` to a temporary file and renames it to its own name: others
    /// see all of the chunk, or nothing.
    pub(crate) async fn write(&self, key: ChunkKey, data: &Sources, index: u32) -> Result<(), Error> {
        let n = self.n_temporary.replace(self.n_temporary.get() + 1);
        let temporary = self.path(&format!("{TEMPORARY}/{key}-{n}"));
        let written = self.write_and_rename(key, &temporary, data, index).await;
        if written.is_err() {
            self.unlink(temporary).await?;
        }
        written
    }

    async fn write_and_rename(
        &self,
        key: ChunkKey,
        temporary: &str,
        data: &Sources,
        index: u32,
    ) -> Result<(), Error> {
        let create = OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        let file = self.open(temporary, create, DescriptorFlags::WRITE).await?;
        let n = data.store_to(index, &file, 0).await?;
        drop(file);
        if n != data.len(index) {
            return Err(Error::other(format!("{n} of {} bytes were written", data.len(index))));
        }
        match self.rename(temporary, key).await {
            // The first chunk of its directory.
            Err(ErrorCode::NoEntry) => {
                self.make_directory(self.path(&directory_of(key))).await?;
                Ok(self.rename(temporary, key).await?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Fills buffer `index` of `into` from the chunk's file. `None` if there is no such file.
    pub(crate) async fn read(&self, key: ChunkKey, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        let flags = (OpenFlags::empty(), DescriptorFlags::READ);
        let path = self.file_of(key);
        match self.granted.open_at(PathFlags::empty(), path, flags.0, flags.1).await {
            Ok(file) => Ok(Some(into.load_from(index, &file, 0).await?)),
            Err(ErrorCode::NoEntry) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the chunk's file. One that is not there is no error.
    pub(crate) async fn remove(&self, key: ChunkKey) -> Result<(), Error> {
        self.unlink(self.file_of(key)).await
    }

    async fn stat(&self, key: ChunkKey) -> Result<Option<Found>, Error> {
        match self.granted.stat_at(PathFlags::empty(), self.file_of(key)).await {
            Ok(stat) if matches!(stat.type_, DescriptorType::RegularFile) => {
                let modified = stat.data_modification_timestamp;
                let modified = modified.map_or((0, 0), |at| (at.seconds, at.nanoseconds));
                Ok(Some(Found { key, size_bytes: stat.size, modified }))
            }
            Ok(_) | Err(ErrorCode::NoEntry) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn list(&self, path: &str) -> Result<Vec<(DescriptorType, String)>, Error> {
        let path = if path.is_empty() { "." } else { path };
        let directory = self.open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ).await?;
        let (entries, done) = directory.read_directory();
        let entries = entries.collect().await;
        done.await?;
        let named = entries.into_iter().map(|entry| (entry.type_, entry.name));
        Ok(named.filter(|(_, name)| name != "." && name != "..").collect())
    }

    async fn open(&self, path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, Error> {
        // Links are not followed: nothing here makes any.
        Ok(self.granted.open_at(PathFlags::empty(), path.to_owned(), how, flags).await?)
    }

    async fn rename(&self, from: &str, key: ChunkKey) -> Result<(), ErrorCode> {
        self.granted.rename_at(from.to_owned(), &self.granted, self.file_of(key)).await
    }

    async fn make_directory(&self, path: String) -> Result<(), Error> {
        match self.granted.create_directory_at(path).await {
            Ok(()) | Err(ErrorCode::Exist) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn unlink(&self, path: String) -> Result<(), Error> {
        match self.granted.unlink_file_at(path).await {
            Ok(()) | Err(ErrorCode::NoEntry) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn file_of(&self, key: ChunkKey) -> String {
        self.path(&format!("{}/{key}{SUFFIX}", directory_of(key)))
    }
}

/// The first two digits of the key: 256 directories, so that none grows too large to be listed.
fn directory_of(key: ChunkKey) -> String {
    format!("{:02x}", key.hi >> 56)
}

#[cfg(test)]
mod tests {
    use kvtier_guest::ChunkKey;

    use super::directory_of;

    #[test]
    fn the_directory_is_the_beginning_of_the_name() {
        let key = ChunkKey { hi: 0x0a12_0000_0000_0000, lo: 7 };
        assert_eq!(directory_of(key), "0a");
        assert!(key.to_hex().starts_with("0a"));
    }
}
