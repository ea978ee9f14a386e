//! Keeps each chunk in a file, and evicts those used longest ago. No byte of a chunk passes through the instance.

mod file;
mod store;

use kvtier_guest::prelude::*;

use store::Store;

/// Bytes of chunks that are kept without `config.capacity`.
const CAPACITY_BYTES_DEFAULT: u64 = 1 << 30;

/// The directory without `config.root`: the guest's path of a grant in `allow.fs`.
const ROOT_DEFAULT: &str = "/data";

struct NewBackend {
    store: Store,
}

impl StorageBackend for NewBackend {
    fn new(init: Init) -> Result<Self, Error> {
        // Operators misspell keys; `only` refuses those that the backend does not know.
        init.only(&["capacity", "root"])?;
        let capacity_bytes = init
            .bytes_in("capacity", 1..)?
            .unwrap_or(CAPACITY_BYTES_DEFAULT);
        let root = init.get("root").unwrap_or(ROOT_DEFAULT);
        // Engines with other models or layouts have other namespaces.
        let directory = format!("{}/{}", root.trim_end_matches('/'), init.namespace);
        Ok(Self {
            store: Store::new(directory, capacity_bytes),
        })
    }

    fn lanes_max() -> u32 {
        // One instance manages a directory.
        1
    }

    async fn open(&self) -> Result<(), Error> {
        self.store.open().await
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        Ok(match pinning {
            Pinning::None => self.store.leading_run(keys),
            Pinning::Pin => self.store.pin(keys),
        })
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

kvtier_guest::export!(NewBackend);

#[cfg(test)]
mod tests;
