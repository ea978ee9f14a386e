//! Memory that an embedder lends: puts from it, fetches into it, and the receipts of puts.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvtier::memory::{BufferMut, ChunkWriter};
use kvtier::tier::{Lease, PerChunk, Pinning, Sinks, Sources, Tier, TierError, TierFuture};
use kvtier::{
    Chunk, ChunkKey, Config, DropReason, EngineBuilder, Miss, NotFetched, OnFull, PutOutcome, Tiers, block_on,
};
use kvtier_tests::support::{
    CHUNK_BYTES, backend, config, engine, eventually, fs, in_tier, key, keys, metadata, misbehaving, put,
    put_in, specs,
};

use crate::scripted::{Scripted, engine_over};

/// Lent buffers, and how many of them have been given back.
#[derive(Default)]
pub(crate) struct Lender(Arc<AtomicUsize>);

struct Owner {
    bytes: Box<[u8]>,
    n_back: Arc<AtomicUsize>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.n_back.fetch_add(1, Ordering::SeqCst);
    }
}

impl Lender {
    #[expect(unsafe_code, reason = "lends memory")]
    pub(crate) fn lend(&self, key: ChunkKey, bytes: Vec<u8>) -> ChunkWriter {
        let mut owner = Owner { bytes: bytes.into(), n_back: Arc::clone(&self.0) };
        let (ptr, len) = (NonNull::from(&mut *owner.bytes).cast(), owner.bytes.len());
        // SAFETY: the owner has the memory on the heap, and nothing else uses it.
        ChunkWriter::new(key, unsafe { BufferMut::lend(ptr, len, owner) })
    }

    /// Lends the bytes of a chunk, as it is to be stored.
    fn chunk(&self, key: ChunkKey) -> Chunk {
        let mut bytes = vec![0; CHUNK_BYTES];
        kvtier_cli::content::fill(key, &mut bytes);
        self.lend(key, bytes).freeze()
    }

    pub(crate) fn buffer(&self, key: ChunkKey, n_bytes: usize) -> ChunkWriter {
        self.lend(key, vec![0xee; n_bytes])
    }

