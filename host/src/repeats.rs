//! Messages that each chunk or key may cause, such as damaged bytes: the first is logged, then one a minute with the
//! number of the others.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::Clock;
use crate::limits::REPEATED_LOG_PAUSE;
use crate::sync::lock;

/// Decides which messages of one kind are logged.
pub(crate) struct Repeats {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Duration>,
    n_untold: u64,
}

impl Repeats {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Counts a message. If it is to be logged, returns how many were not since the last one that was.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        if state.last.is_some_and(|last| now.saturating_sub(last) < REPEATED_LOG_PAUSE) {
            state.n_untold += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.n_untold))
    }
}

impl fmt::Debug for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeats").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_and_then_one_a_pause_with_the_number_of_the_others() {
        let clock = Clock::manual();
        let repeats = Repeats::new(clock.clone());
        assert_eq!(repeats.due(), Some(0));
        for _ in 0..1_000 {
            assert_eq!(repeats.due(), None);
        }
        clock.advance(REPEATED_LOG_PAUSE);
        assert_eq!(repeats.due(), Some(1_000));
        assert_eq!(repeats.due(), None);
        clock.advance(REPEATED_LOG_PAUSE);
        assert_eq!(repeats.due(), Some(1));
    }
}
