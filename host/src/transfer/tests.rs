//! Sources and sinks together.

use std::sync::Arc;

use super::sink::Written;
use super::*;
use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::{Flaw, Sealer};
use crate::key::{ChunkKey, Namespace};
use crate::layout::{Dtype, EngineMetadata, KvShape};
use crate::limits::PIECE_BYTES;
use crate::memory::{BufferMut, Pool, Provider};

const SIZE: usize = 100;
const KEY: ChunkKey = ChunkKey { hi: 1, lo: 1 };

fn pool() -> Arc<dyn Provider> {
    Arc::new(Pool::new(16 * 4096).unwrap())
}

fn writer(pool: &Arc<dyn Provider>) -> ChunkWriter {
    let buffer = BufferMut::allocate(pool, SIZE).unwrap().unwrap();
    ChunkWriter::new(KEY, buffer)
}

fn sinks(pool: &Arc<dyn Provider>) -> Sinks {
    Sinks::new(vec![writer(pool)], &sealers()[0])
}

fn sealers() -> [Sealer; 2] {
    let kv_shape = KvShape::new([1, 2, 1, 1, 1]).unwrap();
    let metadata = EngineMetadata {
        model_name: "m".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::UInt8,
        kv_shape,
    };
    let namespace = Namespace::new(&metadata);
    [Sealer::checksum(namespace), Sealer::mac(namespace, b"secret")]
}

#[test]
fn a_chunk_may_be_shorter_than_the_buffer_and_ends_where_its_trailer_says() {
    for sealer in sealers() {
        for n_payload in [1, 35, 36, 37, 63, 64, 99, 100] {
            let pool = pool();
            let payload: Vec<u8> = (0..n_payload as u8).collect();
            let trailer = sealer.seal(KEY, &payload);
            let bytes = [&payload[..], &trailer].concat();
            for n_before in [0, 1, n_payload / 2, n_payload] {
                let set = Sinks::new(vec![writer(&pool)], &sealer);
                let mut lease = set.lease(0).unwrap();
                // In two pieces, so that part of the trailer may have been hashed as payload.
                lease.write(0, &bytes[..n_before]).unwrap();
                lease.write(n_before, &bytes[n_before..]).unwrap();
                drop(lease);
                let mut sink = set.revoke().pop().unwrap().unwrap();
                assert!(n_payload == SIZE || !sink.end_at(bytes.len() - 1), "{n_payload}");
                assert!(!sink.end_at(bytes.len() + 1) && (n_payload == SIZE || !sink.end_at(SIZE + 64)));
                assert!(sink.end_at(bytes.len()), "{n_payload}");
                assert_eq!(sink.check(), Ok(()), "{n_payload}, {n_before}");
                let (writer, found) = sink.into_parts();
                assert_eq!((&*writer, found), (&payload[..], trailer));
                let chunk = writer.freeze();
                assert_eq!((&*chunk, pool.allocated_bytes()), (&payload[..], 4096));
                drop(chunk);
                assert_eq!(pool.allocated_bytes(), 0);
            }
        }
    }
}

#[test]
fn a_short_answer_that_ends_in_no_trailer_of_the_chunk_is_refused() {
    let (pool, sealer) = (pool(), &sealers()[0]);
    let other = ChunkKey { hi: 1, lo: 2 };
    for (key, cut) in [(other, 0), (KEY, 1), (KEY, 40)] {
        let bytes = [&[7; 20][..], &sealer.seal(key, &[7; 20])].concat();
        let set = Sinks::new(vec![writer(&pool)], sealer);
        set.lease(0).unwrap().write(0, &bytes).unwrap();
        let mut sink = set.revoke().pop().unwrap().unwrap();
        assert!(!sink.end_at(bytes.len() - cut), "{cut}");
    }
    let set = Sinks::new(vec![writer(&pool)], sealer);
    let mut sink = set.revoke().pop().unwrap().unwrap();
    assert!((0..=SIZE + 70).all(|n| !sink.end_at(n)), "nothing was written");
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
    let pool = pool();
    let sources = Sources::new(vec![writer(&pool).freeze()], &sealers()[0]);
    let reading = sources.chunk(0).unwrap();
    sources.revoke();
    assert_eq!(sources.chunk(0).err(), Some(TransferError::Revoked));
    assert_eq!((sources.count(), sources.size_bytes(0)), (1, Some(SIZE + TRAILER_BYTES)));
    assert_eq!(pool.allocated_bytes(), 4096, "a reader keeps its chunk");
    assert_eq!(reading.bytes(90..110).unwrap().len(), 20, "across the border");
    drop(reading);
    assert_eq!(pool.allocated_bytes(), 0);
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// A range of at most `longest` bytes, which often continues from `next`.
    fn range(&mut self, next: usize, size: usize, longest: usize) -> Range<usize> {
        let start = if self.below(3) > 0 { next } else { self.below(size + 1) };
        start..size.min(start + self.below(longest + 1))
    }
}

/// Larger than two pieces, and not a multiple of anything.
const LARGE: usize = 2 * PIECE_BYTES + 777;

fn large(dice: &mut Dice) -> Vec<u8> {
    (0..LARGE).map(|_| dice.below(256) as u8).collect()
}

fn large_writer() -> ChunkWriter {
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(LARGE.next_multiple_of(4096)).unwrap());
    ChunkWriter::new(KEY, BufferMut::allocate(&pool, LARGE).unwrap().unwrap())
}

fn large_chunk(payload: &[u8]) -> Chunk {
    let mut writer = large_writer();
    writer.copy_from_slice(payload);
    writer.freeze()
}

