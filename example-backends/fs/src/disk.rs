//! The directory: names, temporary files and what can be done with them. Knows nothing of capacity.
//!
//! Nothing is synced. The end of the process loses nothing that was renamed; the end of the machine may leave
//! files that are short or torn, which the host notices when it verifies the chunk.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use kvtier_guest::futures_util::{StreamExt, stream};
use kvtier_guest::wasip3::filesystem::preopens;
use kvtier_guest::wasip3::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};
use kvtier_guest::{
    Caching, ChunkKey, Error, FileToLoad, FileToStore, Sinks, Sources, info, try_direct, warn,
};

use crate::config::locate;

/// Files that are looked at together while the directory is read.
const STATS_AT_ONCE: usize = 16;
const TEMPORARY: &str = "tmp";
const SUFFIX: &str = ".kv";

/// A directory of chunks: `ab/ab….kv` for each, and `tmp/` for those that are being written.
pub(crate) struct Disk {
    granted: Descriptor,
    /// The directory as the guest sees it, for messages.
    name: String,
    /// Empty, or a path below the granted directory that ends in `/`.
    prefix: String,
    caching: Caching,
    n_temporary: Cell<u64>,
    /// Whether the last chunk could not be written.
    refuses: Cell<bool>,
}

/// A chunk found on disk.
pub(crate) struct Found {
    pub(crate) key: ChunkKey,
    pub(crate) size_bytes: u64,
    modified: (i64, u32),
}

impl Disk {
    /// Finds the directory among those granted. Does not touch it.
    pub(crate) fn new(root: Option<&str>, caching: Caching) -> Result<Self, Error> {
        let mut granted = preopens::get_directories();
        let paths: Vec<String> = granted.iter().map(|(_, path)| path.clone()).collect();
        let (index, rest) = locate(root, &paths)?;
        let prefix = if rest.is_empty() { String::new() } else { format!("{rest}/") };
        let name = root.unwrap_or(&paths[index]).to_owned();
        let (granted, _) = granted.swap_remove(index);
        // An instance before this one may still be writing, and gives up what has its name.
        let first = RandomState::new().hash_one(0_u8) >> 8;
        let (n_temporary, refuses) = (Cell::new(first), Cell::new(false));
        Ok(Self { granted, name, prefix, caching, n_temporary, refuses })
    }

    /// Makes the directories that are missing, removes what an earlier instance left unfinished, and returns
    /// how many files that were.
    pub(crate) async fn prepare(&self) -> Result<usize, Error> {
        let ends = self.prefix.match_indices('/').map(|(end, _)| end);
        for end in ends.collect::<Vec<_>>() {
            self.make_directory(self.prefix[..end].to_owned()).await?;
        }
        self.make_directory(self.path(TEMPORARY)).await?;
        let mut n_removed = 0;
        for (kind, name) in self.list(&self.path(TEMPORARY)).await? {
            if matches!(kind, DescriptorType::Directory) || !is_temporary(&name) {
                continue;
            }
            if let Err(error) = self.unlink(self.path(&format!("{TEMPORARY}/{name}"))).await {
                // What cannot be cleaned can be read all the same.
                warn!("unfinished files stay: {error}");
                break;
            }
            n_removed += 1;
        }
        if self.caching == Caching::Direct {
            self.try_direct().await?;
        }
        Ok(n_removed)
    }

