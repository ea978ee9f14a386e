//! Keeps chunks as files of a granted directory, and finds them again after a restart.
//!
//! All input and output is WASI 0.3: it awaits, where `std::fs` would stop every call of the instance. Bytes are
//! spliced between files and the host's buffers, and never enter guest memory.

mod config;
mod disk;
mod store;

use std::rc::Rc;

use kvtier_guest::prelude::*;
use kvtier_guest::wit_bindgen::spawn_local;

use config::Config;
use store::Store;

/// One file a chunk below `config.root`, at most `config.capacity` bytes of them.
pub struct FsBackend {
    store: Rc<Store>,
}

impl StorageBackend for FsBackend {
    fn new(init: Init) -> Result<Self, Error> {
        Ok(Self { store: Rc::new(Store::new(&Config::from_init(&init)?)?) })
    }

    fn lanes_max() -> u32 {
        // Each instance has its own index and would not find what another one stores.
        1
    }

    async fn open(&self) -> Result<(), Error> {
        self.store.open().await?;
        spawn_local(Rc::clone(&self.store).look_after());
        Ok(())
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        self.store.contains(keys, pinning).await
    }

    async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        self.store.present(keys).await
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        self.store.put(keys, data).await
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.store.get(keys, into).await
    }

    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.store.pin(keys).await
    }

    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.store.unpin(keys).await
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.store.remove(keys).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.store.close();
        Ok(())
    }
}

kvtier_guest::export!(FsBackend);
