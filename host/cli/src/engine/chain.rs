//! The replay's chain over the host library's engine.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use kvtier::tier::TierError;
use kvtier::{
    BackendStatus, Chunk, ChunkKey, ChunkSpec, Engine, ErrorCount, KeyChain, Lookup, Operation, RemoveError,
    StorageManager, TierCounts, Tiers, block_on,
};

use crate::histogram::Histogram;
use crate::replay::{Chain, Retrieved, Stored, TierCounters};

/// Divisor of the pool's size for the chunks of one retrieval. Puts in flight may hold as much; the rest is for chunks
/// that are being fetched and stored at the same time.
const WINDOW_POOL_DIVISOR: usize = 4;

/// Keys of one call that removes chunks.
const REMOVED_KEYS: usize = 256;

/// The error, by operation and kind, of a tier that works and has no space for a chunk. The library counts it with the
/// errors.
const REFUSAL: (Operation, &str) = (Operation::Put, "no_space");

/// An engine as the replay needs it. Each call blocks the calling thread, at most until the engine's deadline.
///
/// Lookups are not pinned. A pin counts as a use, and a request of a trace uses a chunk once, by retrieving it. And if
/// a prompt is longer than the pool, pins on all of its prefix would leave no room to fetch the rest.
pub struct EngineChain {
    engine: Engine,
    chunk_bytes: usize,
    /// The result of the last lookup.
    plan: Lookup,
    /// The number of its chunks that were requested.
    n_requested: usize,
}

