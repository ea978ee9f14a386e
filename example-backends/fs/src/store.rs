//! Chunks on disk, kept to a capacity.

use std::cell::{Cell, RefCell};

use kvtier_guest::lru::{Call, Lru, Removed};
use kvtier_guest::{ChunkKey, Error, Sinks, Sources, each_bounded, info, warn};

use crate::config::Config;
use crate::disk::Disk;
use crate::locks::KeyLocks;

/// Chunks of a call that are moved at once: enough to keep a disk busy.
const CHUNKS_AT_ONCE: usize = 16;

/// The chunks of an instance.
///
/// The index says what is present: an entry has its whole file on disk, a file without an entry is
/// on its way in or out and belongs to whoever holds the key's lock.
pub(crate) struct Store {
    disk: Disk,
    index: RefCell<Lru<Generation>>,
    locks: KeyLocks,
    next: Cell<u64>,
}

/// Tells a chunk from an earlier one of the same key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Generation(u64);

impl Store {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            disk: Disk::new(config.root.as_deref())?,
            index: RefCell::new(Lru::new(config.capacity_bytes)),
            locks: KeyLocks::default(),
            next: Cell::new(0),
        })
    }

    /// Finds what earlier instances stored.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        let n_unfinished = self.disk.prepare().await?;
        for chunk in self.disk.scan().await? {
            let mut index = self.index.borrow_mut();
            let call = index.call(1);
            index.adopt(call, 0, chunk.key, chunk.size_bytes, self.generation());
        }
        let (n_found, found_bytes) = (self.index.borrow().len(), self.index.borrow().size_bytes());
        let surplus = self.index.borrow_mut().shrink();
        if let Err(error) = self.dispose_all(surplus).await {
            // More than the capacity can be read all the same.
            warn!("chunks beyond the capacity stay: {error}");
        }
        let n_evicted = n_found - self.index.borrow().len();
        info!(
            "open: {n_found} chunks, {found_bytes} bytes found, {n_evicted} evicted, \
             {n_unfinished} unfinished files removed"
        );
        Ok(())
    }

    pub(crate) fn contains(&self, keys: &[ChunkKey], pin: bool) -> u32 {
        if pin { self.pin(keys) } else { self.index.borrow().leading_run(keys) as u32 }
    }

    pub(crate) fn pin(&self, keys: &[ChunkKey]) -> u32 {
        self.index.borrow_mut().pin(keys) as u32
    }

    pub(crate) fn unpin(&self, keys: &[ChunkKey]) -> u32 {
        self.index.borrow_mut().unpin(keys) as u32
    }

    pub(crate) async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let call = self.index.borrow_mut().call(keys.len());
        let put = async |index, key| self.put_one(call, index, key, data).await;
        each_bounded(keys, CHUNKS_AT_ONCE, put).await
    }

    async fn put_one(&self, call: Call, index: u32, key: ChunkKey, data: &Sources) -> Result<(), Error> {
        let _guard = self.locks.lock(key).await;
        if self.index.borrow_mut().touch(call, index, &key) {
            return Ok(());
        }
        let room = self.make_room(call, data.len(index)).await?;
        self.disk.write(key, data, index).await?;
        room.fill(call, index, key, self.generation());
        Ok(())
    }

    /// Reserves room, and has the files gone that were in it, so that the disk never holds more than
    /// the capacity.
    async fn make_room(&self, call: Call, size_bytes: u64) -> Result<Room<'_>, Error> {
        let (evicted, left_over) = {
            let mut index = self.index.borrow_mut();
            let evicted = index.reserve(call, size_bytes)?;
            // Nobody may use what the victims leave over before their files are gone.
            let left_over = if evicted.is_empty() { 0 } else { index.free_bytes() };
            index.reserve(call, left_over)?;
            (evicted, left_over)
        };
        let room = Room { index: &self.index, size_bytes };
        let _left_over = Room { index: &self.index, size_bytes: left_over };
        self.dispose_all(evicted).await?;
        Ok(room)
    }

    /// Removes the files of chunks that left the index. Those that stay count again, and a later put tries
    /// once more.
    async fn dispose_all(&self, evicted: Vec<Removed<Generation>>) -> Result<(), Error> {
        let mut victims = evicted.into_iter();
        while let Some(victim) = victims.next() {
            if let Err(error) = self.dispose(&victim).await {
                let mut index = self.index.borrow_mut();
                for kept in std::iter::once(victim).chain(victims) {
                    if index.get(&kept.key).is_none() {
                        let call = index.call(1);
                        index.adopt(call, 0, kept.key, kept.size_bytes, kept.value);
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes the file of a chunk that is no longer in the index, unless it was stored anew.
    ///
    /// Waits for the key's lock while holding that of a key being stored. That cannot go round in
    /// circles: whoever holds the victim's lock found it absent, so came after this eviction, and
    /// evicts only what was present later still.
    async fn dispose(&self, chunk: &Removed<Generation>) -> Result<(), Error> {
        let _guard = self.locks.lock(chunk.key).await;
        if self.index.borrow().get(&chunk.key).is_some() {
            return Ok(());
        }
        self.disk.remove(chunk.key).await
    }

    pub(crate) async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let call = self.index.borrow_mut().call(keys.len());
        let get = async |index, key| self.get_one(call, index, key, into).await;
        each_bounded(keys, CHUNKS_AT_ONCE, get).await
    }

    async fn get_one(
        &self,
        call: Call,
        index: u32,
        key: ChunkKey,
        into: &Sinks,
    ) -> Result<Option<u64>, Error> {
        self.index.borrow_mut().touch(call, index, &key);
        let present = self.index.borrow().get(&key).map(|(generation, size)| (*generation, size));
        let Some((generation, size_bytes)) = present else {
            return Ok(None);
        };
        let capacity = into.capacity(index);
        let damage = if size_bytes == capacity {
            match self.disk.read(key, into, index).await? {
                Some(n) if n == size_bytes => return Ok(Some(n)),
                Some(n) => Some(format!("{key}: {n} bytes on disk, {size_bytes} expected")),
                None => None,
            }
        } else {
            Some(format!("{key}: {size_bytes} bytes on disk, {capacity} expected"))
        };
        // Evicted, removed or damaged meanwhile. An entry that stayed would keep the chunk from
        // being stored again.
        self.forget(key, generation).await?;
        damage.map_or(Ok(None), |what| Err(Error::corrupt(what)))
    }

    /// Removes a chunk whose file is missing or damaged, unless it was replaced meanwhile.
    async fn forget(&self, key: ChunkKey, generation: Generation) -> Result<(), Error> {
        let _guard = self.locks.lock(key).await;
        let is_same = self.index.borrow().get(&key).is_some_and(|(found, _)| *found == generation);
        if is_same {
            warn!("{key}: the file is missing or damaged; the chunk is dropped");
            // In this order: as long as there is a file, it counts.
            self.disk.remove(key).await?;
            self.index.borrow_mut().remove(&key);
        }
        Ok(())
    }

    pub(crate) async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let remove = async |_, key| self.remove_one(key).await;
        let mut n_removed = 0;
        for removed in each_bounded(keys, CHUNKS_AT_ONCE, remove).await {
            n_removed += u32::from(removed?);
        }
        Ok(n_removed)
    }

    async fn remove_one(&self, key: ChunkKey) -> Result<bool, Error> {
        let _guard = self.locks.lock(key).await;
        let present = self.index.borrow().get(&key).is_some();
        // Also without an entry: an eviction may be about to remove the file, and may fail.
        self.disk.remove(key).await?;
        self.index.borrow_mut().remove(&key);
        Ok(present)
    }

    fn generation(&self) -> Generation {
        let next = self.next.get();
        self.next.set(next + 1);
        Generation(next)
    }
}

/// Reserved room, given back unless it is filled.
struct Room<'a> {
    index: &'a RefCell<Lru<Generation>>,
    size_bytes: u64,
}

impl Room<'_> {
    fn fill(self, call: Call, index: u32, key: ChunkKey, generation: Generation) {
        // `insert` releases the room.
        self.index.borrow_mut().insert(call, index, key, self.size_bytes, generation);
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.index.borrow_mut().release(self.size_bytes);
    }
}
