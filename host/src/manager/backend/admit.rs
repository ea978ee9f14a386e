//! The entry of every operation on a backend: its breaker, and the removals that it still owes.

use std::sync::Arc;

use super::Backend;
use crate::key::ChunkKey;
use crate::manager::breaker::{Direction, Permit};

impl Backend {
    /// Admits an operation on `keys`, unless the breaker of its direction or an owed removal prevents it.
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
            // If this is the probe, the delivery becomes the probe.
            drop(permit);
            breaker.skip();
            self.deliver_removals_later();
            return None;
        }
        self.deliver_removals_later();
        Some(permit)
    }
}
