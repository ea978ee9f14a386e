//! Pauses before a server is tried again.

use std::time::Duration;

use kvtier_guest::Backoff;

/// The pause after the first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The pause after a number of failures in a row.
#[derive(Clone, Copy)]
pub(crate) struct Pause {
    n_failed: u32,
    /// On the monotonic clock, in nanoseconds.
    until: u64,
}

impl Pause {
    /// Begins the first pause, or the one that follows `before`.
    pub(crate) fn after(before: Option<Self>, now: u64, pause_max: Duration) -> Self {
        let n_failed = before.map_or(1, |before| before.n_failed.saturating_add(1));
        let pause = Backoff::new(PAUSE_MIN, pause_max).pause(n_failed);
        Self { n_failed, until: now + pause.as_nanos() as u64 }
    }

    /// Reports whether the pause has not passed yet.
    pub(crate) fn lasts(self, now: u64) -> bool {
        now < self.until
    }
}
