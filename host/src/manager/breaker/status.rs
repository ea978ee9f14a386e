//! The state of a breaker, for people and metrics.

use std::time::Duration;

use crate::metrics::BreakerCounts;

/// The state of a breaker: how it treats calls in its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Every call is admitted.
    Closed,
    /// No call is admitted until the pause is over, or until the backend is running.
    Open,
    /// The pause is over. One call is admitted, or is under way, and decides.
    HalfOpen,
}

impl BreakerState {
    /// Returns the state's name, for people and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The state of the breaker of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// Whether calls are admitted.
    pub state: BreakerState,
    /// The time since the state last changed.
    pub since: Duration,
    /// How many of the last `breaker.window` calls failed.
    pub failures: u32,
    /// The cause of the last failure, however long ago.
    pub last_cause: Option<String>,
    /// The time until the next call is admitted. For a backend that is not running, the time until its next start.
    pub retry_in: Option<Duration>,
    /// How often it opened, including after a failed probe.
    pub opened: u64,
    /// How often an operation skipped the backend.
    pub skipped: u64,
}

impl BreakerStatus {
    pub(in crate::manager) fn counts(&self) -> BreakerCounts {
        let is_open = self.state != BreakerState::Closed;
        BreakerCounts { is_open, opened: self.opened, skipped: self.skipped }
    }
}
