//! Engines on keys, whose chunks have a layout that only the embedder knows: with and without a CPU tier.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use kvtier::memory::AllocateError;
use kvtier::{
    BuildError, Chunk, ChunkKey, ChunkSpec, Config, DropReason, EngineBuilder, LayoutError, Miss, PutOutcome,
    StorageManager, StorageMetadata, Tiers, block_on,
};
use kvtier_tests::support::{self, FOR_EVER, backend, config, eventually, fs};

use crate::lent::Lender;

const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Some of a page, some of none, and the largest.
const SIZES: [usize; 5] = [1, 4_096, 5_000, 33_333, CHUNK_BYTES_MAX];

fn metadata(layout: &str) -> StorageMetadata {
    StorageMetadata {
        model_name: "test-model".into(),
        world_size: 2,
        worker_id: 1,
        layout: layout.into(),
        chunk_bytes_max: CHUNK_BYTES_MAX,
    }
}

fn without_cpu_tier(config: Config, layout: &str) -> StorageManager {
    EngineBuilder::on_keys(config, metadata(layout)).without_cpu_tier().build_blocking().unwrap()
}

fn chain(directory: &Path) -> Config {
    config(vec![backend("memory", "memory", "MemoryBackend"), fs("disk", directory)])
}

fn names() -> Vec<String> {
    (0..SIZES.len()).map(|n| format!("llama@1@block-{n}")).collect()
}

fn keys(storage: &StorageManager) -> Vec<ChunkKey> {
    storage.namespace().foreign_keys(names().iter().map(String::as_bytes))
}

/// The bytes of a chunk, which differ from chunk to chunk.
fn bytes(n: usize) -> Vec<u8> {
    (0..SIZES[n]).map(|at| (at * 31 + n) as u8).collect()
}

/// Stores the chunks from lent memory in every tier.
fn store(storage: &StorageManager, lender: &Lender) {
    let chunks: Vec<Chunk> =
        keys(storage).into_iter().enumerate().map(|(n, key)| lender.lend(key, bytes(n)).freeze()).collect();
    let (_, receipt) = block_on(storage.put_chunks_with_receipt(&chunks, &Tiers::All));
    for backend in block_on(receipt.outcomes()) {
        assert_eq!(backend.outcomes, vec![PutOutcome::Stored; SIZES.len()], "{}", backend.backend);
    }
}

#[test]
fn without_a_cpu_tier_chunks_of_any_size_are_stored_from_lent_memory_and_found_in_larger_buffers() {
    let (directory, lender) = (tempfile::tempdir().unwrap(), Lender::default());
    let storage = without_cpu_tier(chain(directory.path()), "rows v1");
    store(&storage, &lender);
    eventually("the memory is given back", || lender.n_back() == SIZES.len());
    assert_eq!(storage.status().cpu.entries, 0);
    block_on(storage.close()).unwrap();
    drop(storage);

    let storage = without_cpu_tier(chain(directory.path()), "rows v1");
    let keys = keys(&storage);
    assert_eq!(block_on(storage.contains(&keys, &Tiers::All)).n_chunks, keys.len());
    let unknown = storage.namespace().foreign_key(b"unknown");
    let asked = [keys[0], unknown, keys[4]];
    assert_eq!(block_on(storage.contains_each(&asked, &Tiers::All)), [true, false, true]);
    // The sizes are not known: each buffer has room for the largest chunk.
    let buffers = keys.iter().map(|key| lender.buffer(*key, CHUNK_BYTES_MAX)).collect();
    let fetched = block_on(storage.fetch_into(buffers, &Tiers::All));
    for (n, chunk) in fetched.iter().enumerate() {
        assert_eq!(&chunk.as_ref().unwrap()[..], bytes(n), "{n}");
    }
    drop(fetched);
    assert_eq!(lender.n_back(), 2 * SIZES.len());
    // What needs memory of kvtier finds none.
    let spec = ChunkSpec { key: keys[1], size_bytes: SIZES[1] };
    let error = block_on(storage.allocate(&[spec])).unwrap_err();
    assert_eq!(error, AllocateError::WithoutCpuTier { size_bytes: SIZES[1] });
    let got = block_on(storage.get(&[spec], &Tiers::All, None));
    assert!(got.chunks.is_empty());
    assert!(got.misses.iter().any(|missed| missed.miss == Miss::NoMemory), "{:?}", got.misses);
    block_on(storage.close()).unwrap();
}

