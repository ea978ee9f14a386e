//! Presence of each key by itself, also behind gaps.

use std::time::Instant;

use super::{CPU_TIER, StorageManager, Tiers};
use crate::key::ChunkKey;
use crate::metrics::Operation;
use crate::runtime::unbudgeted;

impl StorageManager {
    /// Returns for each of `keys`, in order, whether any of the chosen tiers has it. Unlike
    /// [`StorageManager::contains`], it does not stop at a gap: for engines whose chunks do not form prefixes. It pins
    /// nothing, and counts as no use.
    ///
    /// A backend without the optional method `present` is asked by lookups, each of which ends at a gap: with one call
    /// behind each gap, up to 64 calls. What they do not reach counts as absent, as does everything in a backend that
    /// fails or does not answer in time.
    ///
    /// Cost: one hash lookup per key in the CPU tier, and for each backend one call, or one for each gap.
    pub async fn contains_each(&self, keys: &[ChunkKey], tiers: &Tiers) -> Vec<bool> {
        let deadline = Instant::now() + self.0.options.lookup_timeout;
        let mut present = Vec::with_capacity(keys.len());
        if tiers.includes(CPU_TIER) {
            let started = Instant::now();
            self.0.cpu.contains_each(keys, &mut present);
            self.0.cpu_metrics.took(Operation::Contains, started.elapsed());
        }
        present.resize(keys.len(), false);
        let backends: Vec<_> = self.backends(tiers).map(|(_, backend)| backend).collect();
        for (position, backend) in backends.iter().enumerate() {
            let absent: Vec<usize> = (0..keys.len()).filter(|&index| !present[index]).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if absent.is_empty() || left.is_zero() {
                break;
            }
            if !backend.breakers.reading.is_ready() {
                backend.breakers.reading.skip();
                continue;
            }
            let behind = backends[position + 1..].iter();
            let n_behind = behind.filter(|backend| backend.breakers.reading.is_ready()).count() as u32;
            // A tier that hangs uses no more time than it leaves to each tier after it.
            let deadline = Instant::now() + left / (n_behind + 1);
            let asked: Vec<ChunkKey> = absent.iter().map(|&index| keys[index]).collect();
            let found = unbudgeted(backend.present(&asked, deadline)).await;
            for (index, is_present) in absent.into_iter().zip(found) {
                present[index] = is_present;
            }
        }
        present
    }
}
