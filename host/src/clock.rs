//! The clock of pins and breakers: the system's, or one that tests move.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A clock for expiry and pauses. Deadlines of calls use real time instead.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Manual>>);

#[derive(Debug, Default)]
struct Manual {
    now_ms: AtomicU64,
    moved: Notify,
}

impl Clock {
    /// Returns the system's monotonic clock.
    pub const fn system() -> Self {
        Self(None)
    }

    /// Returns a clock that moves only by [`Clock::advance`].
    pub fn manual() -> Self {
        Self(Some(Arc::default()))
    }

    /// Moves a manual clock, and all its clones, forwards. Does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            manual.now_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
            manual.moved.notify_waiters();
        }
    }

    /// Returns the time since a fixed, arbitrary moment.
    pub fn now(&self) -> Duration {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        match &self.0 {
            Some(manual) => Duration::from_millis(manual.now_ms.load(Ordering::SeqCst)),
            None => START.get_or_init(Instant::now).elapsed(),
        }
    }

    /// Waits until `moment` has passed. Await it on the control threads, which have timers.
    pub(crate) async fn past(&self, moment: Duration) {
        loop {
            let manual = self.0.as_deref();
            let mut moved = pin!(manual.map(|manual| manual.moved.notified()));
            if let Some(moved) = moved.as_mut().as_pin_mut() {
                moved.enable();
            }
            let now = self.now();
            if now > moment {
                return;
            }
            match moved.as_pin_mut() {
                Some(moved) => moved.await,
                None => tokio::time::sleep(moment.saturating_sub(now) + Duration::from_millis(1)).await,
            }
        }
    }
}
