//! The optional method `present`: called through the tier of a single backend, without a chain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvtier::ChunkKey;
use kvtier::chunk::ChunkWriter;
use kvtier::integrity::Sealer;
use kvtier::key::Namespace;
use kvtier::memory::{BufferMut, Pool, Provider};
use kvtier::runtime::{Control, block_on};
use kvtier::tier::{Liveness, Tier, TierError};
use kvtier::transfer::Sources;
use kvtier::wasm::{Compilation, EngineFacts, LaneThreads, WasmTier};

use crate::support;

struct Deaf;

impl Liveness for Deaf {
    fn down(&self, _: &str, _: Duration) {}
    fn up(&self) {}
}

fn tier(component: &str, class_name: &str) -> WasmTier {
    let config = support::config(Vec::new());
    let backend = support::backend("present", component, class_name);
    let threads = LaneThreads::start(1, Compilation::new(&config)).unwrap();
    let metadata = support::metadata();
    let namespace = Namespace::new(&metadata);
    let facts = EngineFacts { dst_device: "cpu".into(), metadata, namespace };
    let control = Control::start().unwrap();
    let (tier, outcome) = block_on(WasmTier::start(backend, facts, threads, control, Arc::new(Deaf)));
    outcome.unwrap();
    tier
}

fn put(tier: &WasmTier, keys: &[ChunkKey]) {
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(16 * 4096).unwrap());
    let sealer = Sealer::checksum(Namespace::new(&support::metadata()));
    let chunk = |key: &ChunkKey| {
        let mut writer = ChunkWriter::new(*key, BufferMut::allocate(&pool, 100).unwrap().unwrap());
        writer.fill(7);
        writer.freeze()
    };
    let data = Sources::new(keys.iter().map(chunk).collect(), &sealer);
    let stored = block_on(tier.put(keys.into(), data, later())).unwrap();
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
}

fn later() -> Instant {
    Instant::now() + Duration::from_mins(10)
}

#[test]
fn a_class_that_has_the_method_tells_presence_key_by_key() {
    let keys = support::keys(6);
    for (component, class_name) in [("memory", "LruMemoryBackend"), ("map", "MapBackend")] {
        let tier = tier(component, class_name);
        put(&tier, &[keys[0], keys[2], keys[5]]);
        let asked = [keys[0], keys[1], keys[2], keys[3], keys[5], keys[0]];
        let present = block_on(tier.present(asked.as_slice().into(), later()));
        assert_eq!(present, Ok(vec![true, false, true, false, true, true]), "{class_name}");
        assert_eq!(block_on(tier.present([].into(), later())), Ok(Vec::new()), "{class_name}");
    }
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
