//! What is kept of a chunk: its bytes, and what is known beside them.

use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use once_cell::race::OnceBox;

use crate::integrity::Trailer;
use crate::memory::BufferMut;

/// What a record keeps for a chunk.
pub(super) struct Content {
    pub(super) buffer: BufferMut,
    /// Only chunks that backends are given have any.
    pub(super) notes: OnceBox<Notes>,
}

/// What is known of a chunk beside its bytes.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) trailer: OnceLock<Trailer>,
    pub(super) holders: Mutex<Holders>,
}

/// The backends that are known to have a chunk: a bit for each, valid for one generation of the chain's
/// removals.
#[derive(Default)]
pub(super) struct Holders {
    pub(super) generation: u64,
    pub(super) backends: u64,
    /// When the first of them was noted: a backend may evict, and says nothing.
    pub(super) since: Option<Instant>,
}

/// How large a chunk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) payload_bytes: usize,
    /// Rounded up by the provider.
    pub(crate) footprint_bytes: usize,
}

impl Content {
    pub(super) fn notes(&self) -> &Notes {
        self.notes.get_or_init(Box::default)
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes { payload_bytes: self.buffer.len(), footprint_bytes: self.buffer.footprint_bytes() }
    }
}
