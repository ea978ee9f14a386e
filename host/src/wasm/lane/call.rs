//! One call of a method: its arguments, the memory that it is lent, and its answer.

use std::sync::Arc;

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
    /// Returns the name of the method.
    pub(in crate::wasm) const fn method(&self) -> &'static str {
        match self {
            Self::Contains(..) => "contains",
            Self::Present(_) => "present",
            Self::Put(..) => "put",
            Self::Get(..) => "get",
            Self::Pin(_) => "pin",
            Self::Unpin(_) => "unpin",
            Self::Remove(_) => "remove",
            Self::Close => "close",
        }
    }

    /// Returns the memory that is lent to the call, to revoke it when the caller leaves.
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

/// The answer of a method.
#[derive(Debug)]
pub(in crate::wasm) enum Answer {
    Done,
    Count(u32),
    /// One value per key.
    Present(Vec<bool>),
    /// One result per key, as for `Get`.
    Put(Vec<Result<(), TierError>>),
    Get(Vec<Result<Option<u64>, TierError>>),
}
