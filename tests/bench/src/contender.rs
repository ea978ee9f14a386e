//! kvtier's CPU tier as one of the caches that are compared.

use std::sync::Arc;

use kvtier::__internal::cpu::{Allocated, CpuTier, Inserted};
use kvtier::memory::{ChunkWriter, Pool};
use kvtier::{Chunk, ChunkKey, EvictionPolicy, HotCache};
use kvtier_bench_mix::{Block, CHUNK_BYTES, Contender, REQUEST_CHUNKS};

/// A CPU tier under LRU with a separate pool.
pub(crate) struct Ours(CpuTier);

/// Vectors with spare capacity.
#[derive(Default)]
pub(crate) struct Hold {
    got: Vec<Option<Chunk>>,
    new: Vec<Chunk>,
    inserted: Vec<Inserted>,
}

impl Ours {
    pub(crate) fn new(n_chunks: usize) -> Self {
        let pool = Pool::new(n_chunks * CHUNK_BYTES).expect("the machine has the memory for the bench");
        Self(CpuTier::new(Arc::new(pool), EvictionPolicy::Lru, HotCache::On))
    }
}

impl Contender for Ours {
    type Key = ChunkKey;
    type Hold = Hold;

    fn key(block: Block) -> ChunkKey {
        ChunkKey { hi: block.id, lo: block.id.rotate_left(32) ^ block.parent }
    }

    fn lookup(&self, keys: &[ChunkKey], _: &mut Hold) -> usize {
        self.0.contains_run(keys)
    }

    fn get(&self, keys: &[ChunkKey], hold: &mut Hold) -> usize {
        self.0.get(keys, &mut hold.got);
        let n = hold.got.iter().flatten().count();
        hold.got.clear();
        n
    }

    fn insert(&self, keys: &[ChunkKey], hold: &mut Hold) {
        if keys.is_empty() {
            return;
        }
        let sizes = &[CHUNK_BYTES; REQUEST_CHUNKS][..keys.len()];
        let buffers = match self.0.allocate_batch(sizes) {
            Ok(Allocated::Ready(buffers)) => buffers,
            other => panic!("a request's chunks are few: {other:?}"),
        };
        let chunks = keys.iter().zip(buffers).map(|(key, buffer)| ChunkWriter::new(*key, buffer).freeze());
        hold.new.extend(chunks);
        self.0.insert_all(&hold.new, &mut hold.inserted);
        hold.new.clear();
    }
}
