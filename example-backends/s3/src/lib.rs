//! Skeleton.

use kvtier_guest::prelude::*;

/// Keeps nothing yet.
pub struct S3Backend;

impl StorageBackend for S3Backend {
    fn new(_: Init) -> Result<Self, Error> {
        Err(Error::Unsupported)
    }

    async fn contains(&self, _: &[ChunkKey], _: bool) -> Result<u32, Error> {
        Err(Error::Unsupported)
    }

    async fn put(&self, _: &[ChunkKey], _: &Sources) -> Vec<Result<(), Error>> {
        Vec::new()
    }

    async fn get(&self, _: &[ChunkKey], _: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        Vec::new()
    }
}

kvtier_guest::export!(S3Backend);
