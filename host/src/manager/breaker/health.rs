//! The health of a tier, as one call shows it.

use crate::tier::TierError;

/// The health of a tier in one direction, as one call shows it. In contrast, [`TierHealth`] is a tier's own report.
///
/// [`TierHealth`]: crate::tier::TierHealth
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::manager) enum Health {
    /// The tier works: it did the work.
    Works,
    /// The tier works, but it answered with a miss or a refusal.
    Declines,
    /// The tier fails, for this cause.
    Fails(String),
    /// The call did not reach the tier, or no caller waited for its answer.
    Unknown,
}

impl Health {
    /// Returns the health that an outcome shows.
    pub(in crate::manager) fn of<T>(outcome: &Result<T, TierError>) -> Self {
        match outcome {
            Ok(_) => Self::Works,
            Err(error) => Self::of_error(error),
        }
    }

    pub(in crate::manager) fn of_error(error: &TierError) -> Self {
        match error {
            TierError::NoSpace | TierError::InvalidArgument(_) | TierError::Unsupported => Self::Declines,
            // It got no time to answer.
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

    /// Returns the health that the chunks of one call show. One moved chunk clears the tier, so that a damaged chunk
    /// among good ones does not count. A miss or a refusal does not clear it of failures with other chunks.
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
