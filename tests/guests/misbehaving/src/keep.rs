//! Keeps the handles of every call and uses them in the next one.

use std::cell::RefCell;

use kvtier_guest::{ChunkKey, Error, Init, Pinning, Sinks, Sources, info};

use crate::store::Store;

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod bindings {
    kvtier_guest::wit_bindgen::generate!({
        path: ["../../../wit", "wit"],
        world: "kvtier-test:misbehaving/keeper",
        runtime_path: "kvtier_guest::wit_bindgen::rt",
        with: {
            "kvtier:storage/types@0.1.0": kvtier_guest::bindings::kvtier::storage::types,
            "kvtier:storage/buffers@0.1.0": kvtier_guest::bindings::kvtier::storage::buffers,
        },
    });
}

use bindings::exports::kvtier_test::misbehaving::keep;

struct Component;

#[allow(unsafe_code, reason = "generated")]
const _: () = {
    bindings::export!(Component with_types_in bindings);
};

impl keep::Guest for Component {
    type KeepBackend = KeepBackend;
}

/// Logs what becomes of a handle that is used after its call: `kept sources: Err(…)`.
struct KeepBackend {
    store: Store,
    sources: RefCell<Vec<Sources>>,
    sinks: RefCell<Vec<Sinks>>,
}

impl KeepBackend {
    /// Uses all that was kept, and goes on keeping it.
    fn use_kept(&self) {
        for sources in self.sources.borrow().iter().filter(|sources| sources.count() > 0) {
            let read = sources.read(0, 0, sources.len(0).min(16)).map(|bytes| bytes.len());
            info!("kept sources: {read:?}");
        }
        for sinks in self.sinks.borrow().iter().filter(|sinks| sinks.count() > 0) {
            let n = sinks.capacity(0).min(16) as usize;
            info!("kept sinks: {:?}", sinks.write(0, 0, &vec![0xee; n]));
        }
    }
}

impl keep::GuestKeepBackend for KeepBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&[])?;
        Ok(Self { store: Store::default(), sources: RefCell::default(), sinks: RefCell::default() })
    }

    async fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn contains(&self, keys: Vec<ChunkKey>, pinning: Pinning) -> Result<u32, Error> {
        self.use_kept();
        Ok(self.store.contains(&keys, pinning))
    }

    async fn put(&self, keys: Vec<ChunkKey>, data: Sources) -> Vec<Result<(), Error>> {
        self.use_kept();
        let put =
            |(key, index): (&ChunkKey, u32)| data.read_all(index).map(|bytes| self.store.put(*key, bytes));
        let results = keys.iter().zip(0..).map(put).collect();
        self.sources.borrow_mut().push(data);
        results
    }

    async fn get(&self, keys: Vec<ChunkKey>, into: Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.use_kept();
        let get = |(key, index): (&ChunkKey, u32)| {
            let bytes = self.store.bytes(key);
            bytes.map_or(Ok(None), |bytes| into.write_all(index, &bytes))
        };
        let results = keys.iter().zip(0..).map(get).collect();
        self.sinks.borrow_mut().push(into);
        results
    }

    async fn pin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Ok(self.store.contains(&keys, Pinning::Pin))
    }

    async fn unpin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Ok(self.store.unpin(&keys))
    }

    async fn remove(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        Ok(self.store.remove(&keys))
    }

    async fn close(&self) -> Result<(), Error> {
        self.use_kept();
        Ok(())
    }
}
