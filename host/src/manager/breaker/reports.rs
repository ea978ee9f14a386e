//! A tier's own reports: that it is not running, runs again, or starts again.

use std::time::Duration;

use super::{Breaker, Down, Phase};

impl Breaker {
    /// Returns why the tier is not running, if it has reported so.
    pub(super) fn down_cause(&self) -> Option<String> {
        let state = self.lock();
        state.down.as_ref().and_then(|_| state.last_cause.clone())
    }

    /// Forgets the previous tier and closes. From now on only reports of the given tier count.
    pub(super) fn attach(&self, tier: u64) {
        let mut state = self.lock();
        state.tier = tier;
        state.calls = 0;
        state.backoff.reset();
        state.down = None;
        state.enter(Phase::Closed, self.clock.now());
        self.begin_epoch();
        self.publish(&state);
    }

    /// Forgets the reports on the tier, which starts again.
    pub(super) fn renew(&self, tier: u64) {
        let mut state = self.lock();
        if state.tier != tier {
            return;
        }
        state.calls = 0;
        state.backoff.reset();
        state.enter(Phase::Closed, self.clock.now());
        self.begin_epoch();
        self.publish(&state);
    }

    /// Opens, because the tier is not running.
    pub(super) fn mark_down(&self, tier: u64, cause: &str, retry_in: Duration) {
        let mut state = self.lock();
        if state.tier != tier {
            return;
        }
        let now = self.clock.now();
        if state.down.is_none() {
            state.opened += 1;
            self.begin_epoch();
            // A probe under way has ended without a report.
            if state.phase == Phase::HalfOpen {
                state.phase = Phase::Open { until: now };
            }
            state.since = now;
        }
        state.down = Some(Down { retry_at: now + retry_in });
        state.last_cause = Some(cause.to_owned());
        self.publish(&state);
    }

    /// Returns to the state before the tier stopped running. Reports whether it had stopped.
    pub(super) fn mark_up(&self, tier: u64) -> bool {
        let mut state = self.lock();
        if state.tier != tier || state.down.take().is_none() {
            return false;
        }
        state.since = self.clock.now();
        self.publish(&state);
        true
    }
}