#[test]
fn whatever_the_order_of_reads_the_trailer_is_the_sealers() {
    let mut dice = Dice(1);
    let payload = large(&mut dice);
    for sealer in sealers() {
        let trailer = sealer.seal(KEY, &payload);
        let whole = [payload.as_slice(), &trailer].concat();
        for _ in 0..20 {
            let sources = Sources::new(vec![large_chunk(&payload)], &sealer);
            let longest = [100, 70_000, LARGE][dice.below(3)];
            let mut next = 0;
            for _ in 0..40 {
                let range = dice.range(next, whole.len(), longest);
                next = range.end;
                let chunk = sources.chunk(0).unwrap();
                if dice.below(2) == 0 {
                    assert_eq!(chunk.pieces(range.clone()).unwrap().concat(), whole[range]);
                } else {
                    assert_eq!(chunk.bytes(range.clone()).unwrap(), whole[range]);
                }
            }
            assert_eq!(sources.chunk(0).unwrap().parts(), (&payload[..], &trailer));
        }
    }
}

#[test]
fn readers_at_once_find_the_same_trailer() {
    let payload = large(&mut Dice(2));
    let trailer = sealers()[0].seal(KEY, &payload);
    let sources = Sources::new(vec![large_chunk(&payload)], &sealers()[0]);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (sources, trailer) = (&sources, &trailer);
            scope.spawn(move || {
                let (mut dice, mut next) = (Dice(seed), 0);
                let chunk = sources.chunk(0).unwrap();
                while next < LARGE {
                    next = LARGE.min(next + dice.below(50_000));
                    chunk.pieces(next.saturating_sub(10_000)..next).unwrap();
                }
                assert_eq!(chunk.pieces(LARGE..LARGE + TRAILER_BYTES).unwrap()[1], trailer);
            });
        }
    });
}

#[test]
fn a_chunk_that_is_sealed_is_not_read_again() {
    let chunk = large_chunk(&large(&mut Dice(3)));
    let sealed_before = [7; TRAILER_BYTES];
    chunk.trailer_or_seal(|_| sealed_before);
    let source = Sealed::new(chunk, &sealers()[0]);
    source.pieces(0..LARGE).unwrap();
    assert_eq!(source.parts().1, &sealed_before);
}

/// Fills a buffer in random order, at first with wrong bytes in places.
fn fill(sink: &mut Sink, whole: &[u8], dice: &mut Dice) {
    let longest = [70_000, LARGE][dice.below(2)];
    let mut next = 0;
    for _ in 0..30 {
        let range = dice.range(next, whole.len(), longest);
        next = range.end;
        let mut bytes = whole[range.clone()].to_vec();
        if dice.below(4) == 0 && !bytes.is_empty() {
            let at = dice.below(bytes.len());
            bytes[at] ^= 0x40;
        }
        sink.write(range.start, &bytes).unwrap();
    }
}

#[test]
fn whatever_the_order_of_writes_the_verdict_is_the_sealers() {
    let mut dice = Dice(4);
    let payload = large(&mut dice);
    for sealer in sealers() {
        let whole = [payload.as_slice(), &sealer.seal(KEY, &payload)].concat();
        let mut n_refused = 0;
        for _ in 0..20 {
            let mut sink = Sink::new(large_writer(), &sealer);
            // The memory's previous content.
            sink.pieces_mut(0..LARGE).unwrap()[0].fill(9);
            fill(&mut sink, &whole, &mut dice);
            let verdict = sink.check();
            assert_eq!(verdict, sealer.verify(KEY, &sink.writer, &sink.trailer));
            n_refused += usize::from(verdict.is_err());
            // Repaired, it is accepted.
            for at in (0..whole.len()).step_by(150_000) {
                sink.write(at, &whole[at..whole.len().min(at + 150_000)]).unwrap();
            }
            assert_eq!((sink.is_full(), sink.check()), (true, Ok(())));
        }
        assert!(n_refused > 10, "{n_refused}");
    }
}

#[test]
fn a_byte_that_is_changed_after_it_was_hashed_is_noticed() {
    let payload = large(&mut Dice(5));
    for sealer in sealers() {
        let whole = [payload.as_slice(), &sealer.seal(KEY, &payload)].concat();
        // The first byte, those at the border of pieces, the last, and the check value.
        for at in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, LARGE / 2, LARGE - 1, LARGE + 63] {
            for through in [Sink::write, write_as_a_splice] {
                let mut sink = Sink::new(large_writer(), &sealer);
                sink.write(0, &whole).unwrap();
                assert_eq!(sink.n_unhashed_bytes(), 0, "it came in order");
                through(&mut sink, at, &[!whole[at]]).unwrap();
                assert_eq!(sink.check(), Err(Flaw::CheckFailed), "byte {at}");
                through(&mut sink, at, &[whole[at]]).unwrap();
                assert_eq!(sink.check(), Ok(()), "byte {at}");
            }
        }
    }
}

fn write_as_a_splice(sink: &mut Sink, offset: usize, bytes: &[u8]) -> Result<(), TransferError> {
    let range = offset..offset + bytes.len();
    let [payload, trailer] = sink.pieces_mut(range.clone())?;
    let (first, second) = bytes.split_at(payload.len());
    payload.copy_from_slice(first);
    trailer.copy_from_slice(second);
    sink.mark_written(range)
}

#[test]
fn memory_that_was_handed_out_to_be_changed_is_hashed_again_even_if_nothing_is_noted() {
    let payload = large(&mut Dice(6));
    let [sealer, _] = sealers();
    let whole = [payload.as_slice(), &sealer.seal(KEY, &payload)].concat();
    let mut sink = Sink::new(large_writer(), &sealer);
    sink.write(0, &whole).unwrap();
    sink.pieces_mut(10..20).unwrap()[0].fill(0);
    assert_eq!(sink.check(), Err(Flaw::CheckFailed));
}
