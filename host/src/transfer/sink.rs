//! A buffer that a chunk is fetched into.

use std::fmt;
use std::ops::Range;

use super::{TransferError, split};
use crate::chunk::ChunkWriter;
use crate::copies::{Pass, note};
use crate::integrity::{Flaw, PayloadHash, Sealer, TRAILER_BYTES, Trailer};
use crate::limits::{PIECE_BYTES, SINK_RANGES_MAX};

/// One buffer with room for a payload and a trailer, which records what has been written.
pub struct Sink {
    pub(super) writer: ChunkWriter,
    pub(super) trailer: Trailer,
    /// The payload's length: the whole buffer, until [`Sink::end_at`] finds a shorter chunk.
    n_payload: usize,
    written: Written,
    sealer: Sealer,
    /// The hash of the payload's beginning, as it is now.
    hash: Option<PayloadHash>,
}

impl Sink {
    /// Makes a buffer for the chunk that `writer` names. `sealer` will verify it.
    pub fn new(writer: ChunkWriter, sealer: &Sealer) -> Self {
        let (n_payload, sealer) = (writer.len(), sealer.clone());
        Self {
            writer,
            trailer: [0; TRAILER_BYTES],
            n_payload,
            written: Written::default(),
            sealer,
            hash: None,
        }
    }

    /// Returns the capacity in bytes, including the trailer.
    pub fn capacity(&self) -> usize {
        self.writer.len() + TRAILER_BYTES
    }

    /// Copies `bytes` to `offset` and marks them as written. Hashes them piece by piece if they continue the hashed
    /// part.
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`], [`TransferError::TooScattered`]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), TransferError> {
        let end = offset.checked_add(bytes.len()).ok_or(TransferError::OutOfRange)?;
        split(&(offset..end), self.writer.len())?;
        let mut start = offset;
        for piece in bytes.chunks(PIECE_BYTES) {
            let range = start..start + piece.len();
            start = range.end;
            let [payload, trailer] = self.pieces_mut(range.clone())?;
            let (first, second) = piece.split_at(payload.len());
            payload.copy_from_slice(first);
            note(Pass::Copy, payload);
            trailer.copy_from_slice(second);
            self.mark_written(range)?;
        }
        Ok(())
    }

    /// Returns the payload and trailer pieces of `range`, to be filled; either may be empty. The caller then marks the
    /// filled bytes with [`Sink::mark_written`].
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`]
    pub fn pieces_mut(&mut self, range: Range<usize>) -> Result<[&mut [u8]; 2], TransferError> {
        let [payload, trailer] = split(&range, self.writer.len())?;
        if !payload.is_empty() && payload.start < self.n_hashed_bytes() {
            // The caller may change these bytes.
            self.hash = None;
        }
        Ok([&mut self.writer[payload], &mut self.trailer[trailer]])
    }

    /// Marks `range` as written. Hashes its payload if it continues the hashed part.
    ///
    /// # Errors
    /// [`TransferError::TooScattered`], [`TransferError::OutOfRange`]
    pub fn mark_written(&mut self, range: Range<usize>) -> Result<(), TransferError> {
        let [payload, _] = split(&range, self.writer.len())?;
        self.written.add(range)?;
        if !payload.is_empty() && payload.start == self.n_hashed_bytes() {
            self.hash.get_or_insert_with(|| self.sealer.hash()).update(&self.writer[payload]);
        }
        Ok(())
    }

    fn n_hashed_bytes(&self) -> usize {
        self.hash.as_ref().map_or(0, PayloadHash::n_bytes)
    }

    /// Returns the number of bytes that [`check`](Self::check) still has to read.
    pub fn n_unhashed_bytes(&self) -> usize {
        self.n_payload - self.n_hashed_bytes()
    }

    /// Reports whether this call has written every byte of payload and trailer.
    pub fn is_full(&self) -> bool {
        self.written.covers(self.capacity())
    }

    /// Ends the chunk after `n_bytes`, including the trailer: it may be shorter than the buffer. Reports whether that
    /// is possible: this call must have written all these bytes, and if they are fewer than the capacity, they must end
    /// in a trailer of the chunk with their length.
    pub fn end_at(&mut self, n_bytes: usize) -> bool {
        if !self.written.covers(n_bytes) || n_bytes > self.capacity() {
            return false;
        }
        if n_bytes == self.capacity() {
            return true;
        }
        let Some(n_payload) = n_bytes.checked_sub(TRAILER_BYTES) else { return false };
        let Ok([head, tail]) = split(&(n_payload..n_bytes), self.writer.len()) else { return false };
        let mut trailer = [0; TRAILER_BYTES];
        let n_head = head.len();
        trailer[..n_head].copy_from_slice(&self.writer[head]);
        trailer[n_head..].copy_from_slice(&self.trailer[tail]);
        if self.sealer.verify_header(self.writer.key(), n_payload, &trailer).is_err() {
            return false;
        }
        self.trailer = trailer;
        self.n_payload = n_payload;
        if self.n_hashed_bytes() > n_payload {
            // The trailer was hashed as if it were payload.
            self.hash = None;
        }
        true
    }

    /// Verifies the buffer's content as the chunk that it was made for. Reads the bytes that were not written in order.
    ///
    /// # Errors
    /// [`Flaw`]
    pub fn check(&mut self) -> Result<(), Flaw> {
        let Self { writer, trailer, n_payload, sealer, hash, .. } = self;
        sealer.verify_header(writer.key(), *n_payload, trailer)?;
        let hash = hash.get_or_insert_with(|| sealer.hash());
        hash.update(&writer[hash.n_bytes()..*n_payload]);
        sealer.verify_hashed(writer.key(), hash, trailer)
    }

    /// Returns the buffer, shortened to the payload, and the trailer that was written beside it.
    pub fn into_parts(mut self) -> (ChunkWriter, Trailer) {
        self.writer.truncate(self.n_payload);
        (self.writer, self.trailer)
    }

    /// Returns the whole buffer, for another attempt.
    pub(crate) fn into_writer(self) -> ChunkWriter {
        self.writer
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// The parts of a buffer that have been written: disjoint ranges in ascending order.
#[derive(Default)]
pub(super) struct Written(pub(super) Vec<Range<usize>>);

impl Written {
    pub(super) fn add(&mut self, new: Range<usize>) -> Result<(), TransferError> {
        if new.is_empty() {
            return Ok(());
        }
        // Ranges that touch or overlap the new one are merged with it.
        let from = self.0.partition_point(|range| range.end < new.start);
        let to = self.0.partition_point(|range| range.start <= new.end);
        if self.0.len() - (to - from) >= SINK_RANGES_MAX {
            return Err(TransferError::TooScattered);
        }
        let merged = self.0[from..to]
            .iter()
            .fold(new, |merged, range| merged.start.min(range.start)..merged.end.max(range.end));
        self.0.splice(from..to, [merged]);
        Ok(())
    }

    fn covers(&self, size: usize) -> bool {
        size == 0 || matches!(self.0.first(), Some(range) if range.start == 0 && range.end >= size)
    }
}
