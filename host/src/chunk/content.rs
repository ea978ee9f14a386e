//! The content of a chunk: its bytes, and what is known about them.

use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use once_cell::race::OnceBox;

use crate::integrity::Trailer;
use crate::memory::BufferMut;

/// The content of a chunk.
pub(super) struct Content {
    pub(super) buffer: BufferMut,
    /// Only chunks that are offered to backends have notes.
    pub(super) notes: OnceBox<Notes>,
}

/// What is known about a chunk's bytes.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) trailer: OnceLock<Trailer>,
    pub(super) known_backends: Mutex<KnownBackends>,
}

/// The backends that are known to have a chunk: one bit each, valid for one generation of the chain's removals.
#[derive(Default)]
pub(super) struct KnownBackends {
    pub(super) generation: u64,
    pub(super) backends: u64,
    /// When the first of them was noted. A backend may evict the chunk without notice.
    pub(super) since: Option<Instant>,
}

/// A chunk's sizes in bytes.
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
