//! Chunks on their way to or from a backend: the host's side of the contract's `sources` and `sinks`.
//!
//! A backend sees payload and trailer of a chunk as one range of bytes, though they do not lie side by
//! side. Both kinds of set can be revoked while a transfer runs: memory then goes back when that
//! transfer ends, not before. A source has many readers; a sink has one writer at a time, and never a
//! reader.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::{Sealer, TRAILER_BYTES, Trailer};
use crate::limits::SINK_RANGES_MAX;

/// Why bytes could not be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The call that the memory was lent to has ended.
    #[error("the call has ended and its buffers are revoked")]
    Revoked,
    /// Another transfer into the same buffer is running.
    #[error("another transfer into the same buffer is running")]
    Busy,
    /// The range does not lie within the chunk.
    #[error("the range does not lie within the chunk")]
    OutOfRange,
    /// The buffer was filled in too many separate pieces.
    #[error("the buffer was filled in more than {SINK_RANGES_MAX} separate pieces")]
    TooScattered,
}

/// Sealed chunks, lent to one call for reading. Cloning shares the set.
#[derive(Clone)]
pub struct Sources(Arc<SourcesInner>);

struct SourcesInner {
    sizes: Box<[usize]>,
    /// Empty once revoked.
    chunks: Mutex<Vec<Sealed>>,
}

/// A chunk with its trailer.
#[derive(Clone, Debug)]
pub struct Sealed {
    chunk: Chunk,
    trailer: Trailer,
}

impl Sealed {
    /// Seals a chunk, unless it is sealed already. Reads the payload once.
    pub fn new(chunk: Chunk, sealer: &Sealer) -> Self {
        let key = chunk.key();
        let trailer = *chunk.trailer_or_seal(|payload| sealer.seal(key, payload));
        Self { chunk, trailer }
    }

    /// Returns payload and trailer.
    pub fn parts(&self) -> (&[u8], &Trailer) {
        (&self.chunk, &self.trailer)
    }

    /// Returns the size of payload and trailer together, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.chunk.len() + TRAILER_BYTES
    }

    /// Returns the two pieces of `range`, the first from the payload, the second from the trailer;
    /// either may be empty.
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`]
    pub fn pieces(&self, range: Range<usize>) -> Result<[&[u8]; 2], TransferError> {
        let [payload, trailer] = split(&range, self.chunk.len())?;
        Ok([&self.chunk[payload], &self.trailer[trailer]])
    }
}

impl Sealed {
    /// Returns `range` as bytes that keep the chunk in memory. Copies only if the range reaches into the
    /// trailer.
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`]
    pub fn bytes(&self, range: Range<usize>) -> Result<Bytes, TransferError> {
        let [payload, trailer] = split(&range, self.chunk.len())?;
        if trailer.is_empty() {
            return Ok(self.chunk.to_bytes().slice(payload));
        }
        Ok([&self.chunk[payload], &self.trailer[trailer]].concat().into())
    }
}

impl Sources {
    /// Lends the chunks.
    pub fn new(chunks: Vec<Sealed>) -> Self {
        let sizes = chunks.iter().map(Sealed::size_bytes).collect();
        Self(Arc::new(SourcesInner { sizes, chunks: Mutex::new(chunks) }))
    }

    /// Returns the number of chunks, also when revoked.
    pub fn count(&self) -> usize {
        self.0.sizes.len()
    }

    /// Returns the size of chunk `index` with its trailer in bytes, also when revoked; `None` if there
    /// is no such chunk.
    pub fn size_bytes(&self, index: usize) -> Option<usize> {
        self.0.sizes.get(index).copied()
    }

    /// Returns the sum of all sizes in bytes.
    pub fn total_bytes(&self) -> usize {
        self.0.sizes.iter().sum()
    }

    /// Returns chunk `index`, which stays in memory as long as the answer lives.
    ///
    /// # Errors
    /// [`TransferError::Revoked`], [`TransferError::OutOfRange`]
    pub fn chunk(&self, index: usize) -> Result<Sealed, TransferError> {
        if index >= self.count() {
            return Err(TransferError::OutOfRange);
        }
        lock(&self.0.chunks).get(index).cloned().ok_or(TransferError::Revoked)
    }

    /// Takes the chunks back. Transfers that run keep theirs until they end.
    pub fn revoke(&self) {
        drop(std::mem::take(&mut *lock(&self.0.chunks)));
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("sizes", &self.0.sizes).finish_non_exhaustive()
    }
}

/// Buffers, lent to one call for filling. Cloning shares the set.
#[derive(Clone)]
pub struct Sinks(Arc<SinksInner>);

struct SinksInner {
    capacities: Box<[usize]>,
    slots: Box<[Mutex<Slot>]>,
}

enum Slot {
    Idle(Box<Sink>),
    /// A transfer has it.
    Busy,
    /// Taken back, or to be dropped when the running transfer ends.
    Revoked,
}

/// One buffer: room for a payload and a trailer, and a note of what has been written.
pub struct Sink {
    writer: ChunkWriter,
    trailer: Trailer,
    written: Written,
}

impl Sink {
    /// Makes a buffer that waits for the chunk which `writer` names.
    pub fn new(writer: ChunkWriter) -> Self {
        Self { writer, trailer: [0; TRAILER_BYTES], written: Written::default() }
    }

    /// Returns the capacity, trailer included, in bytes.
    pub fn capacity(&self) -> usize {
        self.writer.len() + TRAILER_BYTES
    }

