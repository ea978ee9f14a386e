//! Retrieving chunks: each from the first tier that has it, verified, promoted.

use std::collections::HashSet;
use std::time::Instant;

use super::fetching::{ChunkToFetch, Fetching};
use super::flights::Subscription;
use super::{CPU_TIER, Lookup, Miss, StorageManager, TierIndex, Tiers};
use crate::chunk::Chunk;
use crate::key::{ChunkKey, ChunkSpec};
use crate::metrics::Operation;
use crate::runtime::unbudgeted;

/// The leading run of chunks that could be served.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Retrieved {
    /// The chunks, from the first key on, without a gap.
    pub chunks: Vec<Chunk>,
    /// The tier that served each.
    pub tiers: Vec<TierIndex>,
    /// Chunks that a tier was asked for and did not serve. Another tier may have served them.
    pub misses: Vec<MissedChunk>,
}

/// A chunk that a tier was asked for and did not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissedChunk {
    /// Its position in the request.
    pub position: usize,
    /// The tier.
    pub tier: TierIndex,
    /// The reason why the tier did not serve it.
    pub miss: Miss,
}

impl StorageManager {
    /// Retrieves `chunks` up to the first gap, each from the first of the chosen tiers that has it and delivers the
    /// right bytes. Chunks from a backend are verified, and promoted into the CPU tier if its hot cache is on. Chunks
    /// of the CPU tier are not copied.
    ///
    /// `plan` is the result of a lookup of the same keys. Without one, the backends are asked which chunks they have.
    ///
    /// # Cancellation
    /// Buffers that backends are filling are released when the last transfer into them ends.
    pub async fn get(&self, chunks: &[ChunkSpec], tiers: &Tiers, plan: Option<&Lookup>) -> Retrieved {
        let mut retrieved = Retrieved::default();
        let keys: Vec<ChunkKey> = chunks.iter().map(|chunk| chunk.key).collect();
        let mut found: Vec<Option<Chunk>> = Vec::with_capacity(keys.len());
        if tiers.includes(CPU_TIER) {
            let started = Instant::now();
            self.0.cpu.get(&keys, &mut found);
            self.0.cpu_metrics.took(Operation::Get, started.elapsed());
        }
        found.resize(keys.len(), None);
        let in_cpu: Vec<bool> = found.iter().map(Option::is_some).collect();
        if tiers.includes(CPU_TIER) {
            let n_absent = in_cpu.iter().filter(|present| !**present).count();
            self.0.cpu_metrics.miss(Miss::NotFound.reason(), n_absent as u64);
        }
        let mut served = vec![TierIndex(0); keys.len()];
        // Kept until the fetched chunks are in the CPU tier: another retrieval finds them there or in their flights.
        let mut subscriptions: Vec<Subscription> = Vec::new();
        let n_cpu = found.iter().take_while(|chunk| chunk.is_some()).count();
        if n_cpu < keys.len() && self.may_have_more(tiers, plan) {
            let (misses, subscriptions) = (&mut retrieved.misses, &mut subscriptions);
            let fetching = self.fetch_missing(
                chunks,
                &keys,
                tiers,
                plan,
                &mut found,
                &mut served,
                misses,
                subscriptions,
            );
            unbudgeted(fetching).await;
        }
        // The result ends at the first gap. Chunks that were fetched after it are released.
        let n_run = found.iter().take_while(|chunk| chunk.is_some()).count();
        retrieved.chunks = found.into_iter().take(n_run).flatten().collect();
        served.truncate(n_run);
        let from_cpu = served.iter().zip(&retrieved.chunks).filter(|(tier, _)| tier.0 == 0);
        let (n_hits, n_bytes) =
            from_cpu.fold((0, 0), |(n, bytes), (_, chunk)| (n + 1, bytes + chunk.len() as u64));
        self.0.cpu_metrics.hit(n_hits, n_bytes);
        if (n_hits as usize) < n_run {
            // A chunk that a removal has overtaken must not come back through the CPU tier.
            let stale: HashSet<usize> = subscriptions.iter().filter_map(Subscription::is_stale).collect();
            let fetched = retrieved.chunks.iter().enumerate().filter(|(index, _)| !in_cpu[*index]);
            let promoted = fetched.filter(|(index, _)| !stale.contains(index));
            let promoted: Vec<Chunk> = promoted.map(|(_, chunk)| chunk.clone()).collect();
            self.put_in_cpu(&promoted, Instant::now());
            self.0.cpu.refresh(&keys[..n_run]);
        }
        retrieved.tiers = served;
        retrieved
    }

    /// Reports whether any backend can be asked. With a plan, a skipped backend counts too: its misses need a reason.
    fn may_have_more(&self, tiers: &Tiers, plan: Option<&Lookup>) -> bool {
        let may =
            self.backends(tiers).any(|(_, backend)| plan.is_some() || backend.breakers.reading.is_ready());
        if !may {
            self.backends(tiers).for_each(|(_, backend)| backend.breakers.reading.skip());
        }
        may
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `get`, on its state")]
    async fn fetch_missing(
        &self,
        chunks: &[ChunkSpec],
        keys: &[ChunkKey],
        tiers: &Tiers,
        plan: Option<&Lookup>,
        found: &mut [Option<Chunk>],
        served: &mut [TierIndex],
        misses: &mut Vec<MissedChunk>,
        subscriptions: &mut Vec<Subscription>,
    ) {
        let deadline = self.deadline();
        let looked_up;
        let plan = if let Some(plan) = plan {
            plan
        } else {
            looked_up = self.contains(keys, tiers).await;
            &looked_up
        };
        let n_run = plan.n_chunks.min(keys.len());
        let mut to_fetch: Vec<ChunkToFetch> = (0..n_run)
            .filter(|&index| found[index].is_none())
            .map(|index| ChunkToFetch { index, spec: chunks[index], after: None })
            .collect();
        let mut may_be_promoted = tiers.includes(CPU_TIER);
        // Each tier, in order, is asked for the chunks that it should have and for those that others failed to deliver.
        for (tier, backend) in self.backends(tiers) {
            let expected = |chunk: &ChunkToFetch| match plan.tier_of(chunk.index) {
                // The CPU tier has dropped it since the lookup. Any backend may have it.
                Some(TierIndex(0)) | None => true,
                Some(planned) => planned.0 <= tier.0,
            };
            let (here, later): (Vec<_>, Vec<_>) = to_fetch.into_iter().partition(expected);
            to_fetch = later;
            let mut fetching = Fetching::new(self, (tier, backend), plan, &here, deadline);
            if std::mem::take(&mut may_be_promoted) {
                fetching.take_promoted();
            }
            let delivered = fetching.run().await;
            for (index, chunk) in delivered.promoted {
                found[index] = Some(chunk);
            }
            for (index, chunk) in delivered.chunks {
                found[index] = Some(chunk);
                served[index] = tier;
            }
            subscriptions.extend(delivered.subscriptions);
            let at_tier = |(position, miss)| MissedChunk { position, tier, miss };
            misses.extend(delivered.misses.into_iter().map(at_tier));
            if delivered.out_of_memory {
                return;
            }
            to_fetch.extend(delivered.left);
            to_fetch.sort_by_key(|chunk| chunk.index);
        }
    }
}