    /// Refuses a file system that does not do what the operator asked for. One that cannot be written to at all is
    /// read all the same.
    async fn try_direct(&self) -> Result<(), Error> {
        match try_direct(&self.granted, self.temporary(ChunkKey { hi: 0, lo: 0 })).await {
            Err(Error::Unsupported) => {
                let why = format!("the file system of {} does no direct I/O; set it to false", self.name);
                Err(Error::invalid_config("direct", why))
            }
            Err(error) => {
                warn!("{}: cannot find out whether direct I/O is possible: {error:?}", self.name);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
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

    /// Writes chunks of `data` to temporary files and renames them to their own names: others see all of a
    /// chunk, or nothing.
    pub(crate) async fn write(&self, chunks: &[(u32, ChunkKey)], data: &Sources) -> Vec<Result<(), Error>> {
        let file =
            |&(index, key)| FileToStore { index, temporary: self.temporary(key), name: self.file_of(key) };
        let files = chunks.iter().map(file).collect();
        let written = data.store_all(&self.granted, files, self.caching).await;
        let note = |written: Result<u64, Error>| {
            let written = written.map(drop).map_err(|error| self.named(error));
            self.note(&written);
            written
        };
        written.into_iter().map(note).collect()
    }

    /// Tells the operator once when the disk begins to refuse chunks, and once when it takes them again.
    fn note(&self, written: &Result<(), Error>) {
        match written {
            Ok(()) if self.refuses.replace(false) => info!("{}: chunks are stored again", self.name),
            // A call that is over is no fault of the disk's.
            Ok(()) | Err(Error::InvalidArgument(_)) => {}
            Err(error) if !self.refuses.replace(true) => {
                warn!("{}: chunks cannot be stored, and are only read: {error:?}", self.name);
            }
            Err(_) => {}
        }
    }

    /// Fills buffers of `into` from the chunks' files. `None` where there is no such file.
    pub(crate) async fn read(
        &self,
        chunks: &[(u32, ChunkKey)],
        into: &Sinks,
    ) -> Vec<Result<Option<u64>, Error>> {
        let file = |&(index, key)| FileToLoad { index, name: self.file_of(key) };
        let files = chunks.iter().map(file).collect();
        let read = into.load_all(&self.granted, files, self.caching).await;
        read.into_iter().map(|read| read.map_err(|error| self.named(error))).collect()
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
            Err(code) => Err(self.failed(code)),
        }
    }

    async fn list(&self, path: &str) -> Result<Vec<(DescriptorType, String)>, Error> {
        let path = if path.is_empty() { "." } else { path };
        let directory = self.open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ).await?;
        let (entries, done) = directory.read_directory();
        let entries = entries.collect().await;
        done.await.map_err(|code| self.failed(code))?;
        let named = entries.into_iter().map(|entry| (entry.type_, entry.name));
        Ok(named.filter(|(_, name)| name != "." && name != "..").collect())
    }

    async fn open(&self, path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, Error> {
        // Links are not followed: nothing here makes any.
        let opened = self.granted.open_at(PathFlags::empty(), path.to_owned(), how, flags).await;
        opened.map_err(|code| self.failed(code))
    }

    async fn make_directory(&self, path: String) -> Result<(), Error> {
        let code = match self.granted.create_directory_at(path.clone()).await {
            Ok(()) | Err(ErrorCode::Exist) => return Ok(()),
            Err(code) => code,
        };
        // Where nothing may be made, what is there will do.
        match self.granted.stat_at(PathFlags::empty(), path).await {
            Ok(stat) if matches!(stat.type_, DescriptorType::Directory) => Ok(()),
            _ => Err(self.failed(code)),
        }
    }

    async fn unlink(&self, path: String) -> Result<(), Error> {
        match self.granted.unlink_file_at(path).await {
            Ok(()) | Err(ErrorCode::NoEntry) => Ok(()),
            Err(code) => Err(self.failed(code)),
        }
    }

    /// The contract's error, which names the directory. A full disk is `no-space`.
    fn failed(&self, code: ErrorCode) -> Error {
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

    /// An error of the host's, which does not know the directory's name.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Other(words) => Error::other(format!("{}: {words}", self.name)),
            error => error,
        }
    }

    fn temporary(&self, key: ChunkKey) -> String {
        let n = self.n_temporary.replace(self.n_temporary.get() + 1);
        self.path(&format!("{TEMPORARY}/{key}-{n}"))
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

/// Whether a file in `tmp/` is one of ours: a key and a number.
fn is_temporary(name: &str) -> bool {
    name.split_once('-').is_some_and(|(key, number)| {
        ChunkKey::from_hex(key).is_some()
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use kvtier_guest::ChunkKey;

    use super::{directory_of, is_temporary};

    #[test]
    fn only_our_own_temporary_files_are_ours() {
        let key = ChunkKey { hi: 1, lo: 2 }.to_hex();
        assert!(is_temporary(&format!("{key}-0")) && is_temporary(&format!("{key}-123")));
        for other in [&key[1..], &key, "notes.txt", &format!("{key}-"), &format!("{key}-1.bak")] {
            assert!(!is_temporary(other), "{other}");
        }
    }

    #[test]
    fn the_directory_is_the_beginning_of_the_name() {
        let key = ChunkKey { hi: 0x0a12_0000_0000_0000, lo: 7 };
        assert_eq!(directory_of(key), "0a");
        assert!(key.to_hex().starts_with("0a"));
    }
}
