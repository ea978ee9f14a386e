//! The error of a replay that got wrong bytes.

use std::fmt;

use kvtier::ChunkKey;

use crate::content::Mismatch;

/// A tier served bytes that are not the chunk's. Later results cannot be trusted, so the replay ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongBytes {
    /// The tier's name.
    pub tier: String,
    /// The chunk.
    pub key: ChunkKey,
    /// The number of the request, from 1.
    pub request: u64,
    /// The chunk's position in the request.
    pub chunk_index: usize,
    /// The fault.
    pub fault: Fault,
}

/// A fault of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The length is wrong, in bytes.
    Length {
        /// The length of a chunk.
        expected: usize,
        /// The length that was served.
        found: usize,
    },
    /// A byte is wrong.
    Content(Mismatch),
}

impl fmt::Display for WrongBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tier, key, request, chunk_index, .. } = self;
        write!(
            f,
            "tier `{tier}` served wrong bytes for chunk {key} (request {request}, chunk {chunk_index}): "
        )?;
        match self.fault {
            Fault::Length { expected, found } => write!(f, "{found} bytes instead of {expected}"),
            Fault::Content(mismatch) => write!(f, "{mismatch}"),
        }
    }
}

impl std::error::Error for WrongBytes {}
