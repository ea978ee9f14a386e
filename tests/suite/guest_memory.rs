//! Classes that fill their memory: they answer `no-space`, and keep what they have.

use std::sync::Arc;

use kvtier::memory::{BufferMut, ChunkWriter, Pool, Provider};
use kvtier::tier::{Pinning, Sealer, Sinks, Sources, TierError};
use kvtier::{BackendConfig, ChunkKey, Namespace, block_on};

use crate::single::{later, start};
use crate::support;

const MEMORY_BYTES: u64 = 4 << 20;

/// Puts chunks of a size until they are refused, and as many again. Checks that the instance lives and has all chunks
/// that it said it has.
fn fill(mut backend: BackendConfig, size_bytes: usize) {
    const AT_ONCE: usize = 8;
    let what = format!("{} {size_bytes}", backend.class_name);
    backend.limits.memory_bytes = MEMORY_BYTES;
    let tier = start(backend);
    let pool_bytes = AT_ONCE * size_bytes.next_multiple_of(4096);
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(pool_bytes).unwrap());
    let sealer = Sealer::checksum(Namespace::new(&support::metadata()));
    let writer =
        |key: &ChunkKey| ChunkWriter::new(*key, BufferMut::allocate(&pool, size_bytes).unwrap().unwrap());
    let keys = support::keys((3 * MEMORY_BYTES as usize / size_bytes).next_multiple_of(AT_ONCE) as u64);
    let mut stored = Vec::new();
    for some in keys.chunks(AT_ONCE) {
        let data = Sources::new(some.iter().map(|key| writer(key).freeze()).collect(), &sealer);
        let results = block_on(tier.put(some.into(), data.clone(), later())).unwrap();
        data.revoke();
        for (key, result) in some.iter().zip(results) {
            match result {
                Ok(()) => stored.push(*key),
                Err(error) => assert_eq!(error, TierError::NoSpace, "{what}"),
            }
        }
    }
    assert!(!stored.is_empty() && stored.len() < keys.len(), "{what}: {} of {}", stored.len(), keys.len());
    // A lookup of a long prompt, in one list.
    let long: Vec<ChunkKey> = keys[..1].iter().copied().cycle().take(10_000).collect();
    assert_eq!(block_on(tier.contains(long.into(), Pinning::None, later())), Ok(10_000), "{what}");
    for some in stored.chunks(AT_ONCE) {
        let into = Sinks::new(some.iter().map(writer).collect(), &sealer);
        let found = block_on(tier.get(some.into(), into.clone(), later())).unwrap();
        assert!(found.iter().all(|found| matches!(found, Ok(Some(_)))), "{what}: {found:?}");
        drop(into.revoke());
    }
    let health = tier.health();
    assert_eq!((health.lane_restarts, health.last_restart), (0, None), "{what}");
    block_on(tier.close(later())).unwrap();
}

#[test]
fn a_class_near_its_memory_limit_answers_no_space_and_keeps_its_chunks() {
    // One is a byte longer than the piece in which chunks are read.
    for size_bytes in [(1 << 20) + 1, 1 << 20, 300_000, 3_000] {
        fill(support::backend("near", "map", "MapBackend"), size_bytes);
        let mut memory = support::backend("near", "memory", "LruMemoryBackend");
        memory.config.push(("capacity".into(), "1GiB".into()));
        if size_bytes > 3_000 {
            fill(memory, size_bytes);
        }
    }
}

#[test]
fn a_guest_reads_the_limits_that_the_operator_has_set() {
    let log = support::log();
    for (name, limit, expected) in [
        ("limit-memory", "memory", Some(MEMORY_BYTES)),
        ("limit-time", "call_timeout_ms", Some(support::FOR_EVER.as_millis() as u64)),
        ("limit-default", "batch_chunks_max", Some(64)),
        ("limit-none", "no_such_limit", None),
        ("limit-empty", "", None),
    ] {
        let mut backend = support::backend(name, "probe", "ProbeBackend");
        backend.limits.memory_bytes = MEMORY_BYTES;
        backend.config.push(("limit".into(), format!("{limit} ").trim_end().to_owned()));
        let engine = support::engine(support::config(vec![backend]));
        engine.blocking().close().unwrap();
        let heard = log.heard(name);
        assert!(heard.contains(&format!("limit: {limit} is {expected:?}")), "{heard:?}");
    }
}
