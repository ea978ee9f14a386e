//! Removing chunks and emptying tiers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;

use super::{CPU_TIER, StorageManager, TierIndex, Tiers};
use crate::cpu::Cleared;
use crate::key::ChunkKey;
use crate::metrics::Operation;
use crate::runtime::unbudgeted;
use crate::tier::TierError;

impl StorageManager {
    /// Removes `keys` from the chosen tiers, pinned or not, and returns how many were present, summed over the tiers.
    /// Cancels their queued puts and waits for those in flight. A backend whose breaker of writing is open gets the
    /// removal in the background and does not serve these keys before it has answered; the caller gets an error.
    ///
    /// # Cancellation
    /// The removal continues: the backends must forget the pins that were forgotten here.
    ///
    /// # Errors
    /// The error of the first tier that failed. The other tiers have also been asked.
    pub async fn remove(&self, keys: &[ChunkKey], tiers: &Tiers) -> Result<usize, RemoveError> {
        let deadline = self.deadline();
        let started = Instant::now();
        let mut n_removed = 0;
        self.forget_pins(keys, tiers);
        if tiers.includes(CPU_TIER) {
            n_removed += self.0.cpu.remove(keys);
            self.0.cpu_metrics.took(Operation::Remove, started.elapsed());
        }
        // Also from bypassed tiers: a removed chunk must not come back.
        let chosen: Vec<_> =
            self.0.backends.iter().filter(|backend| tiers.includes(&backend.name)).cloned().collect();
        if let Some(first) = chosen.first()
            && self.is_forked_child()
        {
            return Err(RemoveError { tier: first.name.clone(), n_removed, error: TierError::Forked });
        }
        // Collected, because a future that holds the iterator would not be `Send` in every caller's eyes.
        let removals: Vec<_> = chosen
            .into_iter()
            .map(|backend| {
                // Before anything is awaited: no queued put may start now.
                let cancelled = backend.cancel_puts(Some(keys));
                let (removed, keys) = (Arc::clone(&backend), Arc::<[ChunkKey]>::from(keys));
                let removal = async move { removed.remove(&keys, cancelled, deadline).await };
                let removing = self.0.control.handle().spawn(removal);
                async move { (backend, removing.await) }
            })
            .collect();
        let mut failed = None;
        for (backend, outcome) in unbudgeted(join_all(removals)).await {
            // Later operations must not join calls that began before this returns.
            backend.invalidate_in_flight(Some(keys));
            let outcome = outcome.unwrap_or_else(|_| Err(TierError::Down("the engine is closed".into())));
            match outcome {
                Ok(n) => n_removed += n,
                Err(error) => {
                    failed.get_or_insert(RemoveError { tier: backend.name.clone(), n_removed: 0, error });
                }
            }
        }
        match failed {
            None => Ok(n_removed),
            Some(failed) => Err(RemoveError { n_removed, ..failed }),
        }
    }

    /// Removes `keys` from the ledger, before the tiers drop their pins.
    fn forget_pins(&self, keys: &[ChunkKey], tiers: &Tiers) {
        let mut ledger = self.ledger();
        if ledger.len() > 0 {
            let keys: HashSet<ChunkKey> = keys.iter().copied().collect();
            for (index, name) in self.tier_names().into_iter().enumerate() {
                if tiers.includes(name) {
                    ledger.forget(TierIndex(index), Some(&keys));
                }
            }
        }
    }

    /// Empties the chosen tiers as far as possible. The CPU tier drops the chunks that are neither pinned nor being
    /// read; a backend drops its queued puts. Waits for puts in flight.
    pub async fn clear(&self, tiers: &Tiers) -> ClearReport {
        let deadline = self.deadline();
        let mut report = ClearReport::default();
        let chosen = self.0.backends.iter().filter(|backend| tiers.includes(&backend.name));
        let cancelled: Vec<_> = chosen.map(|backend| (backend, backend.cancel_puts(None))).collect();
        for (backend, cancelled) in cancelled {
            report.puts_cancelled += cancelled.n_chunks;
            report.skipped.push(backend.name.clone());
            unbudgeted(backend.drained(Some(&cancelled.in_flight), deadline)).await;
            backend.invalidate_in_flight(None);
        }
        // Last, because chunks that wait to be stored, or are being stored, count as being read.
        if tiers.includes(CPU_TIER) {
            report.cpu = self.0.cpu.clear();
        }
        report
    }
}

/// The result of [`StorageManager::clear`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClearReport {
    /// The chunks that left the CPU tier.
    pub cpu: Cleared,
    /// Queued puts that were cancelled, over all backends.
    pub puts_cancelled: usize,
    /// Backends that keep their stored chunks, because the contract has no `clear`.
    pub skipped: Vec<String>,
}

/// A tier failed to remove chunks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tier `{tier}` could not remove: {error}; {n_removed} were removed elsewhere")]
#[non_exhaustive]
pub struct RemoveError {
    /// The tier.
    pub tier: String,
    /// Chunks removed from the other tiers.
    pub n_removed: usize,
    /// Its error.
    #[source]
    pub error: TierError,
}
