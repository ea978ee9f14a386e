//! Keeps chunks as files of a granted directory, and finds them again after a restart.
//!
//! All input and output is WASI 0.3: it awaits, where `std::fs` would stop every call of the instance.
//! Bytes are spliced between files and the host's buffers, and never enter guest memory.

mod config;
mod disk;
mod locks;
mod store;

use kvtier_guest::prelude::*;

use config::Config;
use store::Store;

/// One file a chunk below `config.root`, at most `config.capacity` bytes of them.
pub struct FsBackend {
    store: Store,
}

impl StorageBackend for FsBackend {
    fn new(init: Init) -> Result<Self, Error> {
        Ok(Self { store: Store::new(&Config::from_init(&init)?)? })
    }

    async fn open(&self) -> Result<(), Error> {
        self.store.open().await
    }

    async fn contains(&self, keys: &[ChunkKey], pin: bool) -> Result<u32, Error> {
        Ok(self.store.contains(keys, pin))
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        self.store.put(keys, data).await
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.store.get(keys, into).await
    }

    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        Ok(self.store.pin(keys))
    }

    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        Ok(self.store.unpin(keys))
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.store.remove(keys).await
    }
}

kvtier_guest::export!(FsBackend);
