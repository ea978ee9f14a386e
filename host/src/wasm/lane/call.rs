//! One call of a method: what it asks, what it is lent, what it answered.

use std::sync::Arc;

use super::generation::{Reply, Ticket};
use crate::key::ChunkKey;
use crate::tier::{Pinning, TierError};
use crate::transfer::{Sinks, Sources};

/// One call of a method.
pub(in crate::wasm) enum Call {
    Contains(Arc<[ChunkKey]>, Pinning),
    Present(Arc<[ChunkKey]>),
    Put(Arc<[ChunkKey]>, Sources),
    Get(Arc<[ChunkKey]>, Sinks),
    Pin(Arc<[ChunkKey]>),
    Unpin(Arc<[ChunkKey]>),
    Remove(Arc<[ChunkKey]>),
    Close,
}

impl Call {
    /// The memory lent to the call, to be revoked when its caller leaves.
    pub(super) fn lent(&self) -> LentMemory {
        match self {
            Self::Put(_, sources) => LentMemory::Sources(sources.clone()),
            Self::Get(_, sinks) => LentMemory::Sinks(sinks.clone()),
            _ => LentMemory::Nothing,
        }
    }
}

pub(super) enum LentMemory {
    Nothing,
    Sources(Sources),
    Sinks(Sinks),
}

/// What a method answered.
#[derive(Debug)]
pub(in crate::wasm) enum Answer {
    Done,
    Count(u32),
    /// As many as keys.
    Present(Vec<bool>),
    /// As many results as keys, as with `Get`.
    Put(Vec<Result<(), TierError>>),
    Get(Vec<Result<Option<u64>, TierError>>),
}

pub(super) struct Job {
    pub(super) call: Call,
    pub(super) reply: Reply,
    pub(super) ticket: Arc<Ticket>,
}
