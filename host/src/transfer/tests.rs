//! Sources and sinks together.

mod hashing;
mod selecting;

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
fn memory_of_a_running_transfer_comes_back_when_it_ends_and_that_of_a_stream_immediately() {
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
