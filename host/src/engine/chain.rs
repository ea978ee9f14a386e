//! Making the chain of an engine: the pool, the CPU tier, the backends and the storage manager.

use std::sync::Arc;

use super::backends::load;
use super::{BuildError, EngineBuilder};
use crate::config::{BreakerConfig, Config, check_tier_names};
use crate::cpu::{CpuTier, HotCache};
use crate::integrity::Sealer;
use crate::key::Namespace;
use crate::layout::BackendMetadata;
use crate::limits::PUT_QUEUE_BYTES_WITHOUT_POOL;
use crate::manager::{Breakers, ManagerOptions, NewBackend, StorageManager};
use crate::memory::{Absent, Pool, Provider};
use crate::runtime::Control;

/// Where buffers come from.
pub(super) enum Memory {
    /// kvtier's own pool.
    Pool,
    /// The embedding runtime.
    Provided(Arc<dyn Provider>),
    /// Nowhere: all chunks are of lent memory, and there is no CPU tier.
    Absent,
}

/// The chunks that a chain is for.
pub(super) struct Chunks {
    pub(super) metadata: BackendMetadata,
    pub(super) namespace: Namespace,
    /// The size of a full chunk.
    pub(super) size_bytes: usize,
    /// The size of the largest chunk that is stored.
    pub(super) size_bytes_max: usize,
}

impl<M> EngineBuilder<M> {
    /// Makes the chain of a valid configuration, and returns it with kvtier's own pool, if it has one.
    pub(super) async fn chain(
        self,
        chunks: Chunks,
    ) -> Result<(StorageManager, Option<Arc<Pool>>), BuildError> {
        let Self { config, metadata: _, dst_device, memory, clock, native } = self;
        let Chunks { metadata, namespace, size_bytes, size_bytes_max } = chunks;

        let (worker_id, world_size) = (metadata.worker_id, metadata.world_size);
        if worker_id >= world_size {
            return Err(BuildError::Worker { worker_id, world_size });
        }
        let configured = config.backends.iter().map(|backend| &backend.name);
        let names: Vec<String> = configured.chain(native.iter().map(|(name, _)| name)).cloned().collect();
        check_tier_names(&names).map_err(BuildError::TierName)?;

        let sealer = match &config.integrity_key {
            None => Sealer::checksum(namespace),
            Some(secret) => Sealer::mac(namespace, secret.expose_bytes()),
        };
        let control = Control::start().map_err(BuildError::Control)?;
        let is_without_pool = matches!(memory, Memory::Absent);
        let (pool, provider) = match memory {
            Memory::Pool => {
                let pool = reserve(&config, size_bytes as u64, &control).await?;
                (Some(Arc::clone(&pool)), pool as Arc<dyn Provider>)
            }
            Memory::Provided(provider) => (None, provider),
            Memory::Absent => (None, Arc::new(Absent::new()) as Arc<dyn Provider>),
        };
        let keeps_chunks = config.local_cpu && config.pool_size_bytes > 0 && !is_without_pool;
        let hot_cache = if keeps_chunks { HotCache::On } else { HotCache::Off };
        let cpu = CpuTier::new(provider, config.cache_policy, hot_cache);
        let mut backends = load(&config, &dst_device, &metadata, namespace, &control, &clock).await?;
        let given = native.into_iter().map(|(name, tier)| {
            let breakers = Arc::new(Breakers::new(&name, BreakerConfig::default(), &clock));
            NewBackend { name, tier, factory: None, breakers }
        });
        backends.extend(given);
        let put_queue_bytes = match config.put_queue_bytes {
            0 if is_without_pool => PUT_QUEUE_BYTES_WITHOUT_POOL,
            bytes => bytes,
        };
        let options = ManagerOptions {
            lookup_timeout: config.lookup_timeout,
            timeout: config.blocking_timeout,
            close_timeout: config.close_timeout,
            pin_timeout: config.pin_timeout,
            on_full: config.on_full,
            put_queue_bytes,
            skip_save: config.skip_save,
            chunk_bytes_max: size_bytes_max,
            clock,
            namespace,
            sealer,
        };
        Ok((StorageManager::new(cpu, backends, options, control), pool))
    }
}

/// Reserves the pool.
async fn reserve(config: &Config, chunk_bytes: u64, control: &Control) -> Result<Arc<Pool>, BuildError> {
    let (pool_bytes, options) = (config.pool_bytes(chunk_bytes) as usize, config.pool);
    // On another thread, because touching the memory in advance takes seconds.
    let pool = control.compute(pool_bytes, move || Pool::with_options(pool_bytes, options)).await?;
    tracing::info!(
        bytes = pool.region_bytes(),
        huge_pages = options.huge_pages.name(),
        mlock = options.mlock,
        prefault = options.prefault,
        "buffer pool reserved"
    );
    Ok(Arc::new(pool))
}
