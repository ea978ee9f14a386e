//! The clock by which pins expire and breakers pause: the system's, or one that a test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Tells the time. Deadlines of calls are real time and do not use it.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// Makes the system's monotonic clock.
    pub const fn system() -> Self {
        Self(None)
    }

    /// Makes a clock that stands still until [`Clock::advance`] moves it.
    pub fn manual() -> Self {
        Self(Some(Arc::default()))
    }

    /// Moves a manual clock, and all its clones, forwards. The system's clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(now_ms) = &self.0 {
            now_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        }
    }

    /// Returns the time since a fixed, arbitrary moment.
    pub fn now(&self) -> Duration {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        match &self.0 {
            Some(now_ms) => Duration::from_millis(now_ms.load(Ordering::SeqCst)),
            None => START.get_or_init(Instant::now).elapsed(),
        }
    }
}
