//! Pauses between tries that grow.

use std::time::Duration;

use kvtier_guest::wasip3::random::insecure::get_insecure_random_u64;

/// The pause after the first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// When something is tried again, and how long the pause before it is.
#[derive(Clone, Copy)]
pub(crate) struct Backoff {
    pause: Duration,
    /// On the monotonic clock, in nanoseconds.
    retry_at: u64,
}

impl Backoff {
    /// Begins a pause: the first, or one that is longer than that before.
    pub(crate) fn after(before: Option<Self>, now: u64, pause_max: Duration) -> Self {
        let pause = before.map_or(PAUSE_MIN, |before| before.pause * 2).min(pause_max);
        let pause_ns = pause.as_nanos() as u64;
        // Those that failed together do not come back together.
        let jitter = get_insecure_random_u64() % (pause_ns / 2 + 1);
        Self { pause, retry_at: now + pause_ns - jitter }
    }

    /// Reports whether the pause has still to pass.
    pub(crate) fn lasts(self, now: u64) -> bool {
        now < self.retry_at
    }
}
