//! Fetching chunks.

use kvtier_guest::{ChunkKey, Error, Level, Sinks};

use super::{Role, Store};

impl Store {
    pub(crate) async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let call = self.call(keys.len());
        let mut known = Vec::with_capacity(keys.len());
        for (index, key) in (0..).zip(keys) {
            let mut chunks = self.index.borrow_mut();
            chunks.touch(call, index, key);
            known.push(if self.owns() { chunks.get(key).map(|((), size_bytes)| size_bytes) } else { None });
        }
        let fits = |&(index, _): &(u32, ChunkKey)| {
            known[index as usize].is_none_or(|size_bytes| size_bytes <= into.capacity(index))
        };
        let readable: Vec<_> = (0..).zip(keys.iter().copied()).filter(fits).collect();
        let mut read: Vec<_> = known.iter().map(|_| None).collect();
        for (answer, (index, _)) in self.disk.read(&readable, into).await.into_iter().zip(&readable) {
            read[*index as usize] = Some(answer);
        }
        let is_gone =
            |read: &Option<_>, known: &Option<u64>| matches!(read, Some(Ok(None))) && known.is_some();
        if read.iter().zip(&known).any(|(read, known)| is_gone(read, known)) {
            self.mend().await;
        }
        let mut answers = Vec::with_capacity(keys.len());
        for ((key, known), read) in keys.iter().zip(known).zip(read) {
            answers.push(self.judge(*key, known, read).await);
        }
        answers
    }

    /// Returns a call's result for a chunk, and drops the chunk if its file is missing or cut off: one that stayed
    /// would keep it from being stored again. `read` is `None` for one that is known to be larger than the buffer.
    async fn judge(
        &self,
        key: ChunkKey,
        known: Option<u64>,
        read: Option<Result<Option<u64>, Error>>,
    ) -> Result<Option<u64>, Error> {
        let Some(read) = read.transpose()? else { return Ok(known) };
        let Some(known) = known.filter(|known| read != Some(*known)) else { return Ok(read) };
        self.drop_damaged(key, known).await?;
        match read {
            // Evicted or removed since, for all that is known.
            None => Ok(None),
            Some(n_bytes) => {
                Err(Error::corrupt(format!("{key}: {n_bytes} bytes on disk, {known} were stored")))
            }
        }
    }

    /// Removes a chunk whose file is missing or damaged, unless it was replaced since.
    async fn drop_damaged(&self, key: ChunkKey, size_bytes: u64) -> Result<(), Error> {
        let _guard = self.locks.lock(key).await;
        match self.disk.stat(key).await? {
            Some(found) if found.size_bytes == size_bytes => return Ok(()),
            None => {
                let message = format_args!("{key}: the file is gone; the chunk is dropped");
                if self.index.borrow().get(&key).is_some() {
                    self.reports.missing.log(Level::Warn, message);
                }
            }
            Some(_) if self.role.get() == Role::Reader => return Ok(()),
            Some(found) => {
                let found_bytes = found.size_bytes;
                let message = format_args!(
                    "{key}: {found_bytes} bytes, {size_bytes} were stored; the chunk is dropped"
                );
                self.reports.damaged.log(Level::Warn, message);
                // In this order: as long as there is a file, it counts.
                self.disk.remove(key).await?;
                if self.role.get() == Role::Guest {
                    self.disk.tell_owner(&[key]).await;
                }
            }
        }
        self.index.borrow_mut().remove(&key);
        Ok(())
    }
}
