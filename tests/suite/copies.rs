//! How often the host copies and hashes each byte of a chunk, path by path, as `docs/performance.md` states it. Counted
//! over the chunks' own memory, in real components. Bytes that a caller writes and reads are not counted.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use kvtier::__internal::copies::{Counting, Passes};
use kvtier::memory::Pool;
use kvtier::tier::Tier;
use kvtier::{
    BackendConfig, ChunkKey, ChunkSpec, Config, Engine, EngineBuilder, Missing, NetGrant, NetHost, PortRange,
    Tiers, block_on,
};

use crate::scripted::Scripted;
use crate::support::{self, config, metadata};

const CHUNK: usize = 1 << 20;
const N_CHUNKS: u64 = 3;

/// An engine over memory whose passes are counted.
struct Counted {
    engine: Engine,
    counting: Counting,
    keys: Vec<ChunkKey>,
}

/// Passes over every byte of the chunks.
#[derive(Debug, PartialEq, Eq)]
struct Each {
    copied: u64,
    hashed: u64,
    moved_by_system: u64,
}

const NONE: Each = Each { copied: 0, hashed: 0, moved_by_system: 0 };

impl Counted {
    fn over(backends: Vec<BackendConfig>, native: Vec<(&str, Arc<dyn Tier>)>, local_cpu: bool) -> Self {
        let pool = Arc::new(Pool::new(16 * CHUNK).unwrap());
        let start = pool.base_ptr().as_ptr().addr();
        let counting = Counting::begin(start..start + 16 * CHUNK);
        let config = Config { local_cpu, ..config(backends) };
        let mut builder = EngineBuilder::new(config, metadata()).memory(pool);
        for (name, tier) in native {
            builder = builder.tier(name, tier);
        }
        Self { engine: builder.build_blocking().unwrap(), counting, keys: support::keys(N_CHUNKS) }
    }

    /// Without a hot cache, so that every get goes to the backend.
    fn backend(mut backend: BackendConfig) -> Self {
        backend.limits.call_timeout = Duration::from_secs(30);
        Self::over(vec![backend], vec![], false)
    }

    fn specs(&self) -> Vec<ChunkSpec> {
        self.keys.iter().map(|&key| ChunkSpec { key, size_bytes: CHUNK }).collect()
    }

    /// Returns the passes since the last time, which must be whole ones.
    fn each(&self) -> Each {
        let Passes { copied, hashed, moved_by_system } = self.counting.take();
        let n_bytes = self.keys.len() as u64 * CHUNK as u64;
        let passes = |n: u64| {
            assert_eq!(n % n_bytes, 0, "{n} of {n_bytes} bytes");
            n / n_bytes
        };
        Each { copied: passes(copied), hashed: passes(hashed), moved_by_system: passes(moved_by_system) }
    }

    fn put(&self, tiers: &Tiers) -> Each {
        let mut allocation = block_on(self.engine.storage().allocate(&self.specs())).unwrap();
        for Missing { key, bytes, .. } in allocation.missing() {
            kvtier_cli::content::fill(key, bytes);
        }
        block_on(self.engine.storage().put(allocation, tiers));
        block_on(self.engine.storage().flush()).unwrap();
        self.each()
    }

    fn get(&self, tiers: &Tiers) -> Each {
        let found = block_on(self.engine.storage().get(&self.specs(), tiers, None));
        assert_eq!(found.chunks.len(), self.keys.len(), "{:?}", found.misses);
        for chunk in &found.chunks {
            kvtier_cli::content::verify(chunk.key(), chunk).unwrap();
        }
        self.each()
    }
}

#[test]
fn the_cpu_tier_copies_and_hashes_nothing() {
    let counted = Counted::over(vec![], vec![], true);
    assert_eq!(counted.put(&Tiers::All), NONE, "allocate, fill, put");
    assert_eq!(counted.get(&Tiers::All), NONE, "get");
    let found = block_on(counted.engine.storage().get(&counted.specs(), &Tiers::All, None));
    block_on(counted.engine.storage().put_chunks(&found.chunks, &Tiers::All));
    let bytes: Vec<_> = found.chunks.iter().map(kvtier::Chunk::to_bytes).collect();
    drop(found);
    assert_eq!(bytes[0].len(), CHUNK);
    assert_eq!(counted.each(), NONE, "chunks that exist, and as `Bytes`");
}

