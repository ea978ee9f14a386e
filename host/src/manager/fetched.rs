//! The outcome of fetching one chunk from a tier.
//!
//! Invariant: [`accept`] is the only place where a backend's bytes become a [`Chunk`].

use super::breaker::CallOutcome;
use crate::chunk::{Chunk, ChunkWriter};
use crate::integrity::{Flaw, TRAILER_BYTES};
use crate::tier::TierError;
use crate::transfer::Sink;

/// The reason why a tier that was asked for a chunk did not serve it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Miss {
    /// The tier does not have it.
    #[error("not found")]
    NotFound,
    /// The tier failed.
    #[error(transparent)]
    Error(TierError),
    /// The tier claims a number of bytes that it did not write, or that does not end in the chunk's trailer.
    #[error(
        "{claimed} bytes were claimed for a buffer of {expected}; not all of them were written, or they are not the chunk; \
         a backend returns none for a chunk that is absent"
    )]
    WrongLength {
        /// The number of bytes that the tier claims to have written.
        claimed: u64,
        /// The buffer's size in bytes, including the trailer.
        expected: u64,
    },
    /// The tier has a chunk of that key that is larger than the buffer. It stays stored.
    #[error("the stored chunk has {stored} bytes, and the buffer {capacity}")]
    LargerThanBuffer {
        /// The stored chunk's size in bytes, without its trailer, as the tier reports it.
        stored: u64,
        /// The buffer's size in bytes.
        capacity: u64,
    },
    /// The returned bytes are not the chunk.
    #[error(transparent)]
    Flaw(Flaw),
    /// The tier's own lookup had promised it, and the tier has delivered no chunk of the retrieval.
    #[error("promised by the tier's own lookup, but nothing was delivered")]
    PhantomHit,
    /// There was no memory to fetch it into.
    #[error("no memory to fetch it into")]
    NoMemory,
}

impl Miss {
    /// Returns the reason's name in metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Error(error) => error.kind(),
            Self::WrongLength { .. } => "wrong_length",
            Self::LargerThanBuffer { .. } => "larger_than_buffer",
            Self::Flaw(flaw) => flaw.name(),
            Self::PhantomHit => "phantom_hit",
            Self::NoMemory => "no_memory",
        }
    }
}

/// The outcome of fetching one chunk. After a miss the buffer is released, once the last transfer into it has ended.
pub(super) type Fetched = Result<Chunk, Miss>;

/// Returns what the outcome of one chunk shows about its tier.
pub(super) fn call_outcome(fetched: &Fetched) -> CallOutcome {
    match fetched {
        Ok(_) => CallOutcome::Worked,
        Err(miss) => miss.call_outcome(),
    }
}

impl Miss {
    fn call_outcome(&self) -> CallOutcome {
        match self {
            Self::NotFound => CallOutcome::Declined,
            Self::Error(error) => CallOutcome::of_error(error),
            // After a change of `kvtier.integrity_key` all older chunks are like this, which is not the tier's fault.
            // Nor is a request for another size, but the size is only what the tier claims.
            Self::Flaw(Flaw::OtherAlgorithm) | Self::LargerThanBuffer { .. } | Self::NoMemory => {
                CallOutcome::Unknown
            }
            Self::Flaw(_) | Self::WrongLength { .. } | Self::PhantomHit => {
                CallOutcome::Failed(self.to_string())
            }
        }
    }

    /// Reports whether the tier answered that it does not deliver the chunk, with a miss or a refusal.
    pub(super) fn is_declined(&self) -> bool {
        self.call_outcome() == CallOutcome::Declined
    }
}

/// Accepts the bytes that came back as a chunk, or returns why not, and the buffer unless a transfer still has it.
pub(super) fn accept(
    answer: Result<Option<u64>, TierError>,
    sink: Option<Sink>,
) -> (Fetched, Option<ChunkWriter>) {
    let Some(mut sink) = sink else {
        let miss = match answer {
            Err(error) => Miss::Error(error),
            Ok(_) => Miss::Error(TierError::BadAnswer("answered while a transfer was running".into())),
        };
        return (Err(miss), None);
    };
    let expected = sink.capacity() as u64;
    let miss = match answer {
        Ok(Some(claimed)) if sink.end_at(claimed as usize) => match sink.check() {
            Ok(()) => {
                let (writer, trailer) = sink.into_parts();
                let chunk = writer.freeze();
                chunk.trailer_or_seal(|_| trailer);
                return (Ok(chunk), None);
            }
            Err(flaw) => Miss::Flaw(flaw),
        },
        Ok(Some(stored)) if stored > expected => {
            let trailer = TRAILER_BYTES as u64;
            Miss::LargerThanBuffer { stored: stored - trailer, capacity: expected - trailer }
        }
        Ok(Some(claimed)) => Miss::WrongLength { claimed, expected },
        Ok(None) => Miss::NotFound,
        Err(error) => Miss::Error(error),
    };
    (Err(miss), Some(sink.into_writer()))
}
