//! The state of every tier, and what it has counted.

use super::{BreakerStatus, CPU_TIER, StorageManager};
use crate::cpu::CpuStats;
use crate::metrics::{self, TierCounts};
use crate::tier::TierHealth;

impl StorageManager {
    /// Says how every tier is.
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

    /// Returns what every tier has counted, in the chain's order.
    pub fn counts(&self) -> Vec<TierCounts> {
        let mut cpu = self.0.cpu_metrics.snapshot(CPU_TIER);
        cpu.evictions = self.0.cpu.stats().evictions.pressure;
        let backends = self.0.backends.iter().map(|backend| {
            let mut counts = backend.metrics.snapshot(&backend.name);
            let health = backend.tier().health();
            counts.lane_restarts = health.lane_restarts;
            counts.guest_memory_bytes = health.guest_memory_bytes;
            counts.host_memory_bytes = health.host_memory_bytes;
            counts.is_up = health.down.is_none();
            counts.reading = backend.breakers.reading.status().counts();
            counts.writing = backend.breakers.writing.status().counts();
            counts
        });
        std::iter::once(cpu).chain(backends).collect()
    }

    /// Returns all counters and latencies as Prometheus text.
    pub fn metrics(&self) -> String {
        metrics::prometheus(self.counts())
    }
}

/// How a chain is.
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

/// How a backend is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Whether it is taken out of the chain.
    pub bypassed: bool,
    /// Chunks queued or being stored.
    pub puts_pending: usize,
    /// Memory that they hold, in bytes.
    pub put_bytes_pending: usize,
    /// Keys that lookups hold.
    pub pinned_keys: usize,
    /// Chunks that it is still to be told to remove. It serves nothing until it has been.
    pub removals_owed: usize,
    /// Whether it is passed over by lookups and retrievals because `contains`, `get`, `pin` or `unpin` fail.
    pub reading: BreakerStatus,
    /// Whether it is passed over by stores because `put` or `remove` fail.
    pub writing: BreakerStatus,
    /// What the tier says of itself.
    pub health: TierHealth,
}
