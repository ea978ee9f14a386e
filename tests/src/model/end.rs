//! The end of a run: everything lent, pinned or queued must be back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kvtier::block_on;

use super::run::{World, lookup_id};
use super::{CHAOS, N_SLOTS, Report, STEADY};

impl World {
    /// Releases everything and closes the chain.
    pub(super) fn finish(mut self) -> Result<Report> {
        for name in [CHAOS, STEADY] {
            self.storage.restore(name)?;
        }
        (0..N_SLOTS).for_each(|slot| block_on(self.storage.unpin(&lookup_id(slot))));
        self.held.clear();
        self.release_kept();
        block_on(self.storage.flush()).context("puts do not end")?;
        // Puts that have just ended may have left work to the backend.
        self.release_kept();

        let storage = self.storage.clone();
        eventually(self.patience, || {
            storage.cpu().clear();
            let status = storage.status();
            let cpu = status.cpu;
            ensure!(cpu.allocated_bytes == 0 && cpu.entries == 0, "memory does not come back: {cpu:?}");
            ensure!(status.lookups_pinned == 0, "{} lookups hold pins", status.lookups_pinned);
            ensure!(cpu.pinned_entries == 0, "{} chunks are pinned", cpu.pinned_entries);
            for backend in &status.backends {
                ensure!(backend.pinned_keys == 0, "`{}`: {} pins", backend.name, backend.pinned_keys);
                ensure!(backend.puts_pending == 0, "`{}`: {} puts", backend.name, backend.puts_pending);
            }
            ensure!(self.steady.n_pinned() == 0, "a backend has {} pins left", self.steady.n_pinned());
            Ok(())
        })?;
        storage.cpu().check()?;

        let mut counts = storage.counts();
        self.report.misses = std::mem::take(&mut counts[1].misses);
        self.report.faults = self.chaos.as_ref().map(|chaos| chaos.faults()).unwrap_or_default();
        if let Err(error) = block_on(storage.close()) {
            let others: Vec<_> = error.failed.iter().filter(|failed| failed.backend != CHAOS).collect();
            ensure!(others.is_empty(), "closing: {others:?}");
        }
        let Self { engine, storage: last, steady, chaos, report, patience, .. } = self;
        drop((engine, storage, last));
        eventually(patience, || {
            let n = Arc::strong_count(&steady) + chaos.as_ref().map_or(1, Arc::strong_count);
            ensure!(n == 2, "{} handles to backends outlive the engine", n - 2);
            Ok(())
        })?;
        Ok(report)
    }
}

/// Waits for an effect in the background that nothing signals.
pub(super) fn eventually(patience: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match check() {
            Err(_) if Instant::now() < deadline => std::thread::park_timeout(Duration::from_micros(100)),
            outcome => return outcome,
        }
    }
}
