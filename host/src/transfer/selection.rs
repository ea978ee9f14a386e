//! Some of a call's chunks, by their positions in the call.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

/// The chunks of a call that a handle shows: all, or some in an order of their own. Cloning shares the positions.
#[derive(Clone, Default)]
pub(super) struct Selection(Option<Arc<Positions>>);

struct Positions {
    positions: Box<[u32]>,
    /// The room for the positions in the limit on them.
    _room: OwnedSemaphorePermit,
}

impl Selection {
    /// Returns the number of chunks, of `n_all` in the call.
    pub(super) fn count(&self, n_all: usize) -> usize {
        self.0.as_ref().map_or(n_all, |some| some.positions.len())
    }

    /// Returns where chunk `index` of this selection stands in the call; `None` if there is no such chunk.
    pub(super) fn position(&self, index: usize) -> Option<usize> {
        match &self.0 {
            None => Some(index),
            Some(some) => some.positions.get(index).map(|&position| position as usize),
        }
    }

    /// Returns a selection of this selection's chunks. Indices beyond the last chunk are left out.
    pub(super) fn select(&self, indices: &[u32], room: OwnedSemaphorePermit) -> Self {
        let position = |&index: &u32| self.position(index as usize).map(|position| position as u32);
        Self(Some(Arc::new(Positions {
            positions: indices.iter().filter_map(position).collect(),
            _room: room,
        })))
    }
}
