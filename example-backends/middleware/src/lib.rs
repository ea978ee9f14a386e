//! A backend in front of another one: it imports the contract's interface `backend` and exports it. Chunks pass that
//! are offered again; see the README.

mod door;

use std::cell::RefCell;
use std::collections::HashMap;

use kvtier_guest::{ChunkKey, Error, Init, Part, Pinning, Sinks, Sources, each, info};

use crate::bindings::exports::kvtier::storage::backend::{Guest, GuestBackend};
use crate::bindings::kvtier::storage::backend::Backend as Inner;
use crate::door::Door;

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "storage-middleware",
        with: {
            "kvtier:storage/types@0.1.0": kvtier_guest::bindings::kvtier::storage::types,
            "kvtier:storage/buffers@0.1.0": kvtier_guest::bindings::kvtier::storage::buffers,
            "kvtier:storage/logging@0.1.0": kvtier_guest::bindings::kvtier::storage::logging,
        },
        generate_all,
    });
}

struct Component;

#[allow(unsafe_code, reason = "generated")]
const _: () = {
    bindings::export!(Component with_types_in bindings);
};

impl Guest for Component {
    type Backend = Admission;
}

/// Stores chunks in the backend behind it when they come again.
struct Admission {
    inner: Inner,
    door: RefCell<Door>,
}

impl Admission {
    /// Returns which chunks to pass on: those that the door admits, and those that are stored already, which their
    /// owner may count as used. A repeated key is judged once.
    async fn judge(&self, keys: &[ChunkKey]) -> HashMap<ChunkKey, bool> {
        let mut passes = HashMap::with_capacity(keys.len());
        for key in keys {
            passes.entry(*key).or_insert_with(|| self.door.borrow_mut().admits(*key));
        }
        let refused: Vec<ChunkKey> = passes.iter().filter(|(_, pass)| !**pass).map(|(key, _)| *key).collect();
        let present = each(&refused, async |_, key| self.inner.contains(vec![key], Pinning::None).await);
        for (key, present) in refused.iter().zip(present.await) {
            if present == Ok(1) {
                passes.insert(*key, true);
            }
        }
        passes
    }
}

impl GuestBackend for Admission {
    fn new(mut init: Init) -> Result<Self, Error> {
        let door = RefCell::new(Door::from_init(&mut init)?);
        // An error of the other constructor arrives as it is.
        Ok(Self { inner: Inner::new(&init)?, door })
    }

    async fn open(&self) -> Result<(), Error> {
        info!("chunks are stored when they come again");
        self.inner.open().await
    }

    async fn contains(&self, keys: Vec<ChunkKey>, pinning: Pinning) -> Result<u32, Error> {
        self.inner.contains(keys, pinning).await
    }

    async fn put(&self, keys: Vec<ChunkKey>, data: Sources) -> Vec<Result<(), Error>> {
        let passes = self.judge(&keys).await;
        let part = Part::of(&keys, |_, key| passes[&key]);
        let mut results = vec![Err(Error::NoSpace); keys.len()];
        if part.is_empty() {
            return results;
        }
        match part.sources(&data) {
            Ok(some) => part.put_back(&mut results, self.inner.put(part.keys().to_vec(), some).await),
            Err(error) => part.put_back(&mut results, part.keys().iter().map(|_| Err(error.clone()))),
        }
        results
    }

    async fn get(&self, keys: Vec<ChunkKey>, into: Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.inner.get(keys, into).await
    }

    async fn pin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        self.inner.pin(keys).await
    }

    async fn unpin(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        self.inner.unpin(keys).await
    }

    async fn remove(&self, keys: Vec<ChunkKey>) -> Result<u32, Error> {
        self.inner.remove(keys).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.inner.close().await
    }
}
