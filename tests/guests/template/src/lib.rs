//! A component that exports the contract's template interface itself: no WIT of its author's, and no SDK.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "storage-backend",
        additional_derives: [PartialEq, Eq, Hash],
        additional_derives_ignore: ["sources", "sinks"],
        generate_all,
    });
}

use bindings::exports::kvtier::storage::backend::{Guest, GuestBackend};
use bindings::kvtier::storage::buffers::{Sinks, Sources};
use bindings::kvtier::storage::logging::{Level, log};
use bindings::kvtier::storage::types::{ChunkKey, Error, Init, Pinning};

struct Component;

#[allow(unsafe_code, reason = "generated")]
const _: () = {
    bindings::export!(Component with_types_in bindings);
};

impl Guest for Component {
    type Backend = Backend;
}

/// Keeps every chunk in a map, and counts pins although it never evicts.
#[derive(Default)]
struct Backend {
    chunks: RefCell<HashMap<ChunkKey, Vec<u8>>>,
    pinned: RefCell<HashSet<ChunkKey>>,
}

impl Backend {
    fn run(&self, keys: &[ChunkKey]) -> usize {
        let chunks = self.chunks.borrow();
        keys.iter().take_while(|key| chunks.contains_key(key)).count()
    }

    fn put_one(&self, key: ChunkKey, data: &Sources, index: u32) -> Result<(), Error> {
        // Chunks of the tests are shorter than what one `read` may ask for.
        let bytes = data.read(index, 0, data.len(index))?;
        self.chunks.borrow_mut().entry(key).or_insert(bytes);
        Ok(())
    }

    fn get_one(&self, key: ChunkKey, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        let chunks = self.chunks.borrow();
        let Some(bytes) = chunks.get(&key) else { return Ok(None) };
        let size_bytes = bytes.len() as u64;
        if size_bytes <= into.capacity(index) {
            into.write(index, 0, bytes)?;
        }
        Ok(Some(size_bytes))
    }
}

impl GuestBackend for Backend {
    fn new(init: Init) -> Result<Self, Error> {
        log(Level::Info, &format!("{} for {}", init.backend_name, init.metadata.model_name));
        match init.config.first() {
            None => Ok(Self::default()),
            Some((key, _)) => Err(Error::InvalidConfig(format!("config.{key}: unknown key"))),
        }
    }

    async fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn contains(&self, keys: Vec<ChunkKey>, pinning: Pinning) -> Result<u32, Error> {
        match pinning {
            Pinning::None => Ok(self.run(&keys) as u32),
            Pinning::Pin => self.pin(keys).await,
        }
    }

    async fn put(&self, keys: Vec<ChunkKey>, data: Sources) -> Vec<Result<(), Error>> {
        keys.into_iter().zip(0..).map(|(key, index)| self.put_one(key, &data, index)).collect()
    }

    async fn get(&self, keys: Vec<ChunkKey>, into: Sinks) -> Vec<Result<Option<u64>, Error>> {
        keys.into_iter().zip(0..).map(|(key, index)| self.get_one(key, &into, index)).collect()
    }

    async fn pin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        let run = self.run(&keys);
        self.pinned.borrow_mut().extend(&keys[..run]);
        Ok(run as u32)
    }

    async fn unpin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        let mut pinned = self.pinned.borrow_mut();
        Ok(keys.iter().filter(|key| pinned.remove(key)).count() as u32)
    }

    async fn remove(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        let mut chunks = self.chunks.borrow_mut();
        Ok(keys.iter().filter(|key| chunks.remove(key).is_some()).count() as u32)
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
