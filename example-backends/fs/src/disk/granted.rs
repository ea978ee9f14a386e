//! The granted directory. Every host call on files goes through here and is counted.

use std::cell::Cell;

use kvtier_guest::sync::Semaphore;
use kvtier_guest::wasip3::clocks::system_clock::Instant;
use kvtier_guest::wasip3::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, NewTimestamp,
    OpenFlags, PathFlags,
};
use kvtier_guest::wit_bindgen::{FutureReader, StreamReader, StreamResult};
use kvtier_guest::{
    Caching, Error, FileToLoad, FileToStore, Ownership, Sinks, Sources, keep_capacity, try_direct,
};

/// Operations on files under way at a time: a quarter of what the host allows by default, for one instance.
const PENDING_MAX: usize = 256;
/// Names that are taken from a listing at a time.
const LISTED_AT_ONCE: usize = 256;

pub(super) struct Granted {
    directory: Descriptor,
    /// Of operations on files that are under way. The host refuses those beyond `limits.file_operations_max`; here they
    /// wait.
    pending: Semaphore,
    n_calls: Cell<u64>,
}

impl Granted {
    pub(super) fn new(directory: Descriptor) -> Self {
        Self { directory, pending: Semaphore::new(PENDING_MAX), n_calls: Cell::new(0) }
    }

    pub(super) fn n_calls(&self) -> u64 {
        self.n_calls.get()
    }

    fn call(&self) -> &Descriptor {
        self.n_calls.set(self.n_calls.get() + 1);
        &self.directory
    }

    /// Reports whether `path` is a directory, or a link of the operator to one.
    pub(super) async fn is_directory(&self, path: String) -> Result<bool, ErrorCode> {
        let _permit = self.pending.acquire().await;
        let stat = self.call().stat_at(PathFlags::SYMLINK_FOLLOW, path).await?;
        Ok(matches!(stat.type_, DescriptorType::Directory))
    }

    // Below, links are not followed in the places of files: nothing here makes any.

    pub(super) async fn stat(&self, path: String) -> Result<DescriptorStat, ErrorCode> {
        let _permit = self.pending.acquire().await;
        self.call().stat_at(PathFlags::empty(), path).await
    }

    pub(super) async fn set_modified(&self, path: String, at: Instant) -> Result<(), ErrorCode> {
        let _permit = self.pending.acquire().await;
        let (accessed, modified) = (NewTimestamp::NoChange, NewTimestamp::Timestamp(at));
        self.call().set_times_at(PathFlags::empty(), path, accessed, modified).await
    }

    pub(super) async fn make_directory(&self, path: String) -> Result<(), ErrorCode> {
        let _permit = self.pending.acquire().await;
        self.call().create_directory_at(path).await
    }

    pub(super) async fn unlink(&self, path: String) -> Result<(), ErrorCode> {
        let _permit = self.pending.acquire().await;
        self.call().unlink_file_at(path).await
    }

    /// Makes an empty file, if there is none.
    pub(super) async fn create(&self, path: String) -> Result<(), ErrorCode> {
        self.open(PathFlags::empty(), path, OpenFlags::CREATE, DescriptorFlags::WRITE).await.map(drop)
    }

    /// Lists a directory, also one that a link of the operator's leads to.
    pub(super) async fn list(&self, path: &str) -> Result<Listing, ErrorCode> {
        let path = if path.is_empty() { "." } else { path }.to_owned();
        let (follow, how) = (PathFlags::SYMLINK_FOLLOW, OpenFlags::DIRECTORY);
        let directory = self.open(follow, path, how, DescriptorFlags::READ).await?;
        self.call();
        let (entries, done) = directory.read_directory();
        Ok(Listing { entries, is_over: false, done: Some(done) })
    }

    async fn open(
        &self,
        links: PathFlags,
        path: String,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> Result<Descriptor, ErrorCode> {
        let _permit = self.pending.acquire().await;
        self.call().open_at(links, path, how, flags).await
    }

    pub(super) async fn keep_capacity(&self, path: String) -> Result<Ownership, Error> {
        keep_capacity(self.call(), path).await
    }

    pub(super) async fn try_direct(&self, temporary: String) -> Result<(), Error> {
        try_direct(self.call(), temporary).await
    }

    pub(super) async fn store_all(
        &self,
        data: &Sources,
        files: Vec<FileToStore>,
        caching: Caching,
    ) -> Vec<Result<u64, Error>> {
        data.store_all(self.call(), files, caching).await
    }

    pub(super) async fn load_all(
        &self,
        into: &Sinks,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Vec<Result<Option<u64>, Error>> {
        into.load_all(self.call(), files, caching).await
    }
}

/// The names in a directory, some at a time: there may be more than memory has room for.
pub(super) struct Listing {
    entries: StreamReader<DirectoryEntry>,
    is_over: bool,
    /// The result of the listing.
    done: Option<FutureReader<Result<(), ErrorCode>>>,
}

impl Listing {
    /// Returns some more; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<DirectoryEntry>>, ErrorCode> {
        while !self.is_over {
            let (status, entries) = self.entries.read(Vec::with_capacity(LISTED_AT_ONCE)).await;
            self.is_over = !matches!(status, StreamResult::Complete(_));
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        match self.done.take() {
            Some(done) => done.await.map(|()| None),
            None => Ok(None),
        }
    }
}
