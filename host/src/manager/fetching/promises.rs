//! Chunks that the tier's own lookup has promised.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::key::ChunkKey;
use crate::limits::PROMISE_AGE_MAX;
use crate::manager::backend::Backend;
use crate::manager::{Lookup, StorageManager, TierIndex};

/// The lookup whose result a tier is held to.
pub(super) struct Promises<'a> {
    pub(super) manager: &'a StorageManager,
    pub(super) backend: &'a Arc<Backend>,
    pub(super) tier: TierIndex,
    pub(super) plan: &'a Lookup,
}

impl Promises<'_> {
    /// Reports whether the tier is bound by its own lookup to deliver a chunk: the lookup promised it, was made a
    /// moment ago or has pinned it, and nothing was removed since.
    pub(super) fn bind(&self, index: usize, key: ChunkKey) -> bool {
        let Some(stamp) = self.plan.stamp else { return false };
        let manager = &self.manager.0;
        let age = manager.options.clock.now().saturating_sub(stamp.at);
        self.plan.tier_of(index) == Some(self.tier)
            && manager.removal_generation.load(Ordering::Acquire) == stamp.removal_generation
            && (age <= PROMISE_AGE_MAX || self.backend.protects(key))
    }
}
