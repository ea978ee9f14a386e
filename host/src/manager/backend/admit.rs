//! The one door of every operation on a backend: its breaker and the removals that it is still owed.

use std::sync::Arc;

use super::Backend;
use crate::key::ChunkKey;
use crate::manager::breaker::{Direction, Permit};

impl Backend {
    /// Lets an operation on `keys` go to the tier, unless the direction's breaker or an owed removal stands against it.
    pub(in crate::manager) fn admit(
        self: &Arc<Self>,
        direction: Direction,
        keys: impl IntoIterator<Item = ChunkKey>,
    ) -> Option<Permit<'_>> {
        let breaker = self.breakers.of(direction);
        let permit = breaker.admit()?;
        if self.owed.len() == 0 {
            return Some(permit);
        }
        if self.owed.concerns(keys) {
            // If it is the probe, its place goes to the delivery.
            drop(permit);
            breaker.skip();
            self.settle_removals_later();
            return None;
        }
        self.settle_removals_later();
        Some(permit)
    }
}
