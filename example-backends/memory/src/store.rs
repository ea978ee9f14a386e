//! Chunks in guest memory.

use kvtier_guest::lru::{Call, Lru};
use kvtier_guest::{COPY_BYTES_MAX, ChunkKey, Error, Pinning, Sinks, Sources, check_memory};

/// The reaction to a full store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Refuse,
    EvictLeastRecentlyUsed,
}

/// The chunks of an instance, at most `capacity_bytes` of them.
pub(crate) struct Store {
    chunks: Lru<Chunk>,
    capacity_bytes: u64,
    when_full: WhenFull,
}

impl Store {
    pub(crate) fn new(capacity_bytes: u64, when_full: WhenFull) -> Self {
        Self { chunks: Lru::new(capacity_bytes), capacity_bytes, when_full }
    }

    pub(crate) fn contains(&mut self, keys: &[ChunkKey], pinning: Pinning) -> u32 {
        let run = match pinning {
            Pinning::None => self.chunks.leading_run(keys),
            Pinning::Pin => self.chunks.pin(keys),
        };
        run as u32
    }

    pub(crate) fn present(&self, keys: &[ChunkKey]) -> Vec<bool> {
        keys.iter().map(|key| self.chunks.get(key).is_some()).collect()
    }

    pub(crate) fn put(&mut self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let call = self.chunks.call(keys.len());
        let chunks = keys.iter().zip(0..);
        chunks.map(|(key, index)| self.put_one(call, index, key, data)).collect()
    }

    fn put_one(&mut self, call: Call, index: u32, key: &ChunkKey, data: &Sources) -> Result<(), Error> {
        if self.chunks.touch(call, index, key) {
            return Ok(());
        }
        let size_bytes = data.len(index);
        let would_evict = self.chunks.size_bytes().saturating_add(size_bytes) > self.capacity_bytes;
        if would_evict && self.when_full == WhenFull::Refuse {
            return Err(Error::NoSpace);
        }
        // Dropping the evicted chunks frees the memory that the new one is about to need.
        drop(self.chunks.reserve(call, &[size_bytes])?);
        match Chunk::read(data, index, size_bytes) {
            Ok(chunk) => {
                self.chunks.insert(call, index, *key, size_bytes, chunk)?;
                Ok(())
            }
            Err(error) => {
                self.chunks.release(size_bytes);
                Err(error)
            }
        }
    }

    pub(crate) fn get(&mut self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let call = self.chunks.call(keys.len());
        let mut results = Vec::with_capacity(keys.len());
        for (key, index) in keys.iter().zip(0..) {
            self.chunks.touch(call, index, key);
            let found = self.chunks.get(key).map(|(chunk, size_bytes)| {
                // One that is larger is not the chunk that the host asks for.
                let fits = size_bytes <= into.capacity(index);
                if fits { chunk.write(into, index) } else { Ok(size_bytes) }
            });
            results.push(found.transpose());
        }
        results
    }

    pub(crate) fn pin(&mut self, keys: &[ChunkKey]) -> u32 {
        self.chunks.pin(keys) as u32
    }

    pub(crate) fn unpin(&mut self, keys: &[ChunkKey]) -> u32 {
        self.chunks.unpin(keys) as u32
    }

    pub(crate) fn remove(&mut self, keys: &[ChunkKey]) -> u32 {
        keys.iter().filter(|key| self.chunks.remove(key).is_some()).count() as u32
    }
}

/// The bytes of a chunk in the pieces in which they were read. Joining them would cost another copy, and as much memory
/// again while it lasts.
struct Chunk(Vec<Vec<u8>>);

impl Chunk {
    fn read(data: &Sources, index: u32, size_bytes: u64) -> Result<Self, Error> {
        let mut pieces = Vec::with_capacity(size_bytes.div_ceil(COPY_BYTES_MAX) as usize);
        let mut offset = 0;
        while offset < size_bytes {
            let n = (size_bytes - offset).min(COPY_BYTES_MAX);
            check_memory(n as usize)?;
            pieces.push(data.read(index, offset, n)?);
            offset += n;
        }
        Ok(Self(pieces))
    }

    fn write(&self, into: &Sinks, index: u32) -> Result<u64, Error> {
        let mut offset = 0;
        for piece in &self.0 {
            into.write(index, offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(offset)
    }
}