impl EngineChain {
    /// Makes a chain of an engine, for chunks of `chunk_bytes`.
    pub fn new(engine: Engine, chunk_bytes: usize) -> Self {
        Self { engine, chunk_bytes, plan: Lookup::default(), n_requested: 0 }
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Removes the chunks of requests from the CPU tier, and from the backends whose class can do that.
    ///
    /// # Errors
    /// If a backend fails to.
    pub(super) fn forget<'a>(&self, requests: impl Iterator<Item = &'a [u64]>) -> Result<()> {
        let keys: BTreeSet<ChunkKey> = requests.flat_map(|block_ids| self.keys(block_ids)).collect();
        for keys in keys.into_iter().collect::<Vec<_>>().chunks(REMOVED_KEYS) {
            match block_on(self.storage().remove(keys, &Tiers::All)) {
                Ok(_) => {}
                // `remove` is optional.
                Err(RemoveError { error: TierError::Unsupported, .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn storage(&self) -> &StorageManager {
        self.engine.storage()
    }
}

impl Chain for EngineChain {
    type Chunk = Chunk;

    fn tier_names(&self) -> Vec<String> {
        self.storage().tier_names().into_iter().map(str::to_owned).collect()
    }

    fn window(&self) -> usize {
        if self.storage().tier_names().len() == 1 {
            // Nothing is fetched, so nothing needs room, and the whole prefix is used from its tail to its head.
            return usize::MAX;
        }
        let provider = self.storage().cpu().provider();
        let chunk = provider.footprint_bytes(self.chunk_bytes).max(1);
        (provider.capacity_bytes() / chunk / WINDOW_POOL_DIVISOR).max(1)
    }

    fn keys(&self, block_ids: &[u64]) -> Vec<ChunkKey> {
        let tokens: Vec<u32> = block_ids.iter().flat_map(|&id| [id as u32, (id >> 32) as u32]).collect();
        let mut keys = Vec::new();
        KeyChain::new(self.engine.namespace()).extend(&tokens, 2, &mut keys);
        keys
    }

    fn lookup(&mut self, keys: &[ChunkKey]) -> Result<usize> {
        self.plan = block_on(self.storage().contains(keys, &Tiers::All));
        self.n_requested = 0;
        Ok(self.plan.n_chunks)
    }

    fn retrieve(&mut self, chunks: &[ChunkSpec]) -> Result<Vec<Retrieved<Chunk>>> {
        let plan = self.plan.slice(self.n_requested..self.n_requested + chunks.len());
        self.n_requested += chunks.len();
        let retrieved = block_on(self.storage().get(chunks, &Tiers::All, Some(&plan)));
        let served = retrieved.chunks.into_iter().zip(retrieved.tiers);
        Ok(served.map(|(chunk, tier)| Retrieved { tier: tier.0, chunk }).collect())
    }

    fn release(&mut self) -> Result<()> {
        self.plan = Lookup::default();
        Ok(())
    }

    fn store(&mut self, chunk: ChunkSpec, fill: &mut dyn FnMut(&mut [u8])) -> Result<Stored> {
        let mut allocation = block_on(self.storage().allocate(&[chunk]))?;
        let (n_missing, n_covered) = (allocation.n_missing(), allocation.n_covered());
        for missing in allocation.missing() {
            fill(missing.bytes);
        }
        let stored = block_on(self.storage().put(allocation, &Tiers::All));
        let taken = stored.n_new > 0 || stored.backends.iter().any(|offer| offer.n_queued > 0);
        Ok(match (n_covered, n_missing) {
            (0, _) => Stored::Refused,
            (_, 0) => Stored::Present,
            _ if taken => Stored::New,
            _ => Stored::Refused,
        })
    }

    /// Waits as long as the number of pending chunks falls within each of the engine's deadlines. The pool limits how
    /// much is pending, and the disk how fast it is stored.
    fn flush(&mut self) -> Result<()> {
        let mut n_before = usize::MAX;
        loop {
            let Err(error) = block_on(self.storage().flush()) else { return Ok(()) };
            let n_pending = error.pending.iter().map(|puts| puts.n_chunks).sum();
            if n_pending >= n_before {
                return Err(error.into());
            }
            n_before = n_pending;
        }
    }

    fn counters(&self) -> Result<Vec<TierCounters>> {
        let status = self.storage().status();
        let of_tier = |counts: &TierCounts| {
            let backend = status.backends.iter().find(|backend| backend.name == counts.name);
            TierCounters { last_causes: backend.map(last_causes).unwrap_or_default(), ..counters(counts) }
        };
        Ok(self.storage().counts().iter().map(of_tier).collect())
    }

    fn close(&mut self) -> Result<()> {
        Ok(self.engine.blocking().close()?)
    }
}

/// Translates the library's counters.
fn counters(counts: &TierCounts) -> TierCounters {
    let latency = counts.latency.iter().map(|calls| {
        let mut histogram = Histogram::default();
        calls.latency.buckets.iter().for_each(|bucket| histogram.record_n(bucket.upper_ns, bucket.n));
        (calls.operation.name().to_owned(), histogram)
    });
    let by_reason = |counts: &BTreeMap<&'static str, u64>| {
        counts.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect()
    };
    let is_refusal = |error: &&ErrorCount| (error.operation, error.kind) == REFUSAL;
    let (refused, errors): (Vec<&ErrorCount>, Vec<&ErrorCount>) = counts.errors.iter().partition(is_refusal);
    let refused = refused.into_iter().map(|error| (error.kind.to_owned(), error.n));
    let named = |error: &ErrorCount| format!("{}_{}", error.operation.name(), error.kind);
    let last_errors = errors.iter().map(|error| (named(error), error.last.clone())).collect();
    let errors = errors.into_iter().map(|error| (named(error), error.n));
    TierCounters {
        bytes_read: counts.bytes_read,
        bytes_written: counts.bytes_written,
        evictions: counts.evictions,
        latency: latency.collect(),
        misses: by_reason(&counts.misses),
        errors: errors.collect(),
        last_errors,
        refused: refused.collect(),
        dropped: by_reason(&counts.drops),
        skipped: not_zero([("reading", counts.reading.skipped), ("writing", counts.writing.skipped)]),
        events: not_zero([
            ("lane_restarted", counts.lane_restarts),
            ("reading_breaker_opened", counts.reading.opened),
            ("writing_breaker_opened", counts.writing.opened),
        ]),
        last_causes: BTreeMap::new(),
    }
}

fn not_zero<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}

/// Returns the last failure of each direction of a backend, and the reason of its last new lane.
fn last_causes(backend: &BackendStatus) -> BTreeMap<String, String> {
    let causes = [
        ("lanes", &backend.health.last_restart),
        ("reading", &backend.reading.last_cause),
        ("writing", &backend.writing.last_cause),
    ];
    causes.into_iter().filter_map(|(what, cause)| Some((what.to_owned(), cause.clone()?))).collect()
}
