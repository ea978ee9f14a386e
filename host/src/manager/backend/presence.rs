//! Presence of each key by itself in one backend.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Backend;
use crate::key::ChunkKey;
use crate::limits::PRESENCE_CALLS_MAX;
use crate::manager::breaker::{CallOutcome, Direction};
use crate::metrics::Operation;
use crate::tier::{Pinning, TierError};

impl Backend {
    /// Returns for each of `keys` whether it is known to be present. What the backend did not tell counts as absent.
    pub(in crate::manager) async fn present(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Vec<bool> {
        if !self.has_no_presence.load(Ordering::Relaxed) {
            match self.ask_presence(keys, deadline).await {
                Ok(present) => return present,
                Err(TierError::Unsupported) => self.has_no_presence.store(true, Ordering::Relaxed),
                Err(_counted) => return vec![false; keys.len()],
            }
        }
        self.present_by_runs(keys, deadline).await
    }

    async fn ask_presence(
        self: &Arc<Self>,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Result<Vec<bool>, TierError> {
        if self.control.is_forked_child() {
            self.metrics.error(Operation::Contains, &TierError::Forked);
            return Err(TierError::Forked);
        }
        let permit = self.admit(Direction::Reading, keys.iter().copied()).ok_or(TierError::BreakerOpen)?;
        let tier = self.tier();
        let started = Instant::now();
        let outcome = match tier.present(keys.into(), deadline).await {
            Ok(present) if present.len() == keys.len() => Ok(present),
            Ok(present) => Err(TierError::wrong_number_of_results("present", present.len(), keys.len())),
            Err(error) => Err(error),
        };
        // A tier without the method was not asked, as far as its metrics are concerned.
        if outcome != Err(TierError::Unsupported) {
            self.metrics.took(Operation::Contains, started.elapsed());
        }
        if let Err(error) = &outcome
            && *error != TierError::Unsupported
        {
            self.metrics.error(Operation::Contains, error);
            tracing::debug!(backend = %self.name, operation = "present", %error, "call failed");
        }
        self.report(permit, CallOutcome::of(&outcome));
        outcome
    }

    /// Asks with lookups: each counts the present keys up to the next gap, and the one after it begins behind the gap.
    async fn present_by_runs(self: &Arc<Self>, keys: &[ChunkKey], deadline: Instant) -> Vec<bool> {
        let mut present = vec![false; keys.len()];
        let mut start = 0;
        for _ in 0..PRESENCE_CALLS_MAX {
            if start >= keys.len() {
                break;
            }
            let Ok(n_run) = self.contains(&keys[start..], Pinning::None, deadline).await else { break };
            present[start..start + n_run].fill(true);
            start += n_run + 1;
        }
        present
    }
}