#[test]
fn with_a_cpu_tier_chunks_of_any_size_are_allocated_and_retrieved() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Config { pool_size_bytes: 1 << 20, ..chain(directory.path()) };
    let build = || EngineBuilder::on_keys(settings.clone(), metadata("rows v1")).build_blocking().unwrap();
    let storage = build();
    let keys = keys(&storage);
    let sized = |sizes: &[usize]| -> Vec<ChunkSpec> {
        keys.iter().zip(sizes).map(|(&key, &size_bytes)| ChunkSpec { key, size_bytes }).collect()
    };
    let mut allocation = block_on(storage.allocate(&sized(&SIZES))).unwrap();
    for missing in allocation.missing() {
        missing.bytes.copy_from_slice(&bytes(missing.position));
    }
    let (stored, receipt) = block_on(storage.put_with_receipt(allocation, &Tiers::All));
    assert_eq!(stored.n_new, SIZES.len());
    let receipts = block_on(receipt.outcomes());
    assert_eq!(receipts.len(), 2);
    assert!(receipts.iter().all(|of| of.outcomes == vec![PutOutcome::Stored; SIZES.len()]), "{receipts:?}");
    block_on(storage.close()).unwrap();

    let storage = build();
    for tiers in [Tiers::only(["disk", "cpu"]), Tiers::only(["cpu"])] {
        let got = block_on(storage.get(&sized(&[CHUNK_BYTES_MAX; SIZES.len()]), &tiers, None));
        let got: Vec<&[u8]> = got.chunks.iter().map(|chunk| &chunk[..]).collect();
        assert_eq!(got, (0..SIZES.len()).map(bytes).collect::<Vec<_>>(), "{tiers:?}");
    }
    block_on(storage.close()).unwrap();
}

#[test]
fn a_chunk_larger_than_the_layouts_largest_is_not_stored() {
    let lender = Lender::default();
    let memory = || config(vec![backend("memory", "memory", "MemoryBackend")]);
    let storage = without_cpu_tier(memory(), "rows v1");
    let keys = keys(&storage);
    let sizes = [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 7];
    let chunks: Vec<Chunk> =
        keys.iter().zip(sizes).map(|(key, size)| lender.lend(*key, vec![1; size]).freeze()).collect();
    let (stored, receipt) = block_on(storage.put_chunks_with_receipt(&chunks, &Tiers::All));
    assert_eq!((stored.backends[0].n_queued, stored.backends[0].n_dropped), (2, 1));
    let too_large = PutOutcome::Dropped(DropReason::TooLarge);
    assert_eq!(block_on(receipt.outcomes())[0].outcomes, [PutOutcome::Stored, too_large, PutOutcome::Stored]);
    assert_eq!(support::counted(&storage, "memory").drops["too_large"], 1);

    let storage = EngineBuilder::on_keys(memory(), metadata("rows v1")).build_blocking().unwrap();
    let specs = sizes.map(|size_bytes| ChunkSpec { key: keys[0], size_bytes });
    let error = block_on(storage.allocate(&specs)).unwrap_err();
    let (size_bytes, chunk_bytes_max) = (CHUNK_BYTES_MAX + 1, CHUNK_BYTES_MAX);
    assert_eq!(error, AllocateError::LargerThanChunks { size_bytes, chunk_bytes_max });
}

