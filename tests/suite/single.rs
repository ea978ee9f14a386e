//! The contract's rules on lists of keys, and the optional method `present`, through the tier of a single backend,
//! without a chain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvtier::memory::{BufferMut, ChunkWriter, Pool, Provider};
use kvtier::tier::{Liveness, Pinning, Sealer, Sources, Tier, TierError};
use kvtier::{BackendConfig, ChunkKey, Namespace, block_on, start_backend};

use crate::support;

struct Deaf;

impl Liveness for Deaf {
    fn down(&self, _: &str, _: Duration) {}
    fn up(&self) {}
}

fn tier(component: &str, class_name: &str) -> Arc<dyn Tier> {
    start(support::backend("single", component, class_name))
}

pub(crate) fn start(backend: BackendConfig) -> Arc<dyn Tier> {
    let config = support::config(Vec::new());
    block_on(start_backend(&config, backend, support::metadata(), Arc::new(Deaf))).unwrap()
}

fn put(tier: &Arc<dyn Tier>, keys: &[ChunkKey]) {
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(16 * 4096).unwrap());
    let sealer = Sealer::checksum(Namespace::new(&support::metadata()));
    let chunk = |key: &ChunkKey| {
        let mut writer = ChunkWriter::new(*key, BufferMut::allocate(&pool, 100).unwrap().unwrap());
        writer.fill(7);
        writer.freeze()
    };
    let data = Sources::new(keys.iter().map(chunk).collect(), &sealer);
    let stored = block_on(tier.put(keys.into(), data, later())).unwrap();
    assert_eq!(stored.len(), keys.len());
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
}

pub(crate) fn later() -> Instant {
    Instant::now() + Duration::from_mins(10)
}

#[test]
fn a_class_that_has_the_method_tells_presence_key_by_key() {
    let classes = [("memory", "MemoryBackend"), ("memory", "LruMemoryBackend"), ("map", "MapBackend")];
    for (component, class_name) in classes {
        check_presence_key_by_key(support::backend("single", component, class_name));
    }
    let directory = tempfile::tempdir().unwrap();
    check_presence_key_by_key(support::fs("single_fs", directory.path()));
}

/// Checks that a backend reports presence for each key, with gaps and repeated keys, whatever became of the others.
pub(crate) fn check_presence_key_by_key(backend: BackendConfig) {
    let name = backend.class_name.clone();
    let (tier, keys) = (start(backend), support::keys(6));
    let present = |keys: &[ChunkKey]| block_on(tier.present(keys.into(), later()));
    put(&tier, &[keys[0], keys[2], keys[5]]);
    let asked = [keys[0], keys[1], keys[2], keys[3], keys[5], keys[0]];
    assert_eq!(present(&asked), Ok(vec![true, false, true, false, true, true]), "{name}");
    assert_eq!(block_on(tier.remove([keys[0]].into(), later())), Ok(1), "{name}");
    assert_eq!(present(&asked), Ok(vec![false, false, true, false, true, false]), "{name}");
    assert_eq!(present(&[]), Ok(Vec::new()), "{name}");
}

#[test]
fn a_repeated_key_is_answered_each_time_and_changed_once() {
    let keys = support::keys(3);
    let (a, b, absent) = (keys[0], keys[1], keys[2]);
    for (component, class_name) in [
        ("memory", "MemoryBackend"),
        ("memory", "LruMemoryBackend"),
        ("map", "MapBackend"),
        ("template", "Backend"),
        ("blocking", "BlockingMemoryBackend"),
    ] {
        let tier = tier(component, class_name);
        put(&tier, &[a, b, a]);
        put(&tier, &[a, a]);
        let list = |keys: &[ChunkKey]| Arc::<[ChunkKey]>::from(keys);
        let contains = |keys: &[ChunkKey], pinning| block_on(tier.contains(list(keys), pinning, later()));
        assert_eq!(contains(&[a, a, b, absent, a], Pinning::None), Ok(3), "{class_name}");
        let pinned = block_on(tier.pin(list(&[a, a, absent]), later()));
        let unpin = |keys: &[ChunkKey]| block_on(tier.unpin(list(keys), later()));
        if pinned == Err(TierError::Unsupported) {
            // A class that cannot pin refuses a lookup with `pin`.
            assert_eq!(contains(&[a], Pinning::Pin), Err(TierError::Unsupported), "{class_name}");
            assert_eq!(unpin(&[a]), Err(TierError::Unsupported), "{class_name}");
        } else {
            assert_eq!(pinned, Ok(2), "{class_name}");
            assert_eq!((unpin(&[a, a]), unpin(&[a])), (Ok(1), Ok(0)), "{class_name}");
            assert_eq!(contains(&[b, b], Pinning::Pin), Ok(2), "{class_name}");
            assert_eq!(unpin(&[b, b, absent]), Ok(1), "{class_name}");
        }
        assert_eq!(block_on(tier.remove(list(&[a, a, absent]), later())), Ok(1), "{class_name}");
        assert_eq!(contains(&[b, a], Pinning::None), Ok(1), "{class_name}");
    }
}

#[test]
fn a_class_that_keeps_nothing_says_that_it_has_no_room() {
    let tier = tier("log", "ExternalLogBackend");
    let keys = support::keys(2);
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(16 * 4096).unwrap());
    let sealer = Sealer::checksum(Namespace::new(&support::metadata()));
    let chunk =
        |key: &ChunkKey| ChunkWriter::new(*key, BufferMut::allocate(&pool, 100).unwrap().unwrap()).freeze();
    let data = Sources::new(keys.iter().map(chunk).collect(), &sealer);
    let stored = block_on(tier.put(keys.clone().into(), data, later())).unwrap();
    assert_eq!(stored, [Err(TierError::NoSpace), Err(TierError::NoSpace)]);
    assert_eq!(block_on(tier.contains(keys.into(), Pinning::Pin, later())), Ok(0));
}

#[test]
fn a_class_without_the_method_and_one_that_refuses_it_do_not_support_it() {
    for (component, class_name) in
        [("plain", "AlphaBackend"), ("blocking", "BlockingMemoryBackend"), ("template", "Backend")]
    {
        let tier = tier(component, class_name);
        let present = block_on(tier.present(support::keys(2).into(), later()));
        assert_eq!(present, Err(TierError::Unsupported), "{class_name}");
    }
}
