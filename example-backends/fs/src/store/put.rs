//! Storing chunks.

use kvtier_guest::lru::Call;
use kvtier_guest::{ChunkKey, Error, Sources, each_bounded};

use super::{CHUNKS_AT_ONCE, Role, Store};

/// Some chunks of a call: their places in it, and their keys.
type Chunks = [(u32, ChunkKey)];

impl Store {
    pub(crate) async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        if let Err(error) = self.check_writable() {
            let error = Err(error);
            self.disk.note(&error);
            return vec![error; keys.len()];
        }
        let call = self.call(keys.len());
        let at_once = self.put_at_once(call, keys, data).await;
        let put = async |index: u32, key| match at_once[index as usize].clone() {
            Some(stored) => stored,
            None => self.put_one(call, index, key, data).await,
        };
        each_bounded(keys, CHUNKS_AT_ONCE, put).await
    }

    /// Stores the chunks that no other call works on, all together if there is room for them. `None` stands for each of
    /// the others.
    async fn put_at_once(
        &self,
        call: Call,
        keys: &[ChunkKey],
        data: &Sources,
    ) -> Vec<Option<Result<(), Error>>> {
        let mut stored = vec![None; keys.len()];
        let (mut chunks, mut guards) = (Vec::new(), Vec::new());
        for (index, key) in (0..).zip(keys) {
            let Some(guard) = self.locks.try_lock(*key) else { continue };
            if self.index.borrow_mut().touch(call, index, key) && self.owns() {
                stored[index as usize] = Some(Ok(()));
                continue;
            }
            chunks.push((index, *key));
            guards.push(guard);
        }
        let written = self.store(call, &chunks, data).await;
        for ((index, _), written) in chunks.into_iter().zip(written) {
            stored[index as usize] = match written {
                // One alone may find the room that there is not for all.
                Err(Error::NoSpace) if keys.len() > 1 => None,
                written => Some(written),
            };
        }
        stored
    }

    async fn put_one(&self, call: Call, index: u32, key: ChunkKey, data: &Sources) -> Result<(), Error> {
        let _guard = self.locks.lock(key).await;
        if self.index.borrow_mut().touch(call, index, &key) && self.owns() {
            return Ok(());
        }
        self.store(call, &[(index, key)], data).await.into_iter().collect()
    }

    /// Stores chunks whose keys are held and which are not in the index: those that are not there, all together.
    async fn store(&self, call: Call, chunks: &Chunks, data: &Sources) -> Vec<Result<(), Error>> {
        let mut stored: Vec<Option<Result<(), Error>>> = vec![None; chunks.len()];
        if self.may_be_more() {
            let keys: Vec<ChunkKey> = chunks.iter().map(|(_, key)| *key).collect();
            for ((stat, &(index, key)), stored) in
                self.disk.stats(&keys).await.into_iter().zip(chunks).zip(&mut stored)
            {
                // A torn one of another size is replaced.
                if let Ok(Some(found)) = stat
                    && found.size_bytes == data.len(index)
                {
                    // The index counts it, unless it is among the bytes outside, which are counted.
                    if self.outside_bytes.get() == 0 {
                        self.take_in(call, index, key, found.size_bytes);
                    }
                    *stored = Some(Ok(()));
                }
            }
        }
        let missing = chunks.iter().zip(&stored).filter(|(_, stored)| stored.is_none());
        let missing: Vec<(u32, ChunkKey)> = missing.map(|(chunk, _)| *chunk).collect();
        let mut written = self.write(call, &missing, data).await.into_iter();
        let written = stored.into_iter().map(|stored| match stored {
            Some(stored) => stored,
            None => written.next().unwrap_or_else(|| Err(Error::other("no answer for a chunk"))),
        });
        written.collect()
    }

    /// Makes room for chunks, and writes their files.
    async fn write(&self, call: Call, chunks: &Chunks, data: &Sources) -> Vec<Result<(), Error>> {
        if chunks.is_empty() {
            return Vec::new();
        }
        let sizes: Vec<u64> = chunks.iter().map(|(index, _)| data.len(*index)).collect();
        let mut room = None;
        if self.owns() {
            match self.make_room(call, &sizes).await {
                Ok(made) => room = Some(made),
                Err(error) => return vec![Err(error); chunks.len()],
            }
        }
        let n_resets = self.n_resets.get();
        let mut written = self.disk.write(chunks, data).await;
        if written.iter().any(|written| matches!(written, Err(Error::Other(_)))) {
            self.mend().await;
            // By this call or by another one.
            if self.n_resets.get() != n_resets {
                self.write_again(chunks, data, &mut written).await;
            }
        }
        let mut new = Vec::new();
        for ((written, &(index, key)), size_bytes) in written.iter().zip(chunks).zip(sizes) {
            self.disk.note(written);
            let part = room.as_mut().map(|room| room.part(size_bytes));
            if written.is_ok() {
                // Given back first: it goes where the reserved room was.
                drop(part);
                self.take_in(call, index, key, size_bytes);
                new.push(key);
            }
        }
        if self.role.get() == Role::Guest {
            self.disk.tell_owner(&new).await;
        }
        written
    }

    async fn write_again(&self, chunks: &Chunks, data: &Sources, written: &mut [Result<(), Error>]) {
        let failed =
            chunks.iter().zip(written.iter()).filter(|(_, written)| matches!(written, Err(Error::Other(_))));
        let failed: Vec<(u32, ChunkKey)> = failed.map(|(chunk, _)| *chunk).collect();
        let again = self.disk.write(&failed, data).await;
        let failed = written.iter_mut().filter(|written| matches!(written, Err(Error::Other(_))));
        for (written, again) in failed.zip(again) {
            *written = again;
        }
    }
}
