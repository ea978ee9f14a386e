//! Room for new chunks, and the end of old ones.

use std::cell::RefCell;

use kvtier_guest::futures_util::{StreamExt, stream};
use kvtier_guest::lru::{Call, Lru, Removed};
use kvtier_guest::{ChunkKey, Error, warn};

use super::{CHUNKS_AT_ONCE, Store};

/// Chunks that are evicted at a time when there are more than the capacity has room for.
const EVICTED_AT_ONCE: usize = 64;
/// Limit on choosing victims again because some are leased.
const CHOICES_MAX: usize = 64;

impl Store {
    /// Reserves room, and has the files gone that were in it, so that the disk never holds more than the capacity.
    pub(super) async fn make_room(&self, call: Call, sizes_bytes: &[u64]) -> Result<Room<'_>, Error> {
        self.spare_leased(|index| Ok(index.would_evict(call, sizes_bytes)?)).await?;
        let (evicted, left_over) = {
            let mut index = self.index.borrow_mut();
            let evicted = index.reserve(call, sizes_bytes)?;
            // Nobody may use what the victims leave over before their files are gone.
            let freed_bytes: u64 = evicted.iter().map(|victim| victim.size_bytes).sum();
            let left_over = freed_bytes.min(index.free_bytes());
            index.hold_bytes(left_over);
            (evicted, left_over)
        };
        let room =
            Room { index: &self.index, size_bytes: sizes_bytes.iter().sum(), n_chunks: sizes_bytes.len() };
        let _left_over = Room { index: &self.index, size_bytes: left_over, n_chunks: 0 };
        if !evicted.is_empty() && self.index.borrow().is_out_of_memory() {
            self.report_full(0);
        }
        self.dispose_all(evicted).await?;
        Ok(room)
    }

    /// Evicts what is beyond the capacity, and returns how many chunks that were.
    pub(super) async fn evict_surplus(&self) -> Result<usize, Error> {
        let mut n_evicted = 0;
        loop {
            match self.spare_leased(|index| Ok(index.surplus(EVICTED_AT_ONCE))).await {
                // Until their leases end.
                Err(Error::NoSpace) => return Ok(n_evicted),
                spared => spared?,
            }
            let evicted = self.index.borrow_mut().shrink(EVICTED_AT_ONCE);
            if evicted.is_empty() {
                return Ok(n_evicted);
            }
            n_evicted += evicted.len();
            self.dispose_all(evicted).await?;
        }
    }

    /// Counts a use of each victim that another process has leased, and chooses again, until no victim is leased.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if none is left but leased ones.
    async fn spare_leased(
        &self,
        choose: impl Fn(&mut Lru<()>) -> Result<Vec<ChunkKey>, Error>,
    ) -> Result<(), Error> {
        let (mut free, mut leased): (Vec<ChunkKey>, Vec<ChunkKey>) = (Vec::new(), Vec::new());
        for _ in 0..CHOICES_MAX {
            let mut victims = choose(&mut self.index.borrow_mut())?;
            if victims.iter().any(|key| leased.contains(key)) {
                break;
            }
            victims.retain(|key| !free.contains(key));
            if victims.is_empty() {
                return Ok(());
            }
            let spared = self.disk.leased(&victims).await;
            for key in &spared {
                let call = self.call(1);
                self.index.borrow_mut().touch(call, 0, key);
            }
            free.extend(victims.into_iter().filter(|key| !spared.contains(key)));
            leased.extend(spared);
        }
        Err(Error::NoSpace)
    }

    /// Logs once that memory, not the capacity, limits the number of chunks.
    pub(super) fn report_full(&self, n_outside: u64) {
        let index = self.index.borrow();
        if self.is_full_told.replace(true) {
            return;
        }
        warn!(
            "the index is full with {} chunks, as limits.memory has room for no more: for new chunks those used longest \
             ago are evicted, and {n_outside} that were found beyond it are kept and found through the file system; \
             raise limits.memory to keep more",
            index.len()
        );
    }

    /// Removes the files of chunks that left the index. Those that stay count again, and a later put tries once more.
    async fn dispose_all(&self, evicted: Vec<Removed<()>>) -> Result<(), Error> {
        let mut disposed = stream::iter(evicted)
            .map(async |victim| (self.dispose(victim.key).await, victim))
            .buffer_unordered(CHUNKS_AT_ONCE);
        let mut outcome = Ok(());
        while let Some((disposed, kept)) = disposed.next().await {
            let Err(error) = disposed else { continue };
            // The one that holds its lock found it absent, and replaces or removes the file.
            if let Some(_guard) = self.locks.try_lock(kept.key) {
                let call = self.call(1);
                self.take_in(call, 0, kept.key, kept.size_bytes);
            }
            outcome = outcome.and(Err(error));
        }
        outcome
    }

    /// Removes the file of a chunk that is no longer in the index, unless it was stored again.
    ///
    /// Waits for the key's lock while holding those of keys being stored. That cannot go round in circles: these were
    /// locked, found absent, and room reserved for them, all at one moment. The one that holds the victim's lock found
    /// it absent, so came after this eviction, and evicts only what was present later still.
    async fn dispose(&self, key: ChunkKey) -> Result<(), Error> {
        let _guard = self.locks.lock(key).await;
        if self.index.borrow().get(&key).is_some() {
            return Ok(());
        }
        self.disk.remove(key).await.map(drop)
    }
}

/// Reserved room, given back when it is dropped.
pub(super) struct Room<'a> {
    index: &'a RefCell<Lru<()>>,
    size_bytes: u64,
    n_chunks: usize,
}

impl Room<'_> {
    /// Takes the room of one chunk out of it.
    pub(super) fn part(&mut self, size_bytes: u64) -> Self {
        self.size_bytes -= size_bytes;
        self.n_chunks -= 1;
        Self { index: self.index, size_bytes, n_chunks: 1 }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut index = self.index.borrow_mut();
        index.release_bytes(self.size_bytes);
        (0..self.n_chunks).for_each(|_| index.release(0));
    }
}
