//! Chunks on disk, kept to a capacity by the one of all processes that owns it.
//!
//! The owner has an index of what it knows to be there. Where the index does not know, because files are still being
//! looked through, another process has stored the chunk, or memory has room for no more entries, the file system is
//! asked. One that does not own the capacity always asks.

mod evict;
mod found;
mod get;
mod put;
mod upkeep;

use std::cell::{Cell, RefCell};

use kvtier_guest::lru::{Call, Lru};
use kvtier_guest::sync::KeyLocks;
use kvtier_guest::{ChunkKey, Error, Repeated, each_bounded, info};

use crate::config::Config;
use crate::disk::Disk;

/// Chunks of a call that are worked on at once, where it is not all of them: enough to keep a disk busy.
const CHUNKS_AT_ONCE: usize = 16;

/// The chunks of an instance.
///
/// The owner's index lists what is present: an entry has its whole file on disk. A file without an entry is not known
/// yet, or on its way in or out; then it belongs to the call that holds the key's lock.
pub(crate) struct Store {
    disk: Disk,
    index: RefCell<Lru<()>>,
    locks: KeyLocks,
    role: Cell<Role>,
    /// The scan has visited all files.
    is_scanned: Cell<bool>,
    /// The number of times that the scan began again.
    n_resets: Cell<u64>,
    /// Bytes of files that the index has no memory for.
    outside_bytes: Cell<u64>,
    is_closed: Cell<bool>,
    is_full_told: Cell<bool>,
    reports: Reports,
}

/// The role of an instance for the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Counts and evicts.
    Owner,
    /// Another instance is the owner. This one stores, reads and removes, and notifies the owner.
    Guest,
    /// The directory is granted for reading.
    Reader,
}

/// Messages that may repeat.
#[derive(Default)]
struct Reports {
    missing: Repeated,
    damaged: Repeated,
    emptied: Repeated,
    failed: Repeated,
}

impl Store {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            disk: Disk::new(config.root.as_deref(), config.caching)?,
            index: RefCell::new(Lru::new(config.capacity_bytes)),
            locks: KeyLocks::default(),
            role: Cell::new(Role::Guest),
            is_scanned: Cell::new(false),
            n_resets: Cell::new(0),
            outside_bytes: Cell::new(0),
            is_closed: Cell::new(false),
            is_full_told: Cell::new(false),
            reports: Reports::default(),
        })
    }

    /// Prepares what calls need, which is as much work for a full directory as for an empty one. Existing files are
    /// scanned behind the calls, by [`Self::look_after`].
    pub(crate) async fn open(&self) -> Result<(), Error> {
        if !self.disk.is_prepared().await? {
            self.disk.prepare().await?;
        }
        self.ask_for_capacity().await;
        if self.role.get() != Role::Reader {
            self.disk.check_caching().await?;
        }
        info!(
            "open: after {} host calls; a scan of the directory runs behind the calls",
            self.disk.n_calls()
        );
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.is_closed.set(true);
    }

    pub(crate) async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.check_writable()?;
        let remove = async |_, key| self.remove_one(key).await;
        let mut n_removed = 0;
        for removed in each_bounded(keys, CHUNKS_AT_ONCE, remove).await {
            n_removed += u32::from(removed?);
        }
        if self.role.get() == Role::Guest {
            self.disk.tell_owner(keys).await;
        }
        Ok(n_removed)
    }

    async fn remove_one(&self, key: ChunkKey) -> Result<bool, Error> {
        let _guard = self.locks.lock(key).await;
        let is_known = self.index.borrow().get(&key).is_some();
        let outside =
            if !is_known && self.outside_bytes.get() > 0 { self.disk.stat(key).await? } else { None };
        // Also without an entry: an eviction may be about to remove the file, and may fail.
        let was_there = self.disk.remove(key).await?;
        self.index.borrow_mut().remove(&key);
        if let Some(found) = outside {
            self.set_outside_bytes(self.outside_bytes.get().saturating_sub(found.size_bytes));
        }
        Ok(was_there)
    }

    /// Begins a call on so many chunks.
    fn call(&self, n_chunks: usize) -> Call {
        self.index.borrow_mut().call(n_chunks)
    }

    /// Refuses changes where they are not granted, without trying: the host would log each attempt.
    fn check_writable(&self) -> Result<(), Error> {
        if self.role.get() == Role::Reader { Err(self.disk.read_only()) } else { Ok(()) }
    }

    fn owns(&self) -> bool {
        self.role.get() == Role::Owner
    }

    /// Reports whether there may be chunks that the index does not know.
    fn may_be_more(&self) -> bool {
        !self.owns() || !self.is_scanned.get() || self.outside_bytes.get() > 0
    }

    fn set_outside_bytes(&self, size_bytes: u64) {
        self.outside_bytes.set(size_bytes);
        self.index.borrow_mut().set_outside_bytes(size_bytes);
    }

    /// Counts a chunk whose file is there, or as much of it as is possible.
    fn take_in(&self, call: Call, index: u32, key: ChunkKey, size_bytes: u64) {
        if !self.owns() {
            return;
        }
        let taken = self.index.borrow_mut().adopt(call, index, key, size_bytes, ());
        if taken.is_err() {
            self.set_outside_bytes(self.outside_bytes.get().saturating_add(size_bytes));
        }
    }
}
