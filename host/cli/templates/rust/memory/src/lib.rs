//! Keeps chunks in the memory of the instance, and evicts those used longest ago.

mod store;

use std::cell::RefCell;

use kvtier_guest::prelude::*;

use store::Store;

/// Bytes of chunks that are kept without `config.capacity`.
const CAPACITY_BYTES_DEFAULT: u64 = 32 << 20;

struct NewBackend {
    // Calls overlap at `.await` only, so hold no borrow across one.
    store: RefCell<Store>,
}

impl StorageBackend for NewBackend {
    fn new(init: Init) -> Result<Self, Error> {
        // Operators misspell keys; `only` refuses those that the backend does not know.
        init.only(&["capacity"])?;
        let capacity_bytes = init
            .bytes_in("capacity", 1..)?
            .unwrap_or(CAPACITY_BYTES_DEFAULT);
        Ok(Self {
            store: RefCell::new(Store::new(capacity_bytes)),
        })
    }

    fn lanes_max() -> u32 {
        // Chunks are in the instance, and a second instance would not find them.
        1
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        let mut store = self.store.borrow_mut();
        Ok(match pinning {
            Pinning::None => store.leading_run(keys),
            Pinning::Pin => store.pin(keys),
        })
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

kvtier_guest::export!(NewBackend);

#[cfg(test)]
mod tests;
