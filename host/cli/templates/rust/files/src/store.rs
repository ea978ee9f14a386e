//! Chunks in files of one directory.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use kvtier_guest::directory;
use kvtier_guest::lru::{Call, Lru, Removed};
use kvtier_guest::prelude::*;
use kvtier_guest::{Caching, DirectoryEntry, EntryKind, FileToLoad, FileToStore};

use crate::file::{self, File};

/// The chunks of a directory. The index knows the number of each chunk's file, and counts bytes, recency and pins.
///
/// Calls overlap at each `.await`. So no borrow of the index is held across one, and a file that was evicted is removed
/// under a name that is not used again.
pub(crate) struct Store {
    directory: String,
    chunks: RefCell<Lru<u64>>,
    next_number: Cell<u64>,
}

/// A chunk of a put that is being written, with reserved room.
struct Writing {
    index: u32,
    key: ChunkKey,
    size_bytes: u64,
    number: u64,
}

impl Store {
    pub(crate) fn new(directory: String, capacity_bytes: u64) -> Self {
        Self {
            directory,
            chunks: RefCell::new(Lru::new(capacity_bytes)),
            next_number: Cell::new(0),
        }
    }

    /// Takes in the files of the directory, and removes what a put has left that did not end.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        let mut pages = directory::pages(&self.directory);
        while let Some(mut entries) = pages.next().await? {
            // Within a page, the oldest file counts as used longest ago.
            entries.sort_by_key(|entry| entry.modified_ns);
            for entry in &entries {
                for name in self.take_in(entry) {
                    directory::remove(&self.path(&name)).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes in a file, and returns the names of those to remove instead.
    fn take_in(&self, entry: &DirectoryEntry) -> Vec<String> {
        let (key, number) = match file::parse(&entry.name) {
            _ if entry.kind != EntryKind::File => return Vec::new(),
            None => return Vec::new(),
            Some(File::Rest) => return vec![entry.name.clone()],
            Some(File::Chunk { key, number }) => (key, number),
        };
        let next = self.next_number.get().max(number.saturating_add(1));
        self.next_number.set(next);
        let mut chunks = self.chunks.borrow_mut();
        let call = chunks.call(1);
        if chunks.get(&key).is_some() {
            return vec![entry.name.clone()];
        }
        let Ok(evicted) = chunks.reserve(call, &[entry.size]) else {
            return vec![entry.name.clone()];
        };
        let mut unwanted: Vec<String> = evicted.iter().map(name_of).collect();
        if chunks.insert(call, 0, key, entry.size, number).is_err() {
            unwanted.push(entry.name.clone());
        }
        unwanted
    }

    pub(crate) fn leading_run(&self, keys: &[ChunkKey]) -> u32 {
        self.chunks.borrow().leading_run(keys) as u32
    }

    pub(crate) async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let sizes: Vec<u64> = data.sizes().collect();
        let mut results = HashMap::new();
        let (call, writing, evicted) = self.reserve(keys, &sizes, &mut results);
        self.remove_files(&evicted).await;
        let files = writing.iter().map(|chunk| {
            let name = file::name(&chunk.key, chunk.number);
            FileToStore {
                index: chunk.index,
                temporary: file::temporary(&name),
                name,
            }
        });
        let stored = data
            .store_all_in(&self.directory, files.collect(), Caching::Cached)
            .await;
        let mut unwanted = Vec::new();
        for (chunk, stored) in writing.iter().zip(stored) {
            let result = stored.and_then(|_| self.insert(call, chunk, &mut unwanted));
            results.insert(chunk.key, result);
        }
        self.remove_files(&unwanted).await;
        let result_of = |key| results.get(key).cloned().unwrap_or(Ok(()));
        keys.iter().map(result_of).collect()
    }

    /// Reserves room for the chunks that are absent, each once, and returns the files to remove for it. Chunks without
    /// room get their result at once.
    fn reserve(
        &self,
        keys: &[ChunkKey],
        sizes: &[u64],
        results: &mut HashMap<ChunkKey, Result<(), Error>>,
    ) -> (Call, Vec<Writing>, Vec<String>) {
        let mut chunks = self.chunks.borrow_mut();
        // No chunk of a call makes room for another one of the same call.
        let call = chunks.call(keys.len());
        let (mut writing, mut evicted) = (Vec::new(), Vec::new());
        for ((&key, &size_bytes), index) in keys.iter().zip(sizes).zip(0..) {
            // A chunk that is present keeps its bytes, and the put counts as a use.
            if chunks.touch(call, index, &key) || results.contains_key(&key) {
                continue;
            }
            let result = match chunks.reserve(call, &[size_bytes]) {
                Ok(removed) => {
                    evicted.extend(removed.iter().map(name_of));
                    let number = self.next_number.replace(self.next_number.get() + 1);
                    writing.push(Writing {
                        index,
                        key,
                        size_bytes,
                        number,
                    });
                    Ok(())
                }
                Err(full) => Err(full.into()),
            };
            results.insert(key, result);
        }
        (call, writing, evicted)
    }

    /// Makes a written chunk present. If another call was faster, its file is not wanted.
    fn insert(&self, call: Call, chunk: &Writing, unwanted: &mut Vec<String>) -> Result<(), Error> {
        let Writing {
            index,
            key,
            size_bytes,
            number,
        } = *chunk;
        let mut chunks = self.chunks.borrow_mut();
        if chunks.touch(call, index, &key) {
            chunks.release(size_bytes);
            unwanted.push(file::name(&key, number));
            return Ok(());
        }
        let inserted = chunks.insert(call, index, key, size_bytes, number);
        if inserted.is_err() {
            unwanted.push(file::name(&key, number));
        }
        inserted.map(drop).map_err(Error::from)
    }

    pub(crate) async fn get(
        &self,
        keys: &[ChunkKey],
        into: &Sinks,
    ) -> Vec<Result<Option<u64>, Error>> {
        let mut results = vec![Ok(None); keys.len()];
        let found = self.find(keys);
        let files = found.iter().map(|&(index, number)| FileToLoad {
            index,
            name: file::name(&keys[index as usize], number),
        });
        let loaded = into
            .load_all_in(&self.directory, files.collect(), Caching::Cached)
            .await;
        for (&(index, number), result) in found.iter().zip(loaded) {
            if result == Ok(None) {
                self.forget(&keys[index as usize], number);
            }
            results[index as usize] = result;
        }
        results
    }

    /// Returns the positions of the keys that are present, with the numbers of their files, and counts a use of each.
    fn find(&self, keys: &[ChunkKey]) -> Vec<(u32, u64)> {
        let mut chunks = self.chunks.borrow_mut();
        let call = chunks.call(keys.len());
        let mut found = Vec::new();
        for (key, index) in keys.iter().zip(0..) {
            chunks.touch(call, index, key);
            if let Some((&number, _)) = chunks.get(key) {
                found.push((index, number));
            }
        }
        found
    }

    /// Forgets a chunk whose file someone has removed, unless the key has another file by now.
    fn forget(&self, key: &ChunkKey, number: u64) {
        let mut chunks = self.chunks.borrow_mut();
        if chunks.get(key).is_some_and(|(&found, _)| found == number) {
            chunks.remove(key);
        }
    }

    pub(crate) fn pin(&self, keys: &[ChunkKey]) -> u32 {
        self.chunks.borrow_mut().pin(keys) as u32
    }

    pub(crate) fn unpin(&self, keys: &[ChunkKey]) -> u32 {
        self.chunks.borrow_mut().unpin(keys) as u32
    }

    pub(crate) async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n_removed = 0;
        for key in keys {
            let removed = self.chunks.borrow_mut().remove(key);
            if let Some(removed) = removed {
                directory::remove(&self.path(&name_of(&removed))).await?;
                n_removed += 1;
            }
        }
        Ok(n_removed)
    }

    /// Removes files that the index no longer has. One that stays is taken in again by the next `open`.
    async fn remove_files(&self, names: &[String]) {
        for name in names {
            if let Err(error) = directory::remove(&self.path(name)).await {
                warn!("cannot remove {name}: {error}");
            }
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }
}

fn name_of(removed: &Removed<u64>) -> String {
    file::name(&removed.key, removed.value)
}
