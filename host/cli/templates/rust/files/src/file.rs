//! Names of files: the key, and a number that no other file of the directory has. A file that is being removed is
//! therefore never the one that a later put of the same key writes.

use kvtier_guest::ChunkKey;

/// Ends the name of a file that is being written.
const TEMPORARY: &str = ".tmp";

/// A file in the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// A whole chunk.
    Chunk { key: ChunkKey, number: u64 },
    /// What an instance left that ended in the middle of a put.
    Rest,
}

/// Returns the name of a chunk's file.
pub(crate) fn name(key: &ChunkKey, number: u64) -> String {
    format!("{:016x}{:016x}-{number}", key.hi, key.lo)
}

/// Returns the name of a file while it is written.
pub(crate) fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// Returns what a name stands for, or `None` for the file of someone else.
pub(crate) fn parse(name: &str) -> Option<File> {
    let (whole, is_rest) = match name.strip_suffix(TEMPORARY) {
        Some(whole) => (whole, true),
        None => (name, false),
    };
    let (key, number) = whole.split_once('-')?;
    let is_key = key.len() == 32 && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let number = number.parse().ok()?;
    if !is_key {
        return None;
    }
    let hi = u64::from_str_radix(&key[..16], 16).ok()?;
    let lo = u64::from_str_radix(&key[16..], 16).ok()?;
    let key = ChunkKey { hi, lo };
    Some(if is_rest {
        File::Rest
    } else {
        File::Chunk { key, number }
    })
}
