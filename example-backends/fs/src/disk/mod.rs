//! The directory: what can be done with its files. Knows nothing of capacity.
//!
//! Nothing is synced. The end of the process loses nothing that was renamed; the end of the machine may leave files
//! that are short or torn, which the host notices when it verifies the chunk.

mod errors;
mod granted;
mod listings;
mod names;
mod shared;

use std::cell::Cell;

use kvtier_guest::futures_util::{StreamExt, stream};
use kvtier_guest::lru::CHUNK_BYTES_MAX;
use kvtier_guest::wasip3::clocks::system_clock;
use kvtier_guest::wasip3::filesystem::preopens;
use kvtier_guest::wasip3::filesystem::types::{DescriptorStat, DescriptorType, ErrorCode};
use kvtier_guest::{
    Caching, ChunkKey, Error, FileToLoad, FileToStore, Level, Ownership, Repeated, Sinks, Sources, warn,
};

use self::granted::Granted;
pub(crate) use self::shared::Lease;
use crate::config::locate;

/// Files that are looked at together.
pub(crate) const STATS_AT_ONCE: usize = 16;

/// A directory of chunks.
pub(crate) struct Disk {
    granted: Granted,
    /// The directory as the guest sees it, for messages.
    name: String,
    /// Empty, or a path below the granted directory that ends in `/`.
    prefix: String,
    caching: Caching,
    instance: u64,
    n_temporary: Cell<u64>,
    /// The last chunk could not be written.
    refuses: Cell<bool>,
    refusals: Repeated,
    recoveries: Repeated,
    unleased: Repeated,
    in_the_way: Repeated,
}

