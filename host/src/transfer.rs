//! Chunks on their way to or from a backend: the host's side of the contract's `sources` and `sinks`.
//!
//! A backend sees payload and trailer of a chunk as one range of bytes, though they do not lie side by
//! side. Both kinds of set can be revoked while a transfer runs: memory then goes back when that
//! transfer ends, not before. A source has many readers; a sink has one writer at a time, and never a
//! reader.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::{Sealer, TRAILER_BYTES, Trailer};
use crate::limits::SINK_RANGES_MAX;
use crate::memory::lock;

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
    /// A stream is filling it, piece by piece.
    Claimed(Box<Sink>),
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
            Slot::Claimed(sink) => {
                *slot = Slot::Claimed(sink);
                Err(TransferError::Busy)
            }
            Slot::Busy => Err(TransferError::Busy),
            Slot::Revoked => {
                *slot = Slot::Revoked;
                Err(TransferError::Revoked)
            }
        }
    }

    /// Keeps buffer `index` for one stream, which fills it piece by piece. Unlike a lease, a claim does not keep
    /// the memory when the set is revoked: a stream may stay open for as long as a guest likes.
    ///
    /// # Errors
    /// [`TransferError::Busy`], [`TransferError::Revoked`], [`TransferError::OutOfRange`]
    pub fn claim(&self, index: usize) -> Result<Claim, TransferError> {
        let mut slot = lock(self.0.slots.get(index).ok_or(TransferError::OutOfRange)?);
        match std::mem::replace(&mut *slot, Slot::Busy) {
            Slot::Idle(sink) => {
                *slot = Slot::Claimed(sink);
                Ok(Claim { set: self.clone(), index })
            }
            Slot::Revoked => {
                *slot = Slot::Revoked;
                Err(TransferError::Revoked)
            }
            taken => {
                *slot = taken;
                Err(TransferError::Busy)
            }
        }
    }

    /// Takes all buffers back, in order. `None` stands for a buffer that a transfer still has; it is
    /// freed when that transfer ends.
    pub fn revoke(&self) -> Vec<Option<Sink>> {
        let take = |slot: &Mutex<Slot>| match std::mem::replace(&mut *lock(slot), Slot::Revoked) {
            Slot::Idle(sink) | Slot::Claimed(sink) => Some(*sink),
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

/// One buffer for the time of one stream.
#[derive(Debug)]
pub struct Claim {
    set: Sinks,
    index: usize,
}

impl Claim {
    /// Copies `bytes` to `offset`; see [`Sink::write`].
    ///
    /// # Errors
    /// Those of [`Sink::write`], and [`TransferError::Revoked`].
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), TransferError> {
        match &mut *lock(&self.set.0.slots[self.index]) {
            Slot::Claimed(sink) => sink.write(offset, bytes),
            _ => Err(TransferError::Revoked),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slot = lock(&self.set.0.slots[self.index]);
        match std::mem::replace(&mut *slot, Slot::Busy) {
            Slot::Claimed(sink) => *slot = Slot::Idle(sink),
            other => *slot = other,
        }
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
        if self.0.len() - (to - from) >= SINK_RANGES_MAX {
            return Err(TransferError::TooScattered);
        }
        let melted = self.0[from..to]
            .iter()
            .fold(new, |melted, range| melted.start.min(range.start)..melted.end.max(range.end));
        self.0.splice(from..to, [melted]);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{ChunkKey, Namespace};
    use crate::layout::{Dtype, EngineMetadata, KvShape};
    use crate::memory::{BufferMut, Pool, Provider};

    const SIZE: usize = 100;

    fn pool() -> Arc<dyn Provider> {
        Arc::new(Pool::new(16 * 4096).unwrap())
    }

    fn writer(pool: &Arc<dyn Provider>) -> ChunkWriter {
        let buffer = BufferMut::allocate(pool, SIZE).unwrap().unwrap();
        ChunkWriter::new(ChunkKey { hi: 1, lo: 1 }, buffer)
    }

    fn sinks(pool: &Arc<dyn Provider>) -> Sinks {
        Sinks::new(vec![writer(pool)])
    }

    #[test]
    fn a_sink_is_full_only_when_every_byte_of_payload_and_trailer_was_written() {
        let pool = pool();
        let set = sinks(&pool);
        let mut lease = set.lease(0).unwrap();
        let capacity = lease.capacity();
        assert_eq!(capacity, SIZE + TRAILER_BYTES);
        // Backwards, and across the border between payload and trailer.
        lease.write(90, &vec![2; capacity - 90]).unwrap();
        lease.write(0, &[1; 89]).unwrap();
        assert!(!lease.is_full(), "byte 89 is missing");
        lease.write(89, &[3]).unwrap();
        assert!(lease.is_full());
        assert_eq!(lease.write(capacity, &[0]), Err(TransferError::OutOfRange));
        assert_eq!(lease.write(usize::MAX, &[0]), Err(TransferError::OutOfRange));
        drop(lease);
        let sink = set.revoke().pop().unwrap().unwrap();
        let (payload, trailer) = sink.into_parts();
        assert_eq!((payload[88], payload[89], payload[90], trailer[0]), (1, 3, 2, 2));
    }

    #[test]
    fn a_buffer_has_one_writer_at_a_time() {
        let pool = pool();
        let set = sinks(&pool);
        let lease = set.lease(0).unwrap();
        assert_eq!(set.lease(0).err(), Some(TransferError::Busy));
        assert_eq!(set.claim(0).err(), Some(TransferError::Busy));
        drop(lease);
        let claim = set.claim(0).unwrap();
        assert_eq!(set.lease(0).err(), Some(TransferError::Busy));
        assert_eq!(set.claim(0).err(), Some(TransferError::Busy));
        drop(claim);
        assert!(set.lease(0).is_ok());
        assert_eq!(set.lease(1).err(), Some(TransferError::OutOfRange));
    }

    #[test]
    fn memory_of_a_running_transfer_comes_back_when_it_ends_and_that_of_a_stream_at_once() {
        let pool = pool();
        let set = sinks(&pool);
        let lease = set.lease(0).unwrap();
        assert!(set.revoke()[0].is_none());
        assert_eq!(pool.allocated_bytes(), 4096, "the transfer still writes into it");
        drop(lease);
        assert_eq!(pool.allocated_bytes(), 0);
        assert_eq!(set.lease(0).err(), Some(TransferError::Revoked));

        let set = sinks(&pool);
        let mut claim = set.claim(0).unwrap();
        claim.write(0, b"x").unwrap();
        drop(set.revoke());
        assert_eq!(pool.allocated_bytes(), 0, "an open stream keeps nothing");
        assert_eq!(claim.write(1, b"x"), Err(TransferError::Revoked));
    }

    #[test]
    fn a_buffer_cannot_be_filled_in_ever_more_pieces() {
        let mut written = Written::default();
        for piece in 0..SINK_RANGES_MAX {
            written.add(2 * piece..2 * piece + 1).unwrap();
        }
        let next = 2 * SINK_RANGES_MAX;
        assert_eq!(written.add(next..next + 1), Err(TransferError::TooScattered));
        assert_eq!(written.0.len(), SINK_RANGES_MAX, "nothing was kept of it");
        written.add(1..2).unwrap();
        assert_eq!(written.0.len(), SINK_RANGES_MAX - 1, "pieces that touch melt");
    }

    #[test]
    fn revoked_sources_tell_sizes_and_no_bytes() {
        let kv_shape = KvShape::new([1, 2, 1, 1, 1]).unwrap();
        let metadata = EngineMetadata {
            model_name: "m".into(),
            world_size: 1,
            worker_id: 0,
            kv_dtype: Dtype::UInt8,
            kv_shape,
        };
        let sealer = Sealer::checksum(Namespace::new(&metadata));
        let pool = pool();
        let sources = Sources::new(vec![Sealed::new(writer(&pool).freeze(), &sealer)]);
        let reading = sources.chunk(0).unwrap();
        sources.revoke();
        assert_eq!(sources.chunk(0).err(), Some(TransferError::Revoked));
        assert_eq!((sources.count(), sources.size_bytes(0)), (1, Some(SIZE + TRAILER_BYTES)));
        assert_eq!(pool.allocated_bytes(), 4096, "a reader keeps its chunk");
        assert_eq!(reading.bytes(90..110).unwrap().len(), 20, "across the border");
        drop(reading);
        assert_eq!(pool.allocated_bytes(), 0);
    }
}
