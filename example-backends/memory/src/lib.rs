//! Keeps chunks in guest memory: two classes of one component, which differ in what they do when they are full.

mod config;
mod store;

use std::cell::RefCell;

use kvtier_guest::prelude::*;

use config::Config;
use store::{Store, WhenFull};

/// Keeps chunks until they are removed, and refuses more than `config.capacity` bytes.
pub struct MemoryBackend {
    store: RefCell<Store>,
}

impl StorageBackend for MemoryBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let config = Config::from_init(&init)?;
        let store = Store::new(config.capacity_bytes, WhenFull::Refuse);
        Ok(Self { store: RefCell::new(store) })
    }

    fn lanes_max() -> u32 {
        // Chunks lie in the instance.
        1
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            // Never evicts, so there is nothing to protect from.
            return Err(Error::Unsupported);
        }
        Ok(self.store.borrow_mut().contains(keys, pinning))
    }

    async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        Ok(self.store.borrow().present(keys))
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        self.store.borrow_mut().put(keys, data)
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.store.borrow_mut().get(keys, into)
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        Ok(self.store.borrow_mut().remove(keys))
    }
}

/// Keeps `config.capacity` bytes of chunks, and evicts those used longest ago for new ones.
pub struct LruMemoryBackend {
    store: RefCell<Store>,
}

impl StorageBackend for LruMemoryBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let config = Config::from_init(&init)?;
        let store = Store::new(config.capacity_bytes, WhenFull::EvictLeastRecentlyUsed);
        Ok(Self { store: RefCell::new(store) })
    }

    fn lanes_max() -> u32 {
        // Chunks lie in the instance.
        1
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        Ok(self.store.borrow_mut().contains(keys, pinning))
    }

    async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        Ok(self.store.borrow().present(keys))
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        self.store.borrow_mut().put(keys, data)
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.store.borrow_mut().get(keys, into)
    }

    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        Ok(self.store.borrow_mut().pin(keys))
    }

    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        Ok(self.store.borrow_mut().unpin(keys))
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        Ok(self.store.borrow_mut().remove(keys))
    }
}

kvtier_guest::export!(MemoryBackend, LruMemoryBackend);

#[cfg(test)]
mod tests;
