//! Keeps chunks in Redis, or in a store with its protocol: one server, or a cluster.
//!
//! All input and output is WASI 0.3. The small commands of all calls go out together over one connection (`pipe`); a
//! call with large values takes a connection of its own for all its chunks, so a batch is one round trip, and of a
//! value no more than a piece is in guest memory at a time.

mod cluster;
mod config;
mod connect;
mod connection;
mod dispatch;
mod elsewhere;
mod items;
mod jobs;
mod node;
mod pause;
mod pipe;
mod refusal;
mod resp;
mod set;
mod slots;
mod store;
mod watch;

use kvtier_guest::prelude::*;

use config::Config;
use store::Store;

/// One value a chunk, under `config.prefix`, the namespace and the chunk's key.
pub struct RedisBackend {
    store: Store,
}

impl StorageBackend for RedisBackend {
    fn new(init: Init) -> Result<Self, Error> {
        Ok(Self { store: Store::new(Config::from_init(&init)?) })
    }

    async fn open(&self) -> Result<(), Error> {
        self.store.open().await
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            // Redis evicts by its policy.
            return Err(Error::Unsupported);
        }
        self.store.contains(keys).await
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

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.store.remove(keys).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.store.close();
        Ok(())
    }
}

kvtier_guest::export!(RedisBackend);
