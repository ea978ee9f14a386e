//! A class in blocking style: every method is a plain `func`.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use kvtier_guest::prelude::*;

/// As many as fit into the default of `limits.hostcall_bytes`, about.
const FLOOD: usize = 400_000;

/// Keeps chunks in guest memory; never evicts, and counts pins all the same. With `config.flood: true` its `put` and
/// `get` answer very many errors.
pub struct BlockingMemoryBackend {
    floods: bool,
    chunks: RefCell<HashMap<ChunkKey, Vec<u8>>>,
    pinned: RefCell<HashSet<ChunkKey>>,
}

fn flood<T>() -> Vec<Result<T, Error>> {
    (0..FLOOD).map(|_| Err(Error::other(""))).collect()
}

impl BlockingBackend for BlockingMemoryBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["flood"])?;
        let floods = init.parse("flood")?.unwrap_or(false);
        Ok(Self { floods, chunks: RefCell::default(), pinned: RefCell::default() })
    }

    fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        let chunks = self.chunks.borrow();
        let run = keys.iter().take_while(|key| chunks.contains_key(key)).count();
        if pinning == Pinning::Pin {
            self.pinned.borrow_mut().extend(&keys[..run]);
        }
        Ok(run as u32)
    }

    fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        if self.floods {
            return flood();
        }
        let put = |(key, index): (&ChunkKey, u32)| {
            let bytes = data.read_all(index)?;
            self.chunks.borrow_mut().entry(*key).or_insert(bytes);
            Ok(())
        };
        keys.iter().zip(0..).map(put).collect()
    }

    fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        if self.floods {
            return flood();
        }
        let chunks = self.chunks.borrow();
        let get = |(key, index): (&ChunkKey, u32)| {
            chunks.get(key).map_or(Ok(None), |bytes| into.write_all(index, bytes))
        };
        keys.iter().zip(0..).map(get).collect()
    }

    fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.contains(keys, Pinning::Pin)
    }

    fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut pinned = self.pinned.borrow_mut();
        Ok(keys.iter().filter(|key| pinned.remove(key)).count() as u32)
    }

    fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut chunks = self.chunks.borrow_mut();
        self.pinned.borrow_mut().retain(|key| !keys.contains(key));
        Ok(keys.iter().filter(|key| chunks.remove(key).is_some()).count() as u32)
    }
}

kvtier_guest::export!(blocking BlockingMemoryBackend);