/// A chunk's file.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) size_bytes: u64,
    /// When it was written, in nanoseconds since 1970; or until when it is leased.
    pub(crate) modified_ns: i64,
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
        Ok(Self {
            granted: Granted::new(granted),
            name,
            prefix,
            caching,
            instance: names::of_instance(),
            n_temporary: Cell::new(0),
            refuses: Cell::new(false),
            refusals: Repeated::default(),
            recoveries: Repeated::default(),
            unleased: Repeated::default(),
            in_the_way: Repeated::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of host calls.
    pub(crate) fn n_calls(&self) -> u64 {
        self.granted.n_calls()
    }

    /// Reports whether the directories are there. They are made once; emptying the directory removes them.
    pub(crate) async fn is_prepared(&self) -> Result<bool, Error> {
        match self.granted.is_directory(self.path(names::TEMPORARY)).await {
            Ok(is_directory) => Ok(is_directory),
            // Also a link that leads nowhere, or out of what is granted: `prepare` names it.
            Err(ErrorCode::NoEntry | ErrorCode::Loop | ErrorCode::NotPermitted) => Ok(false),
            Err(code) => Err(self.failed(code)),
        }
    }

    /// Makes the directories that are missing.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        let ends = self.prefix.match_indices('/').map(|(end, _)| end);
        for end in ends.collect::<Vec<_>>() {
            self.make_directory(self.prefix[..end].to_owned()).await?;
        }
        self.make_directory(self.path(names::TEMPORARY)).await
    }

    /// Asks to be the one that keeps the directory to its capacity.
    pub(crate) async fn keep_capacity(&self) -> Result<Ownership, Error> {
        let path = self.prefix.trim_end_matches('/').to_owned();
        self.granted.keep_capacity(path).await.map_err(|error| self.named(error))
    }

    /// Refuses a file system that does not do what the operator asked for. One that cannot be written to at all is read
    /// all the same.
    pub(crate) async fn check_caching(&self) -> Result<(), Error> {
        if self.caching != Caching::Direct {
            return Ok(());
        }
        match self.granted.try_direct(self.temporary(ChunkKey { hi: 0, lo: 0 })).await {
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

    /// Looks at a chunk's file. `None` if there is none, or something that cannot be a chunk.
    pub(crate) async fn stat(&self, key: ChunkKey) -> Result<Option<Found>, Error> {
        match self.granted.stat(self.file_of(key)).await {
            Ok(stat) if !matches!(stat.type_, DescriptorType::RegularFile) => Ok(None),
            Ok(stat) if stat.size > CHUNK_BYTES_MAX => {
                let (name, path, size) = (&self.name, self.file_of(key), stat.size);
                let message = format_args!(
                    "{name}: `{path}` has {size} bytes, which is more than a chunk can have; it does not count against \
                     the capacity and stays until its chunk is stored: remove it"
                );
                self.in_the_way.log(Level::Warn, message);
                Ok(None)
            }
            Ok(stat) => Ok(Some(Found { size_bytes: stat.size, modified_ns: modified_ns(&stat) })),
            // A path through something that is not a directory leads to no file.
            Err(ErrorCode::NoEntry | ErrorCode::NotDirectory | ErrorCode::Loop) => Ok(None),
            Err(code) => Err(self.failed(code)),
        }
    }

    /// As [`Self::stat`], for several, in their order.
    pub(crate) async fn stats(&self, keys: &[ChunkKey]) -> Vec<Result<Option<Found>, Error>> {
        stream::iter(keys).map(|key| self.stat(*key)).buffered(STATS_AT_ONCE).collect().await
    }

    /// Writes chunks of `data` to temporary files and renames them to their own names: others see all of a chunk, or
    /// nothing. The error names an obstacle in the way of a chunk; only the operator can remove it.
    pub(crate) async fn write(&self, chunks: &[(u32, ChunkKey)], data: &Sources) -> Vec<Result<(), Error>> {
        let file =
            |&(index, key)| FileToStore { index, temporary: self.temporary(key), name: self.file_of(key) };
        let files = chunks.iter().map(file).collect();
        let written = self.granted.store_all(data, files, self.caching).await;
        let mut answers = Vec::with_capacity(chunks.len());
        for (written, (_, key)) in written.into_iter().zip(chunks) {
            answers.push(match written {
                Ok(_) => Ok(()),
                Err(error @ Error::Other(_)) => Err(match self.obstacle(*key).await {
                    Some(why) => {
                        self.in_the_way.log(Level::Warn, format_args!("{why}"));
                        Error::invalid_argument(why)
                    }
                    None => self.named(error),
                }),
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Fills buffers of `into` from the chunks' files. `None` where there is no such file.
    pub(crate) async fn read(
        &self,
        chunks: &[(u32, ChunkKey)],
        into: &Sinks,
    ) -> Vec<Result<Option<u64>, Error>> {
        let file = |&(index, key)| FileToLoad { index, name: self.file_of(key) };
        let files = chunks.iter().map(file).collect();
        let read = self.granted.load_all(into, files, self.caching).await;
        read.into_iter().map(|read| read.map_err(|error| self.named(error))).collect()
    }

    /// Removes the chunk's file, and reports whether there was one.
    pub(crate) async fn remove(&self, key: ChunkKey) -> Result<bool, Error> {
        self.unlink(self.file_of(key)).await
    }

    async fn make_directory(&self, path: String) -> Result<(), Error> {
        let Err(code) = self.granted.make_directory(path.clone()).await else { return Ok(()) };
        // What is there will do, also where nothing may be made.
        match self.granted.is_directory(path.clone()).await {
            Ok(true) => Ok(()),
            _ if matches!(code, ErrorCode::Exist) => {
                let name = &self.name;
                Err(Error::other(format!(
                    "{name}: `{path}` is not a directory; remove it or replace it with one"
                )))
            }
            _ => Err(self.failed(code)),
        }
    }

    async fn unlink(&self, path: String) -> Result<bool, Error> {
        match self.granted.unlink(path).await {
            Ok(()) => Ok(true),
            // Anything but a file is not ours, and nothing is behind anything but a directory.
            Err(ErrorCode::NoEntry | ErrorCode::NotDirectory | ErrorCode::Loop | ErrorCode::IsDirectory) => {
                Ok(false)
            }
            Err(code) => Err(self.failed(code)),
        }
    }

    fn temporary(&self, key: ChunkKey) -> String {
        let n = self.n_temporary.replace(self.n_temporary.get() + 1);
        self.path(&names::temporary(key, self.instance, n))
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn file_of(&self, key: ChunkKey) -> String {
        self.path(&names::of_chunk(key))
    }
}

/// Returns the time, in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    ns(system_clock::now())
}

fn modified_ns(stat: &DescriptorStat) -> i64 {
    stat.data_modification_timestamp.map_or(0, ns)
}

fn ns(at: system_clock::Instant) -> i64 {
    at.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(at.nanoseconds))
}
