//! Caches that are maps from keys to values. A value is a payload that readers share; its memory is allocated on
//! insertion and not filled.

use std::mem::MaybeUninit;
use std::sync::Arc;

use foyer_memory::{Cache as FoyerCache, CacheBuilder, CacheProperties, LruConfig};
use kvtier_bench_mix::{Block, CHUNK_BYTES, Contender, UniformHasher};
use moka::policy::EvictionPolicy;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache as QuickCacheSync, DefaultLifecycle};

type Payload = Arc<[MaybeUninit<u8>]>;

fn payload() -> Payload {
    Arc::new_uninit_slice(CHUNK_BYTES)
}

fn name(block: Block) -> u128 {
    (u128::from(block.parent) << 64) | u128::from(block.id)
}

/// foyer's cache in memory.
pub(crate) struct Foyer(FoyerCache<u128, Payload, UniformHasher, CacheProperties>);

impl Foyer {
    pub(crate) fn new(n_chunks: usize) -> Self {
        let builder = CacheBuilder::new(n_chunks).with_eviction_config(LruConfig::default());
        Self(builder.with_hash_builder(UniformHasher::default()).build())
    }
}

impl Contender for Foyer {
    type Key = u128;
    type Hold = ();

    fn key(block: Block) -> u128 {
        name(block)
    }

    fn lookup(&self, keys: &[u128], (): &mut ()) -> usize {
        keys.iter().take_while(|key| self.0.contains(*key)).count()
    }

    fn get(&self, keys: &[u128], (): &mut ()) -> usize {
        keys.iter().filter_map(|key| self.0.get(key)).count()
    }

    fn insert(&self, keys: &[u128], (): &mut ()) {
        for key in keys {
            drop(self.0.insert(*key, payload()));
        }
    }
}

/// `quick_cache`'s cache for several threads.
pub(crate) struct QuickCache(QuickCacheSync<u128, Payload, UnitWeighter, UniformHasher>);

impl QuickCache {
    pub(crate) fn new(n_chunks: usize) -> Self {
        let (hasher, lifecycle) = (UniformHasher::default(), DefaultLifecycle::default());
        Self(QuickCacheSync::with(n_chunks, n_chunks as u64, UnitWeighter, hasher, lifecycle))
    }
}

impl Contender for QuickCache {
    type Key = u128;
    type Hold = ();

    fn key(block: Block) -> u128 {
        name(block)
    }

    fn lookup(&self, keys: &[u128], (): &mut ()) -> usize {
        keys.iter().take_while(|key| self.0.contains_key(*key)).count()
    }

    fn get(&self, keys: &[u128], (): &mut ()) -> usize {
        keys.iter().filter_map(|key| self.0.get(key)).count()
    }

    fn insert(&self, keys: &[u128], (): &mut ()) {
        for key in keys {
            self.0.insert(*key, payload());
        }
    }
}

/// moka's synchronous cache.
pub(crate) struct Moka(moka::sync::Cache<u128, Payload, UniformHasher>);

impl Moka {
    pub(crate) fn new(n_chunks: usize) -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(n_chunks as u64);
        let builder = builder.eviction_policy(EvictionPolicy::lru());
        Self(builder.build_with_hasher(UniformHasher::default()))
    }
}

impl Contender for Moka {
    type Key = u128;
    type Hold = ();

    fn key(block: Block) -> u128 {
        name(block)
    }

    fn lookup(&self, keys: &[u128], (): &mut ()) -> usize {
        keys.iter().take_while(|key| self.0.contains_key(*key)).count()
    }

    fn get(&self, keys: &[u128], (): &mut ()) -> usize {
        keys.iter().filter_map(|key| self.0.get(key)).count()
    }

    fn insert(&self, keys: &[u128], (): &mut ()) {
        for key in keys {
            self.0.insert(*key, payload());
        }
    }
}
