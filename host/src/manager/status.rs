//! The state and the counts of every tier.

use super::{BreakerStatus, CPU_TIER, StorageManager};
use crate::cpu::CpuStats;
use crate::metrics::{self, TierCounts, TierReport};
use crate::tier::TierHealth;

impl StorageManager {
    /// Returns the state of every tier.
    pub fn status(&self) -> Status {
        let backends = self.0.backends.iter().map(|backend| {
            let (puts_pending, put_bytes_pending) = backend.queue.pending();
            BackendStatus {
                name: backend.name.clone(),
                bypassed: backend.is_bypassed(),
                puts_pending,
                put_bytes_pending,
                pinned_keys: backend.n_pinned(),
                removals_owed: backend.owed.len(),
                reading: backend.breakers.reading.status(),
                writing: backend.breakers.writing.status(),
                health: backend.tier().health(),
            }
        });
        Status {
            hot_cache: self.0.cpu.is_hot(),
            cpu: self.0.cpu.stats(),
            lookups_pinned: self.ledger().len(),
            backends: backends.collect(),
        }
    }

    /// Returns the counts of every tier, in the chain's order.
    pub fn counts(&self) -> Vec<TierCounts> {
        let evictions = self.0.cpu.stats().evictions.pressure;
        let cpu = self.0.cpu_metrics.snapshot(CPU_TIER, &TierReport::of_cpu(evictions));
        let backends = self.0.backends.iter().map(|backend| {
            let health = backend.tier().health();
            let report = TierReport {
                // The contract has no report of evictions.
                evictions: 0,
                lane_restarts: health.lane_restarts,
                guest_memory_bytes: health.guest_memory_bytes,
                host_memory_bytes: health.host_memory_bytes,
                is_up: health.down.is_none(),
                reading: backend.breakers.reading.status().counts(),
                writing: backend.breakers.writing.status().counts(),
            };
            backend.metrics.snapshot(&backend.name, &report)
        });
        std::iter::once(cpu).chain(backends).collect()
    }

    /// Returns all counters and latencies as Prometheus text.
    pub fn metrics(&self) -> String {
        metrics::prometheus(self.counts())
    }
}

/// The state of a chain.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Whether the CPU tier keeps chunks.
    pub hot_cache: bool,
    /// The CPU tier's state.
    pub cpu: CpuStats,
    /// Lookups that hold pins.
    pub lookups_pinned: usize,
    /// The backends in the chain's order.
    pub backends: Vec<BackendStatus>,
}

/// The state of a backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackendStatus {
    /// The backend's name.
    pub name: String,
    /// Whether it is taken out of the chain.
    pub bypassed: bool,
    /// Chunks queued or being stored.
    pub puts_pending: usize,
    /// The memory that they hold, in bytes.
    pub put_bytes_pending: usize,
    /// Keys that lookups have pinned.
    pub pinned_keys: usize,
    /// Removals that the backend still has to be asked for. It does not serve these chunks before.
    pub removals_owed: usize,
    /// Whether lookups and retrievals skip it because `contains`, `get`, `pin` or `unpin` fail.
    pub reading: BreakerStatus,
    /// Whether stores skip it because `put` or `remove` fail.
    pub writing: BreakerStatus,
    /// The tier's own report.
    pub health: TierHealth,
}
