//! How a breaker is, for people and metrics.

use std::time::Duration;

use crate::metrics::BreakerCounts;

/// Whether calls in one direction are let through to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Every call is let through.
    Closed,
    /// No call is let through until the pause is over, or until the backend is running.
    Open,
    /// The pause is over: one call is let through, or is under way, and decides.
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

/// How the breaker of one direction is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// Whether calls are let through.
    pub state: BreakerState,
    /// How long it has been so.
    pub since: Duration,
    /// How many of the last `breaker.window` calls failed.
    pub failures: u32,
    /// What the last failure was, however long ago.
    pub last_cause: Option<String>,
    /// When the next call is let through, or, of a backend that is not running, the next start is tried.
    pub retry_in: Option<Duration>,
    /// How often it opened, after a failed probe included.
    pub opened: u64,
    /// How often an operation passed the backend over.
    pub skipped: u64,
}

impl BreakerStatus {
    pub(in crate::manager) fn counts(&self) -> BreakerCounts {
        let is_open = self.state != BreakerState::Closed;
        BreakerCounts { is_open, opened: self.opened, skipped: self.skipped }
    }
}
