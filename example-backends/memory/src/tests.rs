//! What the two classes do with chunks, without a host.

use kvtier_guest::prelude::*;
use kvtier_guest::testing::{block_on, init, keys, sinks, sources};

use super::{LruMemoryBackend, MemoryBackend};

fn new<B: StorageBackend>(capacity: &str) -> B {
    B::new(init([("capacity", capacity)])).unwrap()
}

fn put<B: StorageBackend>(backend: &B, key: ChunkKey, chunk: &[u8]) -> Result<(), Error> {
    block_on(backend.put(&[key], &sources([chunk]))).remove(0)
}

fn present<B: StorageBackend>(backend: &B, keys: &[ChunkKey]) -> Vec<bool> {
    block_on(backend.present(keys)).unwrap()
}

#[test]
fn chunks_come_back_whole_and_larger_ones_than_the_buffer_are_misses() {
    let backend: MemoryBackend = new("8MiB");
    let keys = keys(3);
    let large: Vec<u8> = (0..3 << 20).map(|i: u32| (i / 1000) as u8).collect();
    let data = sources([b"first".to_vec(), large.clone()]);
    assert_eq!(block_on(backend.put(&keys[..2], &data)), [Ok(()), Ok(())]);
    let into = sinks([8, large.len() as u64, 8]);
    let fetched = into.fetched(&block_on(backend.get(&keys, &into)));
    assert_eq!(fetched, [Ok(Some(b"first".to_vec())), Ok(Some(large)), Ok(None)]);
    let into = sinks([4]);
    assert_eq!(block_on(backend.get(&keys[..1], &into)), [Ok(Some(5))]);
    assert_eq!(into.fetched(&[Ok(Some(5))]), [Ok(None)]);
    assert_eq!(present(&backend, &keys), [true, true, false]);
}

#[test]
fn a_chunk_that_is_present_keeps_its_bytes() {
    let backend: LruMemoryBackend = new("1KiB");
    let keys = keys(1);
    assert_eq!(put(&backend, keys[0], b"first"), Ok(()));
    assert_eq!(put(&backend, keys[0], b"other"), Ok(()));
    let into = sinks([5]);
    assert_eq!(into.fetched(&block_on(backend.get(&keys, &into))), [Ok(Some(b"first".to_vec()))]);
}

#[test]
fn a_full_store_refuses_or_evicts() {
    let keys = keys(3);
    let refuses: MemoryBackend = new("200");
    let evicts: LruMemoryBackend = new("200");
    for key in &keys[..2] {
        assert_eq!((put(&refuses, *key, &[1; 100]), put(&evicts, *key, &[1; 100])), (Ok(()), Ok(())));
    }
    assert_eq!(put(&refuses, keys[2], &[1; 100]), Err(Error::NoSpace));
    assert_eq!(present(&refuses, &keys), [true, true, false]);
    assert_eq!(put(&evicts, keys[2], &[1; 100]), Ok(()));
    assert_eq!(present(&evicts, &keys), [false, true, true]);
}

#[test]
fn pinned_chunks_stay() {
    let keys = keys(3);
    let backend: LruMemoryBackend = new("200");
    for key in &keys[..2] {
        assert_eq!(put(&backend, *key, &[1; 100]), Ok(()));
    }
    assert_eq!(block_on(backend.contains(&keys, Pinning::Pin)), Ok(2));
    assert_eq!(put(&backend, keys[2], &[1; 100]), Err(Error::NoSpace));
    assert_eq!(block_on(backend.unpin(&keys[..1])), Ok(1));
    assert_eq!(put(&backend, keys[2], &[1; 100]), Ok(()));
    assert_eq!(present(&backend, &keys), [false, true, true]);
}

#[test]
fn a_chunk_whose_call_has_ended_is_not_stored_and_takes_no_room() {
    let keys = keys(2);
    let backend: MemoryBackend = new("100");
    let data = sources([[1; 100]]);
    data.revoke();
    assert!(matches!(block_on(backend.put(&keys[..1], &data))[..], [Err(Error::InvalidArgument(_))]));
    assert_eq!(present(&backend, &keys), [false, false]);
    assert_eq!(put(&backend, keys[1], &[1; 100]), Ok(()));
}

#[test]
fn unknown_settings_and_a_capacity_of_nothing_are_refused() {
    for setting in [("capacity", "0"), ("capcity", "1GiB")] {
        assert!(matches!(MemoryBackend::new(init([setting])), Err(Error::InvalidConfig(_))), "{setting:?}");
    }
}