    /// Copies `bytes` to `offset` and notes that they are written.
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`], [`TransferError::TooScattered`]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), TransferError> {
        let range = offset..offset.checked_add(bytes.len()).ok_or(TransferError::OutOfRange)?;
        let [payload, trailer] = self.pieces_mut(range.clone())?;
        let (first, second) = bytes.split_at(payload.len());
        payload.copy_from_slice(first);
        trailer.copy_from_slice(second);
        self.mark_written(range)
    }

    /// Returns the two pieces of `range`, of the payload and of the trailer, to be filled; either may
    /// be empty. What is filled must be noted with [`Sink::mark_written`].
    ///
    /// # Errors
    /// [`TransferError::OutOfRange`]
    pub fn pieces_mut(&mut self, range: Range<usize>) -> Result<[&mut [u8]; 2], TransferError> {
        let [payload, trailer] = split(&range, self.writer.len())?;
        Ok([&mut self.writer[payload], &mut self.trailer[trailer]])
    }

    /// Notes that `range` has been filled.
    ///
    /// # Errors
    /// [`TransferError::TooScattered`]
    pub fn mark_written(&mut self, range: Range<usize>) -> Result<(), TransferError> {
        self.written.add(range)
    }

    /// Says whether every byte, of payload and trailer, was written by this call.
    pub fn is_full(&self) -> bool {
        self.written.covers(self.capacity())
    }

    /// Returns the buffer and the trailer that was written beside it.
    pub fn into_parts(self) -> (ChunkWriter, Trailer) {
        (self.writer, self.trailer)
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

impl Sinks {
    /// Lends one buffer for each writer.
    pub fn new(writers: Vec<ChunkWriter>) -> Self {
        let sinks: Vec<_> = writers.into_iter().map(|writer| Box::new(Sink::new(writer))).collect();
        let capacities = sinks.iter().map(|sink| sink.capacity()).collect();
        let slots = sinks.into_iter().map(|sink| Mutex::new(Slot::Idle(sink))).collect();
        Self(Arc::new(SinksInner { capacities, slots }))
    }

    /// Returns the number of buffers, also when revoked.
    pub fn count(&self) -> usize {
        self.0.capacities.len()
    }

    /// Returns the capacity of buffer `index`, trailer included, in bytes, also when revoked; `None`
    /// if there is no such buffer.
    pub fn capacity(&self, index: usize) -> Option<usize> {
        self.0.capacities.get(index).copied()
    }

    /// Returns the sum of all capacities in bytes.
    pub fn total_bytes(&self) -> usize {
        self.0.capacities.iter().sum()
    }

    /// Takes buffer `index` for one transfer. It goes back when the lease drops; if the set has been
    /// revoked meanwhile, its memory is freed then.
    ///
    /// # Errors
    /// [`TransferError::Busy`], [`TransferError::Revoked`], [`TransferError::OutOfRange`]
    pub fn lease(&self, index: usize) -> Result<Lease, TransferError> {
        let slot = self.0.slots.get(index).ok_or(TransferError::OutOfRange)?;
        let mut slot = lock(slot);
        match std::mem::replace(&mut *slot, Slot::Busy) {
            Slot::Idle(sink) => Ok(Lease { set: self.clone(), index, sink: Some(sink) }),
            Slot::Busy => Err(TransferError::Busy),
            Slot::Revoked => {
                *slot = Slot::Revoked;
                Err(TransferError::Revoked)
            }
        }
    }

    /// Takes all buffers back, in order. `None` stands for a buffer that a transfer still has; it is
    /// freed when that transfer ends.
    pub fn revoke(&self) -> Vec<Option<Sink>> {
        let take = |slot: &Mutex<Slot>| match std::mem::replace(&mut *lock(slot), Slot::Revoked) {
            Slot::Idle(sink) => Some(*sink),
            Slot::Busy | Slot::Revoked => None,
        };
        self.0.slots.iter().map(take).collect()
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sinks").field("capacities", &self.0.capacities).finish_non_exhaustive()
    }
}

/// One buffer for the time of one transfer.
#[derive(Debug)]
pub struct Lease {
    set: Sinks,
    index: usize,
    sink: Option<Box<Sink>>,
}

impl std::ops::Deref for Lease {
    type Target = Sink;
    fn deref(&self) -> &Sink {
        self.sink.as_ref().expect("a lease has its sink until it drops")
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Sink {
        self.sink.as_mut().expect("a lease has its sink until it drops")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut slot = lock(&self.set.0.slots[self.index]);
        if let (Slot::Busy, Some(sink)) = (&*slot, self.sink.take()) {
            *slot = Slot::Idle(sink);
        }
    }
}

/// The parts of a buffer that have been written: disjoint ranges in ascending order.
#[derive(Default)]
struct Written(Vec<Range<usize>>);

impl Written {
    fn add(&mut self, new: Range<usize>) -> Result<(), TransferError> {
        if new.is_empty() {
            return Ok(());
        }
        // Ranges that touch or overlap the new one melt into it.
        let from = self.0.partition_point(|range| range.end < new.start);
        let to = self.0.partition_point(|range| range.start <= new.end);
        let melted = self.0[from..to]
            .iter()
            .fold(new, |melted, range| melted.start.min(range.start)..melted.end.max(range.end));
        self.0.splice(from..to, [melted]);
        if self.0.len() > SINK_RANGES_MAX { Err(TransferError::TooScattered) } else { Ok(()) }
    }

    fn covers(&self, size: usize) -> bool {
        matches!(self.0.as_slice(), [range] if *range == (0..size))
    }
}

/// Splits a range of payload-and-trailer into the payload's part and the trailer's part.
fn split(range: &Range<usize>, payload: usize) -> Result<[Range<usize>; 2], TransferError> {
    if range.start > range.end || range.end > payload + TRAILER_BYTES {
        return Err(TransferError::OutOfRange);
    }
    let in_payload = range.start.min(payload)..range.end.min(payload);
    let in_trailer = range.start.max(payload) - payload..range.end.max(payload) - payload;
    Ok([in_payload, in_trailer])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
