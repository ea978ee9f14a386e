//! Pins of one backend: how many lookups have pinned each key. The tier is notified of the first and the last.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::{Backend, within};
use crate::key::ChunkKey;
use crate::manager::breaker::CallOutcome;
use crate::metrics::Operation;
use crate::sync::lock;
use crate::tier::{Pinning, TierError};

impl Backend {
    async fn count(&self, keys: &[ChunkKey], deadline: Instant) -> Result<usize, TierError> {
        let tier = self.tier();
        let call =
            async { within("contains", tier.contains(keys.into(), Pinning::None, deadline).await?, keys) };
        self.counted(Operation::Contains, call).await
    }

    /// Counts the leading run and pins it. The tier is asked to pin only the keys that no lookup has pinned yet.
    pub(super) async fn count_and_pin(
        &self,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Result<usize, TierError> {
        let tier = self.tier();
        let is_pinned = |key: &ChunkKey| self.lock_pins().contains_key(key);
        let n_run = if keys.iter().any(is_pinned) {
            let n_present = self.count(keys, deadline).await?;
            let fresh: Vec<usize> = (0..n_present).filter(|&index| !is_pinned(&keys[index])).collect();
            let fresh_keys: Arc<[ChunkKey]> = fresh.iter().map(|&index| keys[index]).collect();
            if fresh.is_empty() {
                n_present
            } else {
                let mut uncertain = UncertainPins { backend: self, keys: Some(Arc::clone(&fresh_keys)) };
                let call = async {
                    match tier.pin(Arc::clone(&fresh_keys), deadline).await {
                        // The tier never evicts, or cannot protect chunks: they count as pinned.
                        Err(TierError::Unsupported) => {
                            self.has_no_pins.store(true, Ordering::Relaxed);
                            Ok(fresh.len())
                        }
                        other => within("pin", other?, &fresh_keys),
                    }
                };
                let n_pinned = self.counted(Operation::Contains, call).await?;
                uncertain.keys = None;
                fresh.get(n_pinned).copied().unwrap_or(n_present)
            }
        } else if self.has_no_pins.load(Ordering::Relaxed) {
            self.count(keys, deadline).await?
        } else {
            let mut uncertain = UncertainPins { backend: self, keys: Some(keys.into()) };
            let call = async {
                match tier.contains(keys.into(), Pinning::Pin, deadline).await {
                    Err(TierError::Unsupported) => Ok(None),
                    other => within("contains", other?, keys).map(Some),
                }
            };
            let n_pinned = self.counted(Operation::Contains, call).await?;
            uncertain.keys = None;
            if let Some(n_pinned) = n_pinned {
                n_pinned
            } else {
                // It never evicts, or cannot protect chunks. It is not asked again.
                self.has_no_pins.store(true, Ordering::Relaxed);
                self.count(keys, deadline).await?
            }
        };
        let mut pins = self.lock_pins();
        for key in &keys[..n_run] {
            *pins.entry(*key).or_default() += 1;
        }
        Ok(n_run)
    }

    /// Releases one pin of each key. The tier is notified of the keys whose last pin this was.
    pub(in crate::manager) async fn unpin(
        &self,
        keys: &[ChunkKey],
        deadline: Instant,
    ) -> Result<(), TierError> {
        let mut free = Vec::new();
        {
            let mut pins = self.lock_pins();
            for key in keys {
                match pins.get_mut(key) {
                    Some(n) if *n > 1 => *n -= 1,
                    Some(_) => {
                        pins.remove(key);
                        free.push(*key);
                    }
                    None => {}
                }
            }
        }
        if free.is_empty() {
            return Ok(());
        }
        let Some(permit) = self.breakers.reading.admit() else {
            // The tier is notified in the background, and no caller waits if that fails.
            self.unpin_later(&free);
            return Ok(());
        };
        let outcome = self.tier().unpin(free.into(), deadline).await;
        self.report(permit, CallOutcome::of(&outcome));
        match outcome {
            Ok(_) => Ok(()),
            Err(TierError::Unsupported) => {
                self.has_no_pins.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn unpin_later(&self, keys: &[ChunkKey]) {
        let pins = self.lock_pins();
        let keys: Arc<[ChunkKey]> = keys.iter().copied().filter(|key| !pins.contains_key(key)).collect();
        drop(pins);
        let tier = self.tier();
        self.control.handle().spawn(async move {
            let deadline = Instant::now() + tier.call_limit(0);
            if let Err(error) = tier.unpin(keys, deadline).await {
                tracing::debug!(%error, "unpin after a failed lookup failed");
            }
        });
    }

    pub(super) fn lock_pins(&self) -> MutexGuard<'_, HashMap<ChunkKey, u32>> {
        lock(&self.pins)
    }

    /// Reports whether the tier must keep a chunk, because a lookup has pinned it.
    pub(in crate::manager) fn protects(&self, key: ChunkKey) -> bool {
        !self.has_no_pins.load(Ordering::Relaxed) && self.lock_pins().contains_key(&key)
    }

    pub(in crate::manager) fn n_pinned(&self) -> usize {
        self.lock_pins().len()
    }
}

/// Pins that a call may have taken although it failed or its caller has left. Dropping it releases them.
struct UncertainPins<'a> {
    backend: &'a Backend,
    /// Removed when the call has answered.
    keys: Option<Arc<[ChunkKey]>>,
}

impl Drop for UncertainPins<'_> {
    fn drop(&mut self) {
        if let Some(keys) = self.keys.take() {
            self.backend.unpin_later(&keys);
        }
    }
}
