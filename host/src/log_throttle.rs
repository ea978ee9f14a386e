//! Log messages that each chunk or key may cause, such as damaged bytes: the first is logged, then one per minute with
//! the number of messages left out.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::Clock;
use crate::limits::REPEATED_LOG_PAUSE;
use crate::sync::lock;

/// Decides which messages of one kind are logged.
pub(crate) struct LogThrottle {
    clock: Clock,
    state: Mutex<ThrottleState>,
}

#[derive(Debug, Default)]
struct ThrottleState {
    last: Option<Duration>,
    n_suppressed: u64,
}

impl LogThrottle {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Counts a message. If it should be logged, returns how many were left out since the last logged one.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        if state.last.is_some_and(|last| now.saturating_sub(last) < REPEATED_LOG_PAUSE) {
            state.n_suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.n_suppressed))
    }
}

impl fmt::Debug for LogThrottle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogThrottle").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_and_then_one_a_pause_with_the_number_of_the_others() {
        let clock = Clock::manual();
        let throttle = LogThrottle::new(clock.clone());
        assert_eq!(throttle.due(), Some(0));
        for _ in 0..1_000 {
            assert_eq!(throttle.due(), None);
        }
        clock.advance(REPEATED_LOG_PAUSE);
        assert_eq!(throttle.due(), Some(1_000));
        assert_eq!(throttle.due(), None);
        clock.advance(REPEATED_LOG_PAUSE);
        assert_eq!(throttle.due(), Some(1));
    }
}
