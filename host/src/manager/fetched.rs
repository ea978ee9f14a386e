//! What becomes of a chunk that a tier was asked for.
//!
//! Invariant: [`accept`] is the only place where a backend's bytes become a [`Chunk`].

use super::breaker::Health;
use crate::chunk::Chunk;
use crate::integrity::Flaw;
use crate::tier::TierError;
use crate::transfer::Sink;

/// Why a chunk was not served by a tier that was asked for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Miss {
    /// The tier does not have it.
    #[error("not found")]
    NotFound,
    /// The tier could not tell.
    #[error(transparent)]
    Error(TierError),
    /// The tier wrote fewer bytes than the chunk has, or claims a number that it did not write.
    #[error("{claimed} bytes claimed of a chunk of {expected}, or not all of them written")]
    WrongLength {
        /// What the tier says it wrote.
        claimed: u64,
        /// The chunk's size with its trailer.
        expected: u64,
    },
    /// What came back is not the chunk.
    #[error(transparent)]
    Flaw(Flaw),
    /// The tier's own lookup had promised it, and the retrieval has not got one chunk from the tier.
    #[error("promised by the tier's own lookup, and nothing was delivered")]
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
            Self::Flaw(flaw) => flaw.name(),
            Self::PhantomHit => "phantom_hit",
            Self::NoMemory => "no_memory",
        }
    }
}

/// What became of one chunk's fetch: the chunk, or the reason why not. The buffer has gone back then, or does when the
/// transfer ends that still runs in it.
pub(super) type Fetched = Result<Chunk, Miss>;

/// Judges a tier by one chunk that it was asked for.
pub(super) fn health(fetched: &Fetched) -> Health {
    match fetched {
        Ok(_) => Health::Works,
        Err(miss) => miss.health(),
    }
}

impl Miss {
    fn health(&self) -> Health {
        match self {
            Self::NotFound => Health::Declines,
            Self::Error(error) => Health::of_error(error),
            // Whoever changes `kvtier.integrity_key` finds all that was stored before to be so: not the tier's fault.
            Self::Flaw(Flaw::OtherAlgorithm) | Self::NoMemory => Health::Unknown,
            Self::Flaw(_) | Self::WrongLength { .. } | Self::PhantomHit => Health::Fails(self.to_string()),
        }
    }

    /// Reports whether the tier has answered that it does not deliver the chunk, be it as a miss or as a refusal.
    pub(super) fn is_declined(&self) -> bool {
        self.health() == Health::Declines
    }
}

/// Accepts what came back as a chunk, or says why not.
pub(super) fn accept(answer: Result<Option<u64>, TierError>, sink: Option<Sink>) -> Fetched {
    let Some(mut sink) = sink else {
        return Err(match answer {
            Err(error) => Miss::Error(error),
            Ok(_) => Miss::Error(TierError::BadAnswer("answered while a transfer was running".into())),
        });
    };
    let expected = sink.capacity() as u64;
    Err(match answer {
        Ok(Some(claimed)) if claimed == expected && sink.is_full() => match sink.check() {
            Ok(()) => {
                let (writer, trailer) = sink.into_parts();
                let chunk = writer.freeze();
                chunk.trailer_or_seal(|_| trailer);
                return Ok(chunk);
            }
            Err(flaw) => Miss::Flaw(flaw),
        },
        Ok(Some(claimed)) => Miss::WrongLength { claimed, expected },
        Ok(None) => Miss::NotFound,
        Err(error) => Miss::Error(error),
    })
}
