//! Component files: reading them within limits, and distinguishing them from other files.

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::ComponentError;
use crate::config::{Sha256Digest, open_file};

/// The bytes of a component's file.
pub(in crate::wasm) struct Source {
    pub(in crate::wasm) bytes: Vec<u8>,
    pub(in crate::wasm) digest: Sha256Digest,
}

impl Source {
    /// Reads a file of no more than `max_bytes` and checks its digest against the pinned one.
    pub(in crate::wasm) fn read(
        path: &Path,
        max_bytes: u64,
        pinned: Option<&Sha256Digest>,
    ) -> Result<Self, ComponentError> {
        let bytes = read(path, max_bytes)?;
        let digest = digest_of(&bytes);
        if let Some(pinned) = pinned.filter(|pinned| **pinned != digest) {
            return Err(ComponentError::Digest { path: path.into(), pinned: *pinned, found: digest });
        }
        recognise(path, &bytes)?;
        Ok(Self { bytes, digest })
    }
}

/// Returns the digest of a component's file.
pub fn digest_of(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}

/// Returns the bytes of a component's file of no more than `max_bytes`.
///
/// # Errors
/// If the file cannot be read, is larger, or is not a component; the message names it.
pub fn read_component(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ComponentError> {
    Source::read(path, max_bytes, None).map(|source| source.bytes)
}

fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ComponentError> {
    let unreadable = |source| ComponentError::Unreadable { path: path.into(), source };
    let file = open_file(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ComponentError::Missing { path: path.into() },
        io::ErrorKind::IsADirectory => ComponentError::Directory { path: path.into() },
        io::ErrorKind::InvalidInput => ComponentError::NotAFile { path: path.into() },
        _ => unreadable(error),
    })?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(ComponentError::TooLarge { path: path.into(), size_bytes: metadata.len(), max_bytes });
    }
    Ok(bytes)
}

/// Distinguishes a component from a core module and from other files by the first eight bytes.
fn recognise(path: &Path, bytes: &[u8]) -> Result<(), ComponentError> {
    match bytes {
        [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(ComponentError::CoreModule { path: path.into() }),
        _ => Err(ComponentError::NotWasm { path: path.into() }),
    }
}
