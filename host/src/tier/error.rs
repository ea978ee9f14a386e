//! Why a call to a tier failed.

use std::time::Duration;

/// The reason why a call to a tier failed. Never means that a chunk is absent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// No answer by the deadline.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The call was inside a lane that was retired.
    #[error("the lane was retired: {0}")]
    Lost(String),
    /// The guest trapped.
    #[error("the guest trapped: {0}")]
    Trap(String),
    /// Too many calls, or too many bytes of calls, are in flight.
    #[error("too many calls or bytes in flight")]
    Busy,
    /// The tier was skipped, because too many of its recent calls in this direction failed.
    #[error("skipped: too many recent calls failed; see `reading` and `writing` in status()")]
    BreakerOpen,
    /// The tier is not running.
    #[error("not running: {0}")]
    Down(String),
    /// The process is a fork of the one that has the tier.
    #[error(
        "unavailable after fork: the backends run in the process that built the engine; call `Engine::abandon` and build another"
    )]
    Forked,
    /// The answer breaks the contract.
    #[error("the answer breaks the contract: {0}")]
    BadAnswer(String),
    /// The store cannot be reached.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The constructor refused its configuration.
    #[error("invalid configuration: {0}")]
    InvalidConfig(String),
    /// An argument was refused.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The store is full.
    #[error("no space left in the store")]
    NoSpace,
    /// Stored bytes are damaged.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The tier does not support the operation.
    #[error("not supported")]
    Unsupported,
    /// Any other error.
    #[error("{0}")]
    Other(String),
}

impl TierError {
    /// Makes the error of a call of `method` that returned another number of results than it got keys.
    pub(crate) fn wrong_number_of_results(method: &str, n_results: usize, n_keys: usize) -> Self {
        Self::BadAnswer(format!(
            "`{method}` returned {n_results} results for {n_keys} keys; return one for each key, in their order"
        ))
    }

    /// Makes the error of a call of `method` that counted more chunks than it got keys.
    pub(crate) fn count_too_large(method: &str, n_chunks: usize, n_keys: usize) -> Self {
        Self::BadAnswer(format!(
            "`{method}` returned a count of {n_chunks} for {n_keys} keys; count no more than the keys of the call"
        ))
    }

    /// Returns the text inside the error, if it has one.
    pub(crate) fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Lost(text)
            | Self::Trap(text)
            | Self::Down(text)
            | Self::BadAnswer(text)
            | Self::Unavailable(text)
            | Self::InvalidConfig(text)
            | Self::InvalidArgument(text)
            | Self::Corrupt(text)
            | Self::Other(text) => Some(text),
            Self::Timeout(_)
            | Self::Busy
            | Self::BreakerOpen
            | Self::Forked
            | Self::NoSpace
            | Self::Unsupported => None,
        }
    }

    /// Returns the error's name in metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Lost(_) => "lost",
            Self::Trap(_) => "trap",
            Self::Busy => "busy",
            Self::BreakerOpen => "breaker_open",
            Self::Down(_) => "down",
            Self::Forked => "forked",
            Self::BadAnswer(_) => "bad_answer",
            Self::Unavailable(_) => "unavailable",
            Self::InvalidConfig(_) => "invalid_config",
            Self::InvalidArgument(_) => "invalid_argument",
            Self::NoSpace => "no_space",
            Self::Corrupt(_) => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Other(_) => "other",
        }
    }
}
