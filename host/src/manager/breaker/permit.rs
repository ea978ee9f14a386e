//! Permits: each admitted call has one, through which it reports to the breaker.

use std::sync::Arc;
use std::time::Duration;

use super::{Breaker, Breakers, CallOutcome, Direction};

/// An admitted call. If it is dropped without a report it does not count, and another call can be the probe.
pub(in crate::manager) struct Permit<'a> {
    pub(super) breaker: &'a Breaker,
    pub(super) is_probe: bool,
    /// The breaker's epoch when the call began.
    pub(super) epoch: u64,
}

impl Permit<'_> {
    /// Reports the call, and returns the pause if the breaker opens because of it.
    pub(in crate::manager) fn report(self, outcome: CallOutcome) -> Option<Duration> {
        let pause = self.breaker.report(&self, outcome);
        std::mem::forget(self);
        pause
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            let _none = self.breaker.report(self, CallOutcome::Unknown);
        }
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
    pub(in crate::manager) fn report(mut self, outcome: CallOutcome) -> Option<Duration> {
        self.take().and_then(|permit| permit.report(outcome))
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
