//! Chunks in memory.

use kvtier_guest::lru::{Call, Lru};
use kvtier_guest::prelude::*;

/// The chunks of an instance. The index counts bytes, recency and pins.
pub(crate) struct Store {
    chunks: Lru<Vec<u8>>,
}

impl Store {
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        Self {
            chunks: Lru::new(capacity_bytes),
        }
    }

    pub(crate) fn leading_run(&self, keys: &[ChunkKey]) -> u32 {
        self.chunks.leading_run(keys) as u32
    }

    pub(crate) fn put(&mut self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        // No chunk of a call makes room for another one of the same call.
        let call = self.chunks.call(keys.len());
        data.chunks(keys)
            .map(|chunk| self.put_one(call, &chunk))
            .collect()
    }

    fn put_one(&mut self, call: Call, chunk: &Source<'_>) -> Result<(), Error> {
        if self.chunks.touch(call, chunk.index(), &chunk.key()) {
            // A chunk that is present keeps its bytes.
            return Ok(());
        }
        let size_bytes = chunk.len();
        // Evicted chunks are dropped before the new one needs their memory.
        drop(self.chunks.reserve(call, &[size_bytes])?);
        match chunk.read() {
            Ok(bytes) => {
                self.chunks
                    .insert(call, chunk.index(), chunk.key(), size_bytes, bytes)?;
                Ok(())
            }
            Err(error) => {
                self.chunks.release(size_bytes);
                Err(error)
            }
        }
    }

    pub(crate) fn get(
        &mut self,
        keys: &[ChunkKey],
        into: &Sinks,
    ) -> Vec<Result<Option<u64>, Error>> {
        let call = self.chunks.call(keys.len());
        into.chunks(keys)
            .map(|buffer| {
                self.chunks.touch(call, buffer.index(), &buffer.key());
                match self.chunks.get(&buffer.key()) {
                    Some((bytes, _)) => buffer.write(bytes),
                    None => Ok(None),
                }
            })
            .collect()
    }

    pub(crate) fn pin(&mut self, keys: &[ChunkKey]) -> u32 {
        self.chunks.pin(keys) as u32
    }

    pub(crate) fn unpin(&mut self, keys: &[ChunkKey]) -> u32 {
        self.chunks.unpin(keys) as u32
    }

    pub(crate) fn remove(&mut self, keys: &[ChunkKey]) -> u32 {
        keys.iter()
            .filter(|key| self.chunks.remove(key).is_some())
            .count() as u32
    }
}
