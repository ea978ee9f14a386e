//! A store that works, for the classes to spoil.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use kvtier_guest::{ChunkKey, Pinning};

/// Chunks in memory, without a limit. Ordered, so that what a class makes of it is the same in every run.
#[derive(Default)]
pub(crate) struct Store {
    chunks: RefCell<BTreeMap<ChunkKey, Vec<u8>>>,
    pinned: RefCell<BTreeSet<ChunkKey>>,
}

impl Store {
    pub(crate) fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> u32 {
        let chunks = self.chunks.borrow();
        let run = keys.iter().take_while(|key| chunks.contains_key(key)).count();
        if pinning == Pinning::Pin {
            self.pinned.borrow_mut().extend(&keys[..run]);
        }
        run as u32
    }

    pub(crate) fn put(&self, key: ChunkKey, bytes: Vec<u8>) {
        self.chunks.borrow_mut().entry(key).or_insert(bytes);
    }

    pub(crate) fn bytes(&self, key: &ChunkKey) -> Option<Vec<u8>> {
        self.chunks.borrow().get(key).cloned()
    }

    /// The bytes of another chunk, if there is another.
    pub(crate) fn other_bytes(&self, key: &ChunkKey) -> Option<Vec<u8>> {
        let chunks = self.chunks.borrow();
        chunks.iter().find(|(other, _)| *other != key).map(|(_, bytes)| bytes.clone())
    }

    pub(crate) fn unpin(&self, keys: &[ChunkKey]) -> u32 {
        let mut pinned = self.pinned.borrow_mut();
        keys.iter().filter(|key| pinned.remove(key)).count() as u32
    }

    pub(crate) fn remove(&self, keys: &[ChunkKey]) -> u32 {
        self.unpin(keys);
        let mut chunks = self.chunks.borrow_mut();
        keys.iter().filter(|key| chunks.remove(key).is_some()).count() as u32
    }
}
