//! Bytes of a backend's own in files, by descriptors of [`wasip3`]: a header, an index, a log.
//!
//! For whole small files, [`directory`](crate::directory) is shorter.

use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{
    Descriptor, DescriptorFlags, DirectoryEntry, ErrorCode, OpenFlags, PathFlags,
};
use wit_bindgen::{FutureReader, StreamReader, StreamResult};

use crate::Error;

/// Names that are taken from a directory at a time.
const LISTED_AT_ONCE: usize = 256;

/// Opens a directory by the guest's path of a granted one, or by a path below it.
///
/// # Errors
/// [`Error::InvalidConfig`], with the granted paths, if the path is not in any of them; [`Error::Other`] if there is no
/// such directory.
pub async fn open_directory(path: &str) -> Result<Descriptor, Error> {
    let granted = preopens::get_directories();
    let names: Vec<String> = granted.iter().map(|(_, name)| name.clone()).collect();
    let found = granted.into_iter().filter_map(|(directory, name)| Some((directory, below(&name, path)?)));
    let Some((directory, rest)) = found.min_by_key(|(_, rest)| rest.len()) else {
        let granted = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Error::InvalidConfig(format!(
            "the path {path:?} lies in no directory that allow.fs grants; it grants {granted}"
        )));
    };
    if rest.is_empty() {
        return Ok(directory);
    }
    let (follow, how) = (PathFlags::SYMLINK_FOLLOW, OpenFlags::DIRECTORY);
    directory.open_at(follow, rest.to_owned(), how, DescriptorFlags::READ).await.map_err(Error::from)
}

/// Returns the part of a path below a granted one; `None` if the path is not in it.
fn below<'a>(granted: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(granted.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
}

/// Returns up to `n_bytes` of a file from byte `at` on; fewer if the file ends before.
///
/// # Errors
/// [`Error::NoSpace`] if guest memory does not suffice; [`Error::Other`] with the system's reason.
pub async fn read_at(file: &Descriptor, at: u64, n_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(n_bytes).map_err(|_| Error::NoSpace)?;
    let (mut stream, done) = file.read_via_stream(at);
    while bytes.len() < n_bytes {
        let status;
        // Reads into the room behind what is there.
        (status, bytes) = stream.read(bytes).await;
        if !matches!(status, StreamResult::Complete(_)) {
            break;
        }
    }
    drop(stream);
    done.await?;
    // There may be more room than was asked for.
    bytes.truncate(n_bytes);
    Ok(bytes)
}

/// Writes bytes to a file from byte `at` on. Not atomic, and does not sync.
///
/// # Errors
/// [`Error::NoSpace`] if the file system is full; [`Error::Other`] with the system's reason. A part of the bytes may
/// then be written.
pub async fn write_at(file: &Descriptor, at: u64, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
    let (mut writer, stream) = wasip3::wit_stream::new();
    let done = file.write_via_stream(stream, at);
    let rest = writer.write_all(bytes.into()).await;
    drop(writer);
    done.await?;
    if rest.is_empty() { Ok(()) } else { Err(Error::other("the file takes no more bytes")) }
}

/// Returns the entries of a directory, some at a time.
pub fn read_dir(directory: &Descriptor) -> ReadDir {
    let (entries, done) = directory.read_directory();
    ReadDir { entries, is_over: false, done: Some(done) }
}

/// The entries of a directory, some at a time: there may be more than memory has room for.
#[derive(Debug)]
pub struct ReadDir {
    entries: StreamReader<DirectoryEntry>,
    is_over: bool,
    /// The result of the listing.
    done: Option<FutureReader<Result<(), ErrorCode>>>,
}

impl ReadDir {
    /// Returns some more entries, without `.` and `..`; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Other`] with the system's reason.
    pub async fn next(&mut self) -> Result<Option<Vec<DirectoryEntry>>, Error> {
        while !self.is_over {
            let (status, entries) = self.entries.read(Vec::with_capacity(LISTED_AT_ONCE)).await;
            self.is_over = !matches!(status, StreamResult::Complete(_));
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        match self.done.take() {
            Some(done) => done.await.map(|()| None).map_err(Error::from),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn a_path_is_in_a_grant_by_whole_names() {
        for (granted, path, rest) in [
            ("/data", "/data", Some("")),
            ("/data/", "/data//a/b/", Some("a/b")),
            ("/", "/a", Some("a")),
            ("/data", "/database", None),
            ("/data", "data", None),
        ] {
            assert_eq!(below(granted, path), rest, "{granted} {path}");
        }
    }
}
