//! What a native program would do in the place of the `fs` backend: the same system calls and the same checksum, on
//! the same file system.
//!
//! A chunk is hashed once with XXH3-128, written behind a name of its own and renamed; it is read whole and hashed
//! once more. Payload and trailer go in one call.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kvtier::integrity::TRAILER_BYTES;
use rustix::fs::{CWD, Mode, OFlags};
use twox_hash::XxHash3_128;

/// Chunks in memory, and the folder they go to.
pub(crate) struct Native {
    folder: OwnedFd,
    size_bytes: usize,
    stored: Vec<u8>,
    loaded: Vec<u8>,
}

impl Native {
    /// Makes `n_chunks` chunks of `size_bytes`, for files in `folder`.
    pub(crate) fn new(folder: &Path, n_chunks: usize, size_bytes: usize) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, folder, flags, Mode::empty());
        let opened = opened.with_context(|| format!("cannot open {}", folder.display()))?;
        for name in ["tmp", "kv"] {
            rustix::fs::mkdirat(&opened, name, Mode::RWXU)?;
        }
        let bytes = |fill: u8| vec![fill; n_chunks * size_bytes];
        Ok(Self { folder: opened, size_bytes, stored: bytes(3), loaded: bytes(4) })
    }

    /// Writes all chunks.
    pub(crate) fn put(&self, n_threads: usize) -> Result<()> {
        let chunks: Vec<(usize, &[u8])> = self.stored.chunks(self.size_bytes).enumerate().collect();
        spread(n_threads, chunks, |(n, payload)| self.put_one(n, payload))
    }

    /// Reads all chunks and verifies them.
    pub(crate) fn get(&mut self, n_threads: usize) -> Result<()> {
        let chunks: Vec<(usize, &mut [u8])> = self.loaded.chunks_mut(self.size_bytes).enumerate().collect();
        let folder = &self.folder;
        spread(n_threads, chunks, |(n, payload)| get_one(folder, n, payload))
    }

    /// Removes all chunks.
    pub(crate) fn remove(&self) -> Result<()> {
        for n in 0..self.stored.len() / self.size_bytes {
            rustix::fs::unlinkat(&self.folder, name(n), rustix::fs::AtFlags::empty())?;
        }
        Ok(())
    }

    fn put_one(&self, n: usize, payload: &[u8]) -> Result<()> {
        let mut trailer = [0_u8; TRAILER_BYTES];
        trailer[..16].copy_from_slice(&XxHash3_128::oneshot(payload).to_le_bytes());
        let temporary = format!("tmp/{n:032x}-0");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let n_written = rustix::io::pwritev(&file, &[IoSlice::new(payload), IoSlice::new(&trailer)], 0)?;
        ensure!(n_written == payload.len() + TRAILER_BYTES, "the disk took {n_written} bytes");
        drop(file);
        Ok(rustix::fs::renameat(&self.folder, &temporary, &self.folder, name(n))?)
    }
}

fn get_one(folder: &OwnedFd, n: usize, payload: &mut [u8]) -> Result<()> {
    let mut trailer = [0_u8; TRAILER_BYTES];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(folder, name(n), flags, Mode::empty())?;
    let mut pieces = [IoSliceMut::new(&mut *payload), IoSliceMut::new(&mut trailer)];
    let n_read = rustix::io::preadv(&file, &mut pieces, 0)?;
    ensure!(n_read == payload.len() + TRAILER_BYTES, "the disk gave {n_read} bytes");
    ensure!(trailer[..16] == XxHash3_128::oneshot(payload).to_le_bytes(), "chunk {n} is damaged");
    Ok(())
}

fn name(n: usize) -> String {
    format!("kv/{n:032x}.kv")
}

/// Does `work` on each item, on this thread or on several.
fn spread<T: Send>(n_threads: usize, items: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    if n_threads == 1 {
        return items.into_iter().try_for_each(work);
    }
    let mut shares: Vec<Vec<T>> = (0..n_threads).map(|_| Vec::new()).collect();
    for (n, item) in items.into_iter().enumerate() {
        shares[n % n_threads].push(item);
    }
    let work = &work;
    std::thread::scope(|scope| {
        let start = |share: Vec<T>| scope.spawn(move || share.into_iter().try_for_each(work));
        let threads: Vec<_> = shares.into_iter().map(start).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread of the bench"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut native = Native::new(folder.path(), 5, 3 * 4096).unwrap();
        for n_threads in [1, 2] {
            native.put(n_threads).unwrap();
            native.loaded.fill(0);
            native.get(n_threads).unwrap();
            assert_eq!(native.loaded, native.stored);
            let path = folder.path().join(name(4));
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[77] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(native.get(n_threads).unwrap_err().to_string(), "chunk 4 is damaged");
            native.remove().unwrap();
            assert!(native.get(n_threads).is_err());
        }
    }
}