    pub(crate) fn n_back(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn is_right(chunk: &Chunk) -> bool {
    chunk.len() == CHUNK_BYTES && kvtier_cli::content::verify(chunk.key(), chunk).is_ok()
}

#[test]
fn a_put_reads_lent_memory_in_place_and_gives_it_back_when_every_backend_has_it() {
    let (directory, lender) = (tempfile::tempdir().unwrap(), Lender::default());
    let memory = backend("memory", "memory", "MemoryBackend");
    let engine = engine(config(vec![memory, fs("disk", directory.path())]));
    let (storage, keys) = (engine.storage(), keys(5));
    let chunks: Vec<Chunk> = keys.iter().map(|key| lender.chunk(*key)).collect();
    let (stored, receipt) = block_on(storage.put_chunks_with_receipt(&chunks, &Tiers::All));
    assert_eq!((stored.n_new, stored.backends[0].n_queued), (0, 5), "the CPU tier keeps no lent memory");
    drop(chunks);
    let outcomes = block_on(receipt.outcomes());
    let names: Vec<&str> = outcomes.iter().map(|receipt| receipt.backend.as_str()).collect();
    assert_eq!(names, ["memory", "disk"]);
    assert!(outcomes.iter().all(|receipt| receipt.outcomes == vec![PutOutcome::Stored; 5]), "{outcomes:?}");
    eventually("the memory is given back", || lender.n_back() == 5);
    assert_eq!(in_tier(storage, &keys, "cpu"), 0);
    for tier in ["memory", "disk"] {
        let found = block_on(storage.fetch_into(
            keys.iter().map(|key| lender.buffer(*key, CHUNK_BYTES)).collect(),
            &Tiers::only([tier]),
        ));
        assert!(found.iter().all(|chunk| chunk.as_ref().is_ok_and(is_right)), "{tier}: {found:?}");
    }
    assert_eq!(in_tier(storage, &keys, "cpu"), 0, "and promotes nothing");
}

#[test]
fn each_buffer_has_its_own_result_from_the_first_tier_that_has_the_chunk() {
    let (directory, lender) = (tempfile::tempdir().unwrap(), Lender::default());
    let memory = backend("memory", "memory", "MemoryBackend");
    let engine = engine(config(vec![memory, fs("disk", directory.path())]));
    let storage = engine.storage();
    put(storage, &[key(0)], &Tiers::only(["cpu"]));
    put_in(storage, &[key(2), key(5)], "memory");
    put_in(storage, &[key(3), key(5)], "disk");
    // 1 and 4 are nowhere; the buffer of 5 is larger than its chunk, and that of 6 smaller.
    put_in(storage, &[key(6)], "disk");
    let sizes =
        [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 3 * CHUNK_BYTES, CHUNK_BYTES - 1];
    let buffers: Vec<ChunkWriter> =
        sizes.iter().enumerate().map(|(n, size)| lender.buffer(key(n as u64), *size)).collect();
    let addresses: Vec<*const u8> = buffers.iter().map(|buffer| buffer.as_ptr()).collect();
    let found = block_on(storage.fetch_into(buffers, &Tiers::All));
    for (n, result) in found.iter().enumerate() {
        match result {
            Ok(chunk) => {
                assert!([0, 2, 3, 5].contains(&n) && is_right(chunk), "{n}");
                assert_eq!(chunk.as_ptr(), addresses[n], "{n}: fetched in place");
            }
            Err(NotFetched { miss, buffer, .. }) => {
                let larger = matches!(miss, Miss::LargerThanBuffer { .. });
                assert!(
                    if n == 6 { larger } else { [1, 4].contains(&n) && *miss == Miss::NotFound },
                    "{n}: {miss}"
                );
                let buffer = buffer.as_ref().expect("no transfer has it");
                assert_eq!((buffer.as_ptr(), buffer.len()), (addresses[n], sizes[n]), "{n}");
            }
        }
    }
    assert_eq!(lender.n_back(), 0);
    drop(found);
    assert_eq!(lender.n_back(), 7);
}

#[test]
fn a_damaged_chunk_is_taken_from_the_next_tier_into_the_same_buffer() {
    let (first, second) = (Scripted::new(), Scripted::new());
    let engine = engine_over(config(vec![]), metadata(), &[("first", &first), ("second", &second)]);
    let (storage, lender) = (engine.storage(), Lender::default());
    put_in(storage, &keys(2), "first");
    put_in(storage, &keys(2), "second");
    first.damage(key(1));
    let buffers: Vec<_> = keys(2).iter().map(|key| lender.buffer(*key, CHUNK_BYTES)).collect();
    let address = buffers[1].as_ptr();
    let found = block_on(storage.fetch_into(buffers, &Tiers::only(["first", "second"])));
    assert!(found.iter().all(|chunk| chunk.as_ref().is_ok_and(is_right)), "{found:?}");
    assert_eq!(found[1].as_ref().unwrap().as_ptr(), address);
    second.damage(key(1));
    let again = vec![lender.buffer(key(1), CHUNK_BYTES)];
    let found = block_on(storage.fetch_into(again, &Tiers::only(["second"])));
    let Err(NotFetched { miss: Miss::Flaw(_), buffer: Some(_), .. }) = &found[0] else { panic!("{found:?}") };
}

#[test]
fn every_way_in_which_a_put_ends_is_in_its_receipt() {
    let gated = Scripted::gated(1);
    let refusing = Scripted::new();
    refusing.refuse_puts(true);
    let settings = Config {
        // Room for two chunks in each queue.
        put_queue_bytes: 3 * 2 * CHUNK_BYTES as u64 + 3,
        on_full: OnFull::Drop,
        ..config(vec![misbehaving("traps", "TrapBackend", &[("in", "put")])])
    };
    let engine = engine_over(settings, metadata(), &[("gated", &gated), ("refusing", &refusing)]);
    let (storage, lender) = (engine.storage(), Lender::default());
    let chunks: Vec<Chunk> = keys(4).iter().map(|key| lender.chunk(*key)).collect();
    let (_, receipt) = block_on(storage.put_chunks_with_receipt(&chunks, &Tiers::only(["gated"])));
    gated.wait_for_puts(1);
    assert!(!receipt.is_complete());
    // A second put of a chunk that is on its way has the outcome of the first one.
    let (_, second) = block_on(storage.put_chunks_with_receipt(&chunks[..1], &Tiers::only(["gated"])));
    let waiting = std::thread::spawn(move || block_on(second.outcomes()));
    gated.open_gate();
    let outcomes = block_on(receipt.outcomes());
    let full = PutOutcome::Dropped(DropReason::QueueFull);
    assert_eq!(outcomes[0].outcomes, [PutOutcome::Stored, PutOutcome::Stored, full.clone(), full]);
    assert_eq!(waiting.join().unwrap()[0].outcomes, [PutOutcome::Stored]);

    let others = Tiers::only(["traps", "refusing"]);
    let (_, receipt) = block_on(storage.put_chunks_with_receipt(&chunks[3..], &others));
    let outcomes = block_on(receipt.outcomes());
    assert!(matches!(outcomes[0].outcomes[..], [PutOutcome::Failed(TierError::Trap(_))]), "{outcomes:?}");
    assert!(matches!(outcomes[1].outcomes[..], [PutOutcome::Failed(_)]), "{outcomes:?}");
    drop(chunks);
    eventually("the memory is given back", || lender.n_back() == 4);
}

#[test]
fn the_receipt_of_an_allocation_has_the_chunks_in_the_order_of_the_request_also_those_that_were_present() {
    let tier = Scripted::new();
    let settings = Config { on_full: OnFull::Drop, ..config(vec![]) };
    let engine = engine_over(settings, metadata(), &[("scripted", &tier)]);
    let (storage, keys) = (engine.storage(), keys(4));
    // The second chunk is in the CPU tier only, the third one in both.
    put(storage, &keys[1..2], &Tiers::only(["cpu"]));
    put(storage, &keys[2..3], &Tiers::All);
    block_on(storage.flush()).unwrap();
    tier.refuse_puts(true);
    let mut allocation = block_on(storage.allocate(&specs(&keys))).unwrap();
    assert_eq!((allocation.n_missing(), allocation.n_present(), allocation.n_covered()), (2, 2, 4));
    for missing in allocation.missing() {
        kvtier_cli::content::fill(missing.key, missing.bytes);
    }
    let (stored, receipt) = block_on(storage.put_with_receipt(allocation, &Tiers::All));
    assert_eq!((stored.n_new, stored.backends[0].n_present, stored.backends[0].n_queued), (2, 1, 3));
    let outcomes = block_on(receipt.outcomes()).remove(0).outcomes;
    let is_stored: Vec<bool> = outcomes.iter().map(|outcome| *outcome == PutOutcome::Stored).collect();
    assert_eq!(is_stored, [false, false, true, false], "{outcomes:?}");
}

#[test]
fn a_put_that_a_removal_or_the_end_of_the_engine_cancels_says_so() {
    let gated = Scripted::gated(1);
    let engine = engine_over(config(vec![]), metadata(), &[("gated", &gated)]);
    let (storage, lender) = (engine.storage(), Lender::default());
    let tiers = Tiers::only(["gated"]);
    // Those that workers have taken wait at the gate; the last ones are queued.
    let chunks: Vec<Chunk> = keys(12).iter().map(|key| lender.chunk(*key)).collect();
    let (_, receipt) = block_on(storage.put_chunks_with_receipt(&chunks, &tiers));
    gated.wait_for_puts(1);
    let last = key(11);
    let removal = {
        let storage = storage.clone();
        std::thread::spawn(move || block_on(storage.remove(&[last], &Tiers::All)))
    };
    eventually("the queued put is cancelled", || storage.counts()[1].drops.contains_key("removed"));
    gated.open_gate();
    let outcomes = block_on(receipt.outcomes());
    assert_eq!(outcomes[0].outcomes[11], PutOutcome::Dropped(DropReason::Removed));
    removal.join().unwrap().unwrap();
    engine.blocking().close().unwrap();
    let late = [lender.chunk(key(20))];
    let (_, receipt) = block_on(storage.put_chunks_with_receipt(&late, &tiers));
    assert_eq!(block_on(receipt.outcomes()), [], "a closed chain has no backends");
}

/// A tier whose `get` leaves a transfer behind.
#[derive(Default)]
struct Leaves(Mutex<Vec<Lease>>);

impl Tier for Leaves {
    fn contains(
        &self,
        keys: Arc<[ChunkKey]>,
        _: Pinning,
        _: Instant,
    ) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move { Ok(keys.len()) })
    }