#[test]
fn engines_with_different_tags_share_nothing_even_if_they_use_the_same_keys() {
    let (directory, lender) = (tempfile::tempdir().unwrap(), Lender::default());
    let disk = || config(vec![fs("disk", directory.path())]);
    let one = without_cpu_tier(disk(), "rows v1");
    let stored = keys(&one);
    store(&one, &lender);
    block_on(one.close()).unwrap();

    let other = without_cpu_tier(disk(), "rows v2");
    assert_ne!(one.namespace(), other.namespace());
    assert_eq!(block_on(other.contains_each(&keys(&other), &Tiers::All)), [false; SIZES.len()]);
    // A store that both use without the namespace in its paths: the trailer names the other layout.
    let buffers = stored.iter().zip(SIZES).map(|(key, size)| lender.buffer(*key, size)).collect();
    for fetched in block_on(other.fetch_into(buffers, &Tiers::All)) {
        assert_eq!(fetched.unwrap_err().miss.reason(), "other_namespace");
    }
    block_on(other.close()).unwrap();
}

#[test]
fn backends_get_the_tag_instead_of_an_element_type() {
    let log = support::log();
    let storage = without_cpu_tier(config(vec![backend("of-keys", "log", "ExternalLogBackend")]), "rows v1");
    block_on(storage.close()).unwrap();
    let new = log.heard("of-keys").into_iter().find(|line| line.starts_with("new: "));
    assert_eq!(new.unwrap(), "new: of-keys for test-model, worker 1 of 2, rows v1 [] on cpu");
}

#[test]
fn metadata_that_describes_no_chunks_is_refused() {
    let refused = |metadata: StorageMetadata| {
        EngineBuilder::on_keys(config(vec![]), metadata).without_cpu_tier().build_blocking().unwrap_err()
    };
    let error = refused(metadata(""));
    assert!(matches!(error, BuildError::Layout(LayoutError::BadTag { n_bytes: 0 })), "{error}");
    let error = refused(StorageMetadata { chunk_bytes_max: 0, ..metadata("rows") });
    assert!(matches!(error, BuildError::Layout(LayoutError::BadChunkBytes(0))), "{error}");
    let error = refused(StorageMetadata { worker_id: 2, ..metadata("rows") });
    assert!(matches!(error, BuildError::Worker { worker_id: 2, world_size: 2 }), "{error}");
}

#[test]
fn futures_run_on_the_control_threads_until_the_chain_is_gone() {
    let lender = Lender::default();
    let storage = without_cpu_tier(config(vec![backend("memory", "memory", "MemoryBackend")]), "rows v1");
    let chunk = lender.lend(keys(&storage)[0], bytes(0)).freeze();
    let (_, receipt) = block_on(storage.put_chunks_with_receipt(&[chunk], &Tiers::All));
    let (done, wait) = mpsc::channel();
    storage.spawn(async move {
        let outcomes = receipt.outcomes().await;
        done.send((std::thread::current().name().map(str::to_owned), outcomes)).unwrap();
    });
    let (thread, outcomes) = wait.recv_timeout(FOR_EVER).unwrap();
    assert_eq!(thread.as_deref(), Some("kvtier-control"));
    assert_eq!(outcomes[0].outcomes, [PutOutcome::Stored]);
    // A future that panics ends alone.
    storage.spawn(async { panic!("of a test") });
    // One that is not ready is dropped with the last handle.
    let (held, gone) = mpsc::channel::<()>();
    storage.spawn(async move {
        std::future::pending::<()>().await;
        drop(held);
    });
    assert_eq!(gone.recv_timeout(Duration::from_millis(1)), Err(mpsc::RecvTimeoutError::Timeout));
    block_on(storage.close()).unwrap();
    storage.abandon();
    assert_eq!(gone.recv_timeout(FOR_EVER), Err(mpsc::RecvTimeoutError::Disconnected));
}
