//! What a native program would do in place of the `fs` backend: the same system calls and the same checksum, on the
//! same file system.
//!
//! A chunk is hashed once with XXH3-128, written under a temporary name and renamed; it is read and hashed once more.
//! Its trailer is written and read together with its last bytes.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kvtier::memory::PAGE_BYTES;
use kvtier::tier::TRAILER_BYTES;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use twox_hash::XxHash3_128;

/// How files are written and read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manner {
    /// Through the page cache, each chunk as a whole.
    Whole,
    /// Through the page cache, in pieces that are hashed while the processor has them in its cache.
    Pieces,
    /// With direct I/O, each chunk as a whole, and a block for its trailer.
    Direct,
}

/// Bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;

/// Chunks in memory, and the folder for their files.
pub(crate) struct Native {
    folder: OwnedFd,
    manner: Manner,
    n_threads: usize,
    size_bytes: usize,
    stored: Memory,
    loaded: Memory,
}

impl Native {
    /// Makes `n_chunks` chunks of `size_bytes`, for files in `folder`.
    pub(crate) fn new(
        folder: &Path,
        (manner, n_threads): (Manner, usize),
        n_chunks: usize,
        size_bytes: usize,
    ) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, folder, flags, Mode::empty());
        let opened = opened.with_context(|| format!("cannot open {}", folder.display()))?;
        for name in ["tmp", "kv"] {
            rustix::fs::mkdirat(&opened, name, Mode::RWXU)?;
        }
        let memory = |fill: u8| Memory::new(n_chunks * size_bytes, fill);
        Ok(Self { folder: opened, manner, n_threads, size_bytes, stored: memory(3), loaded: memory(4) })
    }

    /// Writes all chunks.
    pub(crate) fn put(&self) -> Result<()> {
        let chunks = self.stored.bytes().chunks(self.size_bytes).enumerate().collect();
        spread(self.n_threads, chunks, |(n, payload)| put_one(&self.folder, self.manner, n, payload))
    }

    /// Reads all chunks and verifies them.
    pub(crate) fn get(&mut self) -> Result<()> {
        let (folder, manner) = (&self.folder, self.manner);
        let chunks = self.loaded.bytes_mut().chunks_mut(self.size_bytes).enumerate().collect();
        spread(self.n_threads, chunks, |(n, payload)| get_one(folder, manner, n, payload))
    }

    /// Removes all chunks.
    pub(crate) fn remove(&self) -> Result<()> {
        for n in 0..self.stored.bytes().len() / self.size_bytes {
            rustix::fs::unlinkat(&self.folder, name(n), AtFlags::empty())?;
        }
        Ok(())
    }
}

fn put_one(folder: &OwnedFd, manner: Manner, n: usize, payload: &[u8]) -> Result<()> {
    let temporary = format!("tmp/{n:032x}-0");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(folder, &temporary, flags | manner.flags(), Mode::RUSR | Mode::WUSR)?;
    let mut hasher = XxHash3_128::new();
    let mut n_written = 0;
    for piece in payload.chunks(manner.piece_bytes(payload.len())) {
        hasher.write(piece);
        let is_last = n_written + piece.len() == payload.len();
        let trailer = trailer(&hasher);
        let with_trailer = [IoSlice::new(piece), IoSlice::new(&trailer)];
        let slices = if is_last && manner != Manner::Direct { &with_trailer[..] } else { &with_trailer[..1] };
        n_written += rustix::io::pwritev(&file, slices, n_written as u64)?;
    }
    if manner == Manner::Direct {
        let mut block = Memory::new(PAGE_BYTES, 0);
        block.bytes_mut()[..TRAILER_BYTES].copy_from_slice(&trailer(&hasher));
        rustix::io::pwrite(&file, block.bytes(), n_written as u64)?;
        n_written += TRAILER_BYTES;
        rustix::fs::ftruncate(&file, n_written as u64)?;
    }
    ensure!(n_written == payload.len() + TRAILER_BYTES, "the disk took {n_written} bytes");
    drop(file);
    Ok(rustix::fs::renameat(folder, &temporary, folder, name(n))?)
}

fn get_one(folder: &OwnedFd, manner: Manner, n: usize, payload: &mut [u8]) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(folder, name(n), flags | manner.flags(), Mode::empty())?;
    let (n_bytes, piece_bytes) = (payload.len(), manner.piece_bytes(payload.len()));
    let mut hasher = XxHash3_128::new();
    let mut found = [0_u8; TRAILER_BYTES];
    let mut n_read = 0;
    for piece in payload.chunks_mut(piece_bytes) {
        let is_last = n_read + piece.len() == n_bytes;
        let mut with_trailer = [IoSliceMut::new(&mut *piece), IoSliceMut::new(&mut found)];
        let n_slices = if is_last && manner != Manner::Direct { 2 } else { 1 };
        n_read += rustix::io::preadv(&file, &mut with_trailer[..n_slices], n_read as u64)?;
        hasher.write(piece);
    }
    if manner == Manner::Direct {
        let mut block = Memory::new(PAGE_BYTES, 0);
        n_read += rustix::io::pread(&file, block.bytes_mut(), n_read as u64)?;
        found.copy_from_slice(&block.bytes()[..TRAILER_BYTES]);
    }
    ensure!(n_read == n_bytes + TRAILER_BYTES, "the disk gave {n_read} bytes");
    ensure!(found == trailer(&hasher), "chunk {n} is damaged");
    Ok(())
}

impl Manner {
    fn flags(self) -> OFlags {
        if self == Self::Direct { OFlags::DIRECT } else { OFlags::empty() }
    }

    fn piece_bytes(self, size_bytes: usize) -> usize {
        if self == Self::Pieces { PIECE_BYTES } else { size_bytes }
    }
}

fn trailer(hasher: &XxHash3_128) -> [u8; TRAILER_BYTES] {
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..16].copy_from_slice(&hasher.finish_128().to_le_bytes());
    trailer
}

fn name(n: usize) -> String {
    format!("kv/{n:032x}.kv")
}

/// Memory that begins at a page, as direct I/O requires.
struct Memory {
    allocated: Vec<u8>,
    start: usize,
    n_bytes: usize,
}

impl Memory {
    fn new(n_bytes: usize, fill: u8) -> Self {
        let allocated = vec![fill; n_bytes + PAGE_BYTES];
        let start = allocated.as_ptr().align_offset(PAGE_BYTES);
        Self { allocated, start, n_bytes }
    }

    fn bytes(&self) -> &[u8] {
        &self.allocated[self.start..][..self.n_bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.allocated[self.start..][..self.n_bytes]
    }
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
        for manner in [(Manner::Whole, 1), (Manner::Whole, 2), (Manner::Pieces, 2)] {
            let folder = tempfile::tempdir().unwrap();
            let mut native = Native::new(folder.path(), manner, 5, 3 * PIECE_BYTES / 2 + PAGE_BYTES).unwrap();
            native.put().unwrap();
            native.loaded.bytes_mut().fill(0);
            native.get().unwrap();
            assert_eq!(native.loaded.bytes(), native.stored.bytes());
            let path = folder.path().join(name(4));
            let mut bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len(), native.size_bytes + TRAILER_BYTES);
            bytes[77] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(native.get().unwrap_err().to_string(), "chunk 4 is damaged");
            native.remove().unwrap();
            assert!(native.get().is_err());
        }
    }
}
