//! The two breakers of a backend, and the tier's reports that open both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Breaker;
use crate::clock::Clock;
use crate::config::BreakerConfig;
use crate::tier::Liveness;

/// The direction of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// `contains`, `get`, `pin` and `unpin`.
    Reading,
    /// `put` and `remove`.
    Writing,
}

impl Direction {
    /// Returns the direction's name, for people and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Writing => "writing",
        }
    }
}

/// The breakers of one backend. A failure counts in the direction of its call. A tier that is not running opens both.
pub(crate) struct Breakers {
    name: String,
    pub(in crate::manager) reading: Breaker,
    pub(in crate::manager) writing: Breaker,
    /// The number of tiers that the backend has had.
    n_tiers: AtomicU64,
}

impl Breakers {
    pub(crate) fn new(name: impl Into<String>, config: BreakerConfig, clock: &Clock) -> Self {
        let name = name.into();
        let breaker = |direction| Breaker::new(name.clone(), direction, config, clock.clone());
        let (reading, writing) = (breaker(Direction::Reading), breaker(Direction::Writing));
        Self { name, reading, writing, n_tiers: AtomicU64::new(0) }
    }

    pub(in crate::manager) fn of(&self, direction: Direction) -> &Breaker {
        match direction {
            Direction::Reading => &self.reading,
            Direction::Writing => &self.writing,
        }
    }

    /// Returns why the tier is not running, if it has reported so.
    pub(in crate::manager) fn down_cause(&self) -> Option<String> {
        self.reading.down_cause()
    }

    /// Forgets the previous tier, closes both breakers, and returns the listener for the next tier.
    pub(crate) fn attach(self: &Arc<Self>) -> Arc<dyn Liveness> {
        let tier = self.n_tiers.fetch_add(1, Ordering::AcqRel) + 1;
        self.reading.attach(tier);
        self.writing.attach(tier);
        Arc::new(Attached { breakers: Arc::clone(self), tier })
    }
}

/// The listener of one tier.
struct Attached {
    breakers: Arc<Breakers>,
    tier: u64,
}

impl Liveness for Attached {
    fn down(&self, cause: &str, retry_in: Duration) {
        self.breakers.reading.mark_down(self.tier, cause, retry_in);
        self.breakers.writing.mark_down(self.tier, cause, retry_in);
    }

    fn up(&self) {
        let was_down = self.breakers.reading.mark_up(self.tier);
        // Both breakers need the report, whatever the first one returns.
        if self.breakers.writing.mark_up(self.tier) || was_down {
            tracing::info!(backend = %self.breakers.name, "backend is running");
        }
    }

    fn renewed(&self) {
        self.breakers.reading.renew(self.tier);
        self.breakers.writing.renew(self.tier);
    }
}