    fn put(&self, keys: Arc<[ChunkKey]>, _: Sources, _: Instant) -> TierFuture<'_, PerChunk<()>> {
        Box::pin(async move { Ok(vec![Err(TierError::NoSpace); keys.len()]) })
    }

    fn get(&self, _: Arc<[ChunkKey]>, into: Sinks, _: Instant) -> TierFuture<'_, PerChunk<Option<u64>>> {
        self.0.lock().unwrap().push(into.lease(0).unwrap());
        Box::pin(async move { Err(TierError::Timeout(Duration::ZERO)) })
    }

    fn pin(&self, _: Arc<[ChunkKey]>, _: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move { Err(TierError::Unsupported) })
    }

    fn unpin(&self, _: Arc<[ChunkKey]>, _: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move { Err(TierError::Unsupported) })
    }

    fn remove(&self, _: Arc<[ChunkKey]>, _: Instant) -> TierFuture<'_, Result<usize, TierError>> {
        Box::pin(async move { Ok(0) })
    }

    fn close(&self, _: Instant) -> TierFuture<'_, Result<(), TierError>> {
        Box::pin(async move { Ok(()) })
    }
}

#[test]
fn memory_that_a_transfer_still_uses_is_given_back_when_the_transfer_ends_and_not_before() {
    let tier = Arc::new(Leaves::default());
    let builder = EngineBuilder::new(config(vec![]), metadata());
    let engine = builder.tier("leaves", Arc::clone(&tier) as Arc<dyn Tier>).build_blocking().unwrap();
    let lender = Lender::default();
    let buffers = keys(2).iter().map(|key| lender.buffer(*key, CHUNK_BYTES)).collect();
    let found = block_on(engine.storage().fetch_into(buffers, &Tiers::All));
    let buffers: Vec<bool> =
        found.iter().map(|result| matches!(result, Err(NotFetched { buffer: Some(_), .. }))).collect();
    assert_eq!(buffers, [false, true], "{found:?}");
    drop(found);
    assert_eq!(lender.n_back(), 1);
    engine.blocking().close().unwrap();
    drop(engine);
    assert_eq!(lender.n_back(), 1, "even the end of the engine does not end the transfer");
    tier.0.lock().unwrap().clear();
    assert_eq!(lender.n_back(), 2);
}
