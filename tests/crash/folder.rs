//! A directory of chunks, examined file by file without the backend.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use kvtier::ChunkKey;
use kvtier::tier::Sealer;

use crate::chunks::{fault, key};

/// The content of a directory.
#[derive(Default)]
pub(crate) struct Examined {
    /// Files that hold whole chunks, by key, with their sizes.
    pub(crate) chunks: BTreeMap<ChunkKey, u64>,
    /// Bytes of all files with names of chunks.
    pub(crate) chunk_bytes: u64,
    /// Files with names of chunks that are not whole chunks, and what is wrong.
    pub(crate) torn: Vec<String>,
    /// Temporary files of the backend.
    pub(crate) n_unfinished: u64,
    /// Their bytes.
    pub(crate) unfinished_bytes: u64,
}

/// Files and a folder of other programs, in all places where the backend looks. The last one has a chunk's name but is
/// in the wrong folder.
const STRAYS: [&str; 5] = [
    "notes.txt",
    "tmp/notes.txt",
    "tmp/folder/notes.txt",
    "01/notes.kv",
    "05/0100000000000000cafe00000000000000.kv",
];

fn is_stray(path: &Path) -> bool {
    STRAYS.iter().any(|stray| path.ends_with(stray))
}

/// Puts files of other programs into a new directory.
pub(crate) fn plant_strays(directory: &Path) -> Result<()> {
    for stray in STRAYS {
        let path = directory.join(stray);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(&path, stray).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Checks that the files of other programs are unchanged.
///
/// # Errors
/// The first that has changed.
pub(crate) fn check_strays(directory: &Path) -> Result<()> {
    for stray in STRAYS {
        let path = directory.join(stray);
        let found = fs::read(&path).with_context(|| format!("{} is gone", path.display()))?;
        ensure!(found == stray.as_bytes(), "{} has changed", path.display());
    }
    Ok(())
}

/// Reads every file of the directory and verifies every byte. Makes unfinished files look old.
pub(crate) fn examine(directory: &Path, sealer: &Sealer) -> Result<Examined> {
    let mut found = Examined::default();
    for folder in entries(directory)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&folder)?.into_iter().filter(|path| path.is_file() && !is_stray(path)) {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let size = bytes.len() as u64;
            if folder.ends_with("tmp") {
                found.n_unfinished += 1;
                found.unfinished_bytes += size;
                let long_ago = SystemTime::now() - Duration::from_hours(2);
                fs::File::options().write(true).open(&path)?.set_modified(long_ago)?;
                continue;
            }
            found.chunk_bytes += size;
            let fault = match key_of(&path) {
                Some(key) => fault(sealer, key, &bytes).map_or_else(|| Ok(key), Err),
                None => Err("not the name of a chunk".into()),
            };
            match fault {
                Ok(key) => _ = found.chunks.insert(key, size),
                Err(fault) => found.torn.push(format!("{}: {fault}", path.display())),
            }
        }
    }
    Ok(found)
}

/// Returns the chunk that a file of the right name and place holds.
fn key_of(path: &Path) -> Option<ChunkKey> {
    let name = path.file_stem()?.to_str()?;
    let number = u64::from_str_radix(name.get(16..)?, 16).ok()?;
    let key = key(number);
    let is_its_own = path.ends_with(format!("{:02x}/{key}.kv", key.hi >> 56));
    is_its_own.then_some(key)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
