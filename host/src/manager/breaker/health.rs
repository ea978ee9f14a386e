//! What a call says of its tier.

use crate::tier::TierError;

/// What a call says of its tier, in the direction of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::manager) enum Health {
    /// The tier works: it did what was asked.
    Works,
    /// The tier works: it answered, though with a miss or a refusal.
    Declines,
    /// The tier is broken, for this cause.
    Fails(String),
    /// Nothing: the call did not reach the tier, or nobody waited for its answer.
    Unknown,
}

impl Health {
    /// Judges a call by its outcome.
    pub(in crate::manager) fn of<T>(outcome: &Result<T, TierError>) -> Self {
        match outcome {
            Ok(_) => Self::Works,
            Err(error) => Self::of_error(error),
        }
    }

    pub(in crate::manager) fn of_error(error: &TierError) -> Self {
        match error {
            TierError::NoSpace | TierError::InvalidArgument(_) | TierError::Unsupported => Self::Declines,
            // No time was left to answer in.
            TierError::Timeout(given) if given.is_zero() => Self::Unknown,
            TierError::Busy | TierError::BreakerOpen | TierError::Forked => Self::Unknown,
            TierError::Timeout(_)
            | TierError::Lost(_)
            | TierError::Trap(_)
            | TierError::Down(_)
            | TierError::BadAnswer(_)
            | TierError::Unavailable(_)
            | TierError::InvalidConfig(_)
            | TierError::Corrupt(_)
            | TierError::Other(_) => Self::Fails(error.to_string()),
        }
    }

    /// Judges a call by those of its chunks. One that was moved clears the tier, so that one damaged chunk among good
    /// ones says nothing of it. A miss or a refusal clears no tier of what it failed at for other chunks.
    pub(in crate::manager) fn of_chunks(healths: impl IntoIterator<Item = Self>) -> Self {
        let mut whole = Self::Unknown;
        for health in healths {
            match health {
                Self::Works => return Self::Works,
                Self::Fails(_) if !matches!(whole, Self::Fails(_)) => whole = health,
                Self::Declines if whole == Self::Unknown => whole = health,
                Self::Fails(_) | Self::Declines | Self::Unknown => {}
            }
        }
        whole
    }
}
