//! Chunks in files, one for each, so that they outlive the instance. Blocks: enough for a test.

use std::fs;
use std::path::{Path, PathBuf};

use kvtier_guest::{ChunkKey, Error};

use crate::faults::Fault;
use crate::store::Store;

/// Marks a directory that was closed.
const CLOSED: &str = "closed";

pub(crate) struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// Opens a directory, and loads its chunks.
    pub(crate) fn open(directory: &str, fault: Fault, store: &mut Store) -> Result<Self, Error> {
        let disk = Self { directory: PathBuf::from(directory) };
        let files = fs::read_dir(directory)
            .map_err(|error| Error::Unavailable(format!("{directory}: {error}; grant it with allow.fs")))?;
        let was_closed = fs::remove_file(disk.directory.join(CLOSED)).is_ok();
        let is_torn = fault.is("restart") || (fault.is("dropped") && !was_closed);
        for file in files {
            let path = file.map_err(|error| unavailable(&error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(key) = key(name) else { continue };
            let mut bytes = fs::read(&path).map_err(|error| unavailable(&error))?;
            if is_torn {
                bytes.truncate(bytes.len() / 2);
            }
            let call = store.next_call();
            store.insert(call, key, bytes);
        }
        Ok(disk)
    }

    fn path(&self, key: ChunkKey) -> PathBuf {
        self.directory.join(format!("{:016x}{:016x}", key.hi, key.lo))
    }

    pub(crate) fn write(&self, key: ChunkKey, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(key);
        let part = path.with_extension("part");
        let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, &path));
        written.map_err(|error| unavailable(&error))
    }

    pub(crate) fn remove(&self, key: ChunkKey) {
        // It may be absent.
        fs::remove_file(self.path(key)).unwrap_or_default();
    }

    pub(crate) fn close(&self) -> Result<(), Error> {
        fs::write(self.directory.join(Path::new(CLOSED)), "").map_err(|error| unavailable(&error))
    }
}

fn key(name: &str) -> Option<ChunkKey> {
    let (hi, lo) = name.split_at_checked(16)?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(ChunkKey { hi: number(hi)?, lo: number(lo)? })
}

fn unavailable(error: &std::io::Error) -> Error {
    Error::Unavailable(error.to_string())
}