#[test]
fn a_guest_that_reads_and_writes_lists_costs_one_copy_and_one_hash_each_way() {
    for (name, component, class) in [
        ("copies-memory", "memory", "MemoryBackend"),
        ("copies-blocking", "blocking", "BlockingMemoryBackend"),
    ] {
        let counted = Counted::backend(support::backend(name, component, class));
        let once = Each { copied: 1, hashed: 1, moved_by_system: 0 };
        assert_eq!(counted.put(&Tiers::All), once, "{name}: put");
        assert_eq!(counted.get(&Tiers::All), once, "{name}: get");
    }
}

#[test]
fn a_splice_is_the_systems_one_copy_and_none_of_ours() {
    let backends: [fn(&std::path::Path) -> BackendConfig; 3] = [
        |directory| support::fs("copies-fs", directory),
        |directory| {
            let mut backend = support::fs("copies-direct", directory);
            backend.config.push(("direct".into(), "true".into()));
            backend
        },
        |directory| {
            let mut backend = support::backend("copies-splice", "probe", "SpliceBackend");
            backend.allow.fs = support::fs("", directory).allow.fs;
            backend
        },
    ];
    for backend in backends {
        let directory = tempfile::tempdir().unwrap();
        let counted = Counted::backend(backend(directory.path()));
        let once = Each { copied: 0, hashed: 1, moved_by_system: 1 };
        assert_eq!(counted.put(&Tiers::All), once, "put");
        assert_eq!(counted.get(&Tiers::All), once, "get");
    }
}

#[test]
fn a_stream_costs_one_copy_and_one_hash_each_way() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut conduit = support::backend("copies-stream", "conduit", "ConduitBackend");
    conduit.config.push(("address".into(), address.to_string()));
    let ports = PortRange { first: address.port(), last: address.port() };
    conduit.allow.net.push(NetGrant::Tcp { host: NetHost::Address(address.ip()), ports });
    let mut counted = Counted::backend(conduit);
    counted.keys.truncate(1);
    // Accepts a chunk, and returns it to the next client.
    let serving = std::thread::spawn(move || {
        let mut chunk = Vec::new();
        server.accept().unwrap().0.read_to_end(&mut chunk).unwrap();
        let (mut taker, _) = server.accept().unwrap();
        taker.write_all(&chunk).unwrap();
        taker.shutdown(std::net::Shutdown::Write).unwrap();
        // Until the other end has closed too.
        drop(taker.read_to_end(&mut Vec::new()));
    });
    let once = Each { copied: 1, hashed: 1, moved_by_system: 0 };
    assert_eq!(counted.put(&Tiers::All), once, "put");
    assert_eq!(counted.get(&Tiers::All), once, "get");
    serving.join().unwrap();
}

#[test]
fn promotion_copies_nothing_and_no_further_tier_is_hashed_for() {
    let memory = |name| support::backend(name, "memory", "MemoryBackend");
    let counted = Counted::over(vec![memory("copies-a"), memory("copies-b")], vec![], true);
    assert_eq!(counted.put(&Tiers::only(["copies-a"])), Each { copied: 1, hashed: 1, moved_by_system: 0 });
    let fetched = counted.get(&Tiers::All);
    assert_eq!(fetched, Each { copied: 1, hashed: 1, moved_by_system: 0 }, "from the backend");
    assert_eq!(counted.get(&Tiers::All), NONE, "promoted");
    // The trailer was delivered with it.
    let found = block_on(counted.engine.storage().get(&counted.specs(), &Tiers::All, None));
    block_on(counted.engine.storage().put_chunks(&found.chunks, &Tiers::only(["copies-b"])));
    block_on(counted.engine.storage().flush()).unwrap();
    assert_eq!(counted.each(), Each { copied: 1, hashed: 0, moved_by_system: 0 }, "to the second tier");
}

#[test]
fn one_copy_too_many_is_seen() {
    for (is_wasteful, expected) in [(false, 1), (true, 2)] {
        let tier = Scripted::new();
        tier.set_wasteful(is_wasteful);
        let counted = Counted::over(vec![], vec![("native", tier as Arc<dyn Tier>)], false);
        assert_eq!(counted.put(&Tiers::All).copied, expected, "put");
        assert_eq!(counted.get(&Tiers::All).copied, expected, "get");
    }
}
