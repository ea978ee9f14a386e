//! A class of the SDK in the contract's own interface `backend`, so that it can stand behind a middleware.

use std::cell::RefCell;
use std::collections::HashMap;

use kvtier_guest::prelude::*;

/// Keeps every chunk in a map. In the component it is called `Backend`.
struct MapBackend(RefCell<HashMap<ChunkKey, Vec<u8>>>);

impl ChunkStore for MapBackend {
    fn from_init(init: Init) -> Result<Self, Error> {
        init.only(&[])?;
        Ok(Self(RefCell::default()))
    }

    async fn has(&self, key: ChunkKey) -> Result<bool, Error> {
        Ok(self.0.borrow().contains_key(&key))
    }

    async fn put_one(&self, chunk: Source<'_>) -> Result<(), Error> {
        let bytes = chunk.read()?;
        self.0.borrow_mut().insert(chunk.key(), bytes);
        Ok(())
    }

    async fn get_one(&self, into: Sink<'_>) -> Result<Option<u64>, Error> {
        self.0.borrow().get(&into.key()).map_or(Ok(None), |bytes| into.write(bytes))
    }

    async fn remove_one(&self, key: ChunkKey) -> Result<bool, Error> {
        Ok(self.0.borrow_mut().remove(&key).is_some())
    }
}

kvtier_guest::export!(inner MapBackend);
