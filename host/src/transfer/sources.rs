//! Chunks to be stored.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, TryLockError};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::selection::Selection;
use super::{TransferError, split};
use crate::chunk::Chunk;
use crate::copies::{Pass, note};
use crate::integrity::{PayloadHash, Sealer, TRAILER_BYTES, Trailer};
use crate::sync::lock;

/// Chunks, lent to one call for reading. Cloning shares the set.
#[derive(Clone)]
pub struct Sources {
    set: Arc<SourcesInner>,
    selection: Selection,
}

struct SourcesInner {
    sizes: Box<[usize]>,
    /// Empty once revoked.
    chunks: Mutex<Vec<Sealed>>,
}

impl Sources {
    /// Lends the chunks. `sealer` seals them when they are read.
    pub fn new(chunks: Vec<Chunk>, sealer: &Sealer) -> Self {
        let chunks: Vec<_> = chunks.into_iter().map(|chunk| Sealed::new(chunk, sealer)).collect();
        let sizes = chunks.iter().map(Sealed::size_bytes).collect();
        let set = Arc::new(SourcesInner { sizes, chunks: Mutex::new(chunks) });
        Self { set, selection: Selection::default() }
    }

    /// Returns the number of chunks, even after they are revoked.
    pub fn count(&self) -> usize {
        self.selection.count(self.set.sizes.len())
    }

    /// Returns the size of chunk `index` in bytes, including its trailer, even after it is revoked; `None` if there is
    /// no such chunk.
    pub fn size_bytes(&self, index: usize) -> Option<usize> {
        self.set.sizes.get(self.selection.position(index)?).copied()
    }

    /// Returns the sum of all sizes in bytes.
    pub fn total_bytes(&self) -> usize {
        (0..self.count()).filter_map(|index| self.size_bytes(index)).sum()
    }

    /// Returns chunk `index`, which stays in memory as long as the returned value lives.
    ///
    /// # Errors
    /// [`TransferError::Revoked`], [`TransferError::OutOfRange`]
    pub fn chunk(&self, index: usize) -> Result<Sealed, TransferError> {
        let position = self.selection.position(index).filter(|position| *position < self.set.sizes.len());
        let position = position.ok_or(TransferError::OutOfRange)?;
        lock(&self.set.chunks).get(position).cloned().ok_or(TransferError::Revoked)
    }

    /// Returns another handle to the same memory, for the chunks at `indices`, in that order. `room` is held as long as
    /// the handle is.
    ///
    /// # Errors
    /// [`TransferError::Revoked`]
    pub(crate) fn select(&self, indices: &[u32], room: OwnedSemaphorePermit) -> Result<Self, TransferError> {
        if lock(&self.set.chunks).is_empty() && !self.set.sizes.is_empty() {
            return Err(TransferError::Revoked);
        }
        Ok(Self { set: Arc::clone(&self.set), selection: self.selection.select(indices, room) })
    }

    /// Takes all chunks of the set back, in every handle to them. Running transfers keep theirs until they end.
    pub fn revoke(&self) {
        drop(std::mem::take(&mut *lock(&self.set.chunks)));
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("sizes", &self.set.sizes).finish_non_exhaustive()
    }
}

/// A chunk with its trailer, which is computed once, when it is first read. Cloning shares both.
///
/// The payload never changes, so a hash of its beginning is valid for all readers. Readers that read out of order or
/// concurrently find less of it hashed, but always the same trailer.
#[derive(Clone)]
pub struct Sealed(Arc<Sealing>);

struct Sealing {
    chunk: Chunk,
    sealer: Sealer,
    /// The hash of the payload's beginning, dropped when the trailer is known. Locked only while bytes are hashed.
    hash: Mutex<Option<PayloadHash>>,
}

impl Sealed {
    /// Prepares a chunk for sealing. Reads nothing yet.
    pub fn new(chunk: Chunk, sealer: &Sealer) -> Self {
        Self(Arc::new(Sealing { chunk, sealer: sealer.clone(), hash: Mutex::new(None) }))
    }

    /// Returns payload and trailer. Reads the part of the payload that is not hashed yet.
    pub fn parts(&self) -> (&[u8], &Trailer) {
        (&self.0.chunk, self.0.trailer())
    }

    /// Returns the size of payload and trailer together, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.0.chunk.len() + TRAILER_BYTES
    }

    /// Returns the payload and trailer pieces of `range`; either may be empty. Hashes `range` if it continues the
    /// hashed part, and the whole rest if it reaches into the trailer: a caller that moves
    /// [`PIECE_BYTES`](crate::limits::PIECE_BYTES) at a time finds them in the processor's cache.
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`]
    pub fn pieces(&self, range: Range<usize>) -> Result<[&[u8]; 2], TransferError> {
        let [payload, trailer] = split(&range, self.0.chunk.len())?;
        let trailer = if trailer.is_empty() {
            self.0.advance(&payload);
            &[]
        } else {
            &self.0.trailer()[trailer]
        };
        Ok([&self.0.chunk[payload], trailer])
    }

    /// Returns the number of bytes that [`pieces`](Self::pieces) of `range` would read.
    pub fn n_bytes_to_read(&self, range: &Range<usize>) -> usize {
        self.0.n_bytes_to_hash(range)
    }

    /// Returns `range` as bytes that keep the chunk in memory. Copies only if the range reaches into the trailer. Reads
    /// as [`pieces`](Self::pieces) does.
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`]
    pub fn bytes(&self, range: Range<usize>) -> Result<Bytes, TransferError> {
        let [payload, trailer] = self.pieces(range.clone())?;
        if trailer.is_empty() {
            let start = range.start.min(self.0.chunk.len());
            return Ok(self.0.chunk.to_bytes().slice(start..start + payload.len()));
        }
        note(Pass::Copy, payload);
        Ok([payload, trailer].concat().into())
    }
}

impl Sealing {
    /// Hashes `range` of the payload if it comes next and no other reader is hashing.
    fn advance(&self, range: &Range<usize>) {
        if range.is_empty() || self.chunk.trailer().is_some() {
            return;
        }
        let mut hash = match self.hash.try_lock() {
            Ok(hash) => hash,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if hash.as_ref().map_or(0, PayloadHash::n_bytes) == range.start {
            hash.get_or_insert_with(|| self.sealer.hash()).update(&self.chunk[range.clone()]);
        }
    }

    /// Returns the number of bytes that are hashed when `range` is handed out, unless another reader is hashing.
    fn n_bytes_to_hash(&self, range: &Range<usize>) -> usize {
        if self.chunk.trailer().is_some() {
            return 0;
        }
        let n_hashed = match self.hash.try_lock() {
            Ok(hash) => hash.as_ref().map_or(0, PayloadHash::n_bytes),
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => 0,
        };
        if range.end > self.chunk.len() {
            self.chunk.len() - n_hashed
        } else if range.start == n_hashed {
            range.len()
        } else {
            0
        }
    }

    fn trailer(&self) -> &Trailer {
        self.chunk.trailer_or_seal(|payload| {
            let mut hash = lock(&self.hash).take().unwrap_or_else(|| self.sealer.hash());
            hash.update(&payload[hash.n_bytes()..]);
            self.sealer.seal_hashed(self.chunk.key(), &hash)
        })
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("chunk", &self.0.chunk).finish_non_exhaustive()
    }
}
