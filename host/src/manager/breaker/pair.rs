//! The two breakers of a backend, and the tier's reports that open both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Breaker, Health, Permit};
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

/// A permit for a call that may outlive the operation that began it.
pub(in crate::manager) struct OwnedPermit {
    breakers: Arc<Breakers>,
    direction: Direction,
    /// Whether it is the probe, and the breaker's epoch when the call began. `None` once the call is reported.
    terms: Option<(bool, u64)>,
}

impl OwnedPermit {
    pub(in crate::manager) fn new(
        breakers: &Arc<Breakers>,
        direction: Direction,
        permit: Permit<'_>,
    ) -> Self {
        let terms = Some((permit.is_probe, permit.epoch));
        // This permit continues it.
        std::mem::forget(permit);
        Self { breakers: Arc::clone(breakers), direction, terms }
    }

    /// Reports the call, and returns the pause if the breaker opens because of it.
    pub(in crate::manager) fn settle(mut self, health: Health) -> Option<Duration> {
        self.take().and_then(|permit| permit.settle(health))
    }

    fn take(&mut self) -> Option<Permit<'_>> {
        let (is_probe, epoch) = self.terms.take()?;
        Some(Permit { breaker: self.breakers.of(self.direction), is_probe, epoch })
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        drop(self.take());
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
