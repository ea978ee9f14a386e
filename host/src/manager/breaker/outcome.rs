//! What one call shows about its tier.

use crate::tier::TierError;

/// What one call shows about its tier, in the direction of the call. In contrast, [`TierHealth`] is a tier's own
/// report.
///
/// [`TierHealth`]: crate::tier::TierHealth
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::manager) enum CallOutcome {
    /// The tier works: it did what was requested.
    Worked,
    /// The tier works, but it answered with a miss or a refusal.
    Declined,
    /// The tier failed, for this cause.
    Failed(String),
    /// The call did not reach the tier, or no caller waited for its answer.
    Unknown,
}

impl CallOutcome {
    /// Returns what the result of a call shows.
    pub(in crate::manager) fn of<T>(result: &Result<T, TierError>) -> Self {
        match result {
            Ok(_) => Self::Worked,
            Err(error) => Self::of_error(error),
        }
    }

    pub(in crate::manager) fn of_error(error: &TierError) -> Self {
        match error {
            TierError::NoSpace | TierError::InvalidArgument(_) | TierError::Unsupported => Self::Declined,
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
            | TierError::Other(_) => Self::Failed(error.to_string()),
        }
    }

    /// Returns what the chunks of one call show together. One moved chunk clears the tier, so that a damaged chunk
    /// among good ones does not count. A miss or a refusal does not clear it of failures with other chunks.
    pub(in crate::manager) fn of_chunks(outcomes: impl IntoIterator<Item = Self>) -> Self {
        let mut whole = Self::Unknown;
        for outcome in outcomes {
            match outcome {
                Self::Worked => return Self::Worked,
                Self::Failed(_) if !matches!(whole, Self::Failed(_)) => whole = outcome,
                Self::Declined if whole == Self::Unknown => whole = outcome,
                Self::Failed(_) | Self::Declined | Self::Unknown => {}
            }
        }
        whole
    }
}
