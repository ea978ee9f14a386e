//! Keeps chunks as objects of a bucket, in S3 or a compatible store.
//!
//! HTTP is the host's (WASI 0.3): it connects, keeps connections alive and does TLS, and sends a chunk's bytes from its
//! own memory. This crate adds S3: signatures, retries, and the meaning of its errors.

mod bucket;
mod config;
mod errors;
mod http;
mod retry;
mod sign;
mod store;

use kvtier_guest::prelude::*;

use config::Config;
use store::Store;

/// One object a chunk in `config.bucket`.
pub struct S3Backend {
    store: Store,
}

impl StorageBackend for S3Backend {
    fn new(init: Init) -> Result<Self, Error> {
        Ok(Self { store: Store::new(Config::from_init(&init)?) })
    }

    async fn open(&self) -> Result<(), Error> {
        self.store.open().await
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            // Lifecycle rules of the bucket remove objects.
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
}

kvtier_guest::export!(S3Backend);
