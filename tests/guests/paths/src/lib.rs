//! Two classes that keep chunks in files by their paths, without WASI: one asynchronous, one in blocking style. Each
//! takes `config.steps` when it is opened, one a line, and logs what became of them.

mod asynchronous;
mod blocking;
mod steps;

pub use asynchronous::PathsBackend;
pub use blocking::BlockingPathsBackend;
use kvtier_guest::prelude::*;
use kvtier_guest::{FileToLoad, FileToStore};

/// Where the chunks are.
struct Root(String);

impl Root {
    fn new(init: &Init) -> Result<Self, Error> {
        init.only(&["root", "steps"])?;
        Ok(Self(init.get("root").unwrap_or("/data/chunks").to_owned()))
    }

    fn file(&self, key: ChunkKey) -> String {
        format!("{}/{}", self.0, name(key))
    }

    fn to_store(keys: &[ChunkKey]) -> Vec<FileToStore> {
        let file = |(key, index): (&ChunkKey, u32)| FileToStore {
            index,
            temporary: format!("{key}-{index}.tmp"),
            name: name(*key),
        };
        keys.iter().zip(0..).map(file).collect()
    }

    fn to_load(keys: &[ChunkKey]) -> Vec<FileToLoad> {
        keys.iter().zip(0..).map(|(key, index)| FileToLoad { index, name: name(*key) }).collect()
    }
}

/// The last directory differs from chunk to chunk.
fn name(key: ChunkKey) -> String {
    format!("{:02x}/{key}.kv", key.lo & 0xf)
}

/// Reports whether an entry of a directory is the file of a chunk.
fn is_chunk(entry: &kvtier_guest::DirectoryEntry, key: ChunkKey) -> bool {
    name(key).ends_with(&format!("/{}", entry.name))
}

kvtier_guest::export!(PathsBackend, blocking BlockingPathsBackend);
