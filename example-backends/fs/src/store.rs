//! Chunks on disk, kept to a capacity.

use std::cell::{Cell, RefCell};

use kvtier_guest::lru::{Call, Lru, Removed};
use kvtier_guest::{ChunkKey, Error, Sinks, Sources, each_bounded, info, warn};

use crate::config::Config;
use crate::disk::Disk;
use crate::locks::KeyLocks;

/// Chunks of a call that are worked on at once, where it is not all of them: enough to keep a disk busy.
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
            disk: Disk::new(config.root.as_deref(), config.caching)?,
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
        let at_once = self.put_at_once(call, keys, data).await;
        let put = async |index: u32, key| match at_once[index as usize].clone() {
            Some(stored) => stored,
            None => self.put_one(call, index, key, data).await,
        };
        each_bounded(keys, CHUNKS_AT_ONCE, put).await
    }

    /// Stores the chunks that nobody else is at work on, all together if there is room for them. `None` stands for
    /// each of the others.
    async fn put_at_once(
        &self,
        call: Call,
        keys: &[ChunkKey],
        data: &Sources,
    ) -> Vec<Option<Result<(), Error>>> {
        let mut stored = vec![None; keys.len()];
        let (mut chunks, mut guards, mut size_bytes) = (Vec::new(), Vec::new(), 0);
        for (index, key) in (0..).zip(keys) {
            let Some(guard) = self.locks.try_lock(*key) else { continue };
            if self.index.borrow_mut().touch(call, index, key) {
                stored[index as usize] = Some(Ok(()));
                continue;
            }
            chunks.push((index, *key));
            guards.push(guard);
            size_bytes += data.len(index);
        }
        if chunks.is_empty() {
            return stored;
        }
        let mut room = match self.make_room(call, size_bytes).await {
            Ok(room) => room,
            // Whoever is alone may find the room that there is not for all.
            Err(Error::NoSpace) => return stored,
            Err(error) => {
                for (index, _) in &chunks {
                    stored[*index as usize] = Some(Err(error.clone()));
                }
                return stored;
            }
        };
        let written = self.disk.write(&chunks, data).await;
        for ((index, key), written) in chunks.into_iter().zip(written) {
            let part = room.part(data.len(index));
            let filled = written.map(|()| part.fill(call, index, key, self.generation()));
            stored[index as usize] = Some(filled);
        }
        stored
    }

    async fn put_one(&self, call: Call, index: u32, key: ChunkKey, data: &Sources) -> Result<(), Error> {
        let _guard = self.locks.lock(key).await;
        if self.index.borrow_mut().touch(call, index, &key) {
            return Ok(());
        }
        let room = self.make_room(call, data.len(index)).await?;
        self.disk.write(&[(index, key)], data).await.into_iter().collect::<Result<(), Error>>()?;
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
                for kept in std::iter::once(victim).chain(victims) {
                    // Whoever holds its lock found it absent, and replaces or removes the file.
                    let Some(_guard) = self.locks.try_lock(kept.key) else { continue };
                    let mut index = self.index.borrow_mut();
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
    /// Waits for the key's lock while holding those of keys being stored. That cannot go round in circles: these
    /// were locked, found absent, and room reserved for them, all at one moment. Whoever holds the victim's lock
    /// found it absent, so came after this eviction, and evicts only what was present later still.
    async fn dispose(&self, chunk: &Removed<Generation>) -> Result<(), Error> {
        let _guard = self.locks.lock(chunk.key).await;
        if self.index.borrow().get(&chunk.key).is_some() {
            return Ok(());
        }
        self.disk.remove(chunk.key).await
    }

    pub(crate) async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let call = self.index.borrow_mut().call(keys.len());
        let mut present = Vec::new();
        for (index, key) in (0..).zip(keys) {
            let mut chunks = self.index.borrow_mut();
            chunks.touch(call, index, key);
            present.push(chunks.get(key).map(|(generation, size)| (*generation, size)));
        }
        let fits = |&(index, _): &(u32, ChunkKey)| {
            present[index as usize].is_some_and(|(_, size_bytes)| size_bytes == into.capacity(index))
        };
        let readable: Vec<_> = (0..).zip(keys.iter().copied()).filter(fits).collect();
        let mut read: Vec<_> = present.iter().map(|_| None).collect();
        for (answer, (index, _)) in self.disk.read(&readable, into).await.into_iter().zip(&readable) {
            read[*index as usize] = Some(answer);
        }
        let mut answers = Vec::with_capacity(keys.len());
        for (((index, key), present), read) in (0..).zip(keys).zip(present).zip(read) {
            answers.push(match present {
                None => Ok(None),
                Some(entry) => self.judge(*key, entry, into.capacity(index), read).await,
            });
        }
        answers
    }

    /// Says what was read of a chunk that is in the index, and takes it out if its file is missing or damaged: an entry
    /// that stayed would keep the chunk from being stored again.
    async fn judge(
        &self,
        key: ChunkKey,
        (generation, size_bytes): (Generation, u64),
        capacity: u64,
        read: Option<Result<Option<u64>, Error>>,
    ) -> Result<Option<u64>, Error> {
        let damage = match read.transpose()? {
            Some(Some(n)) if n == size_bytes => return Ok(Some(n)),
            Some(Some(n)) => Some(format!("{key}: {n} bytes on disk, {size_bytes} expected")),
            // Evicted or removed meanwhile, for all that is known.
            Some(None) => None,
            None => Some(format!("{key}: {size_bytes} bytes on disk, {capacity} expected")),
        };
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
    /// Takes a part out of it.
    fn part(&mut self, size_bytes: u64) -> Self {
        self.size_bytes -= size_bytes;
        Self { index: self.index, size_bytes }
    }

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
