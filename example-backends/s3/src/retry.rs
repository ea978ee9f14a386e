//! Retries: after a pause, a limited number of times, and only while there is a budget. A store that fails every
//! request gets few extra requests.

use std::cell::Cell;
use std::time::Duration;

use kvtier_guest::Backoff;

/// The budget that retries are paid from.
const BUDGET: u32 = 100;
const COST: u32 = 5;
/// A request that timed out has kept the store busy longer.
const TIMEOUT_COST: u32 = 10;
const SUCCESS_PAYS: u32 = 1;

const PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Decides on the retries of an instance.
pub(crate) struct Retries {
    /// For one request.
    max: u32,
    budget: Cell<u32>,
}

/// The failure of a request that may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transient {
    /// The connection broke, or the store was too busy.
    Failed,
    TimedOut,
}

impl Retries {
    /// Allows `max` retries of one request.
    pub(crate) fn new(max: u32) -> Self {
        Self { max, budget: Cell::new(BUDGET) }
    }

    /// Returns how long to wait before the request is sent again, which has failed `n_failed` times. `None` if it is
    /// not sent again.
    pub(crate) fn pause(&self, n_failed: u32, how: Transient) -> Option<Duration> {
        let cost = match how {
            Transient::Failed => COST,
            Transient::TimedOut => TIMEOUT_COST,
        };
        if n_failed > self.max || self.budget.get() < cost {
            return None;
        }
        self.budget.set(self.budget.get() - cost);
        Some(PAUSES.pause(n_failed))
    }

    /// Notes that a request succeeded.
    pub(crate) fn succeeded(&self) {
        self.budget.set((self.budget.get() + SUCCESS_PAYS).min(BUDGET));
    }
}

#[cfg(test)]
mod tests {
    use super::{BUDGET, COST, Retries, Transient};

    #[test]
    fn a_request_is_retried_so_many_times() {
        let retries = Retries::new(2);
        assert!(retries.pause(2, Transient::Failed).is_some());
        assert!(retries.pause(3, Transient::Failed).is_none());
        assert!(Retries::new(0).pause(1, Transient::Failed).is_none());
    }

    #[test]
    fn a_store_that_always_fails_uses_the_budget_up_and_successes_pay_it_back() {
        let retries = Retries::new(3);
        let n_retries = (0..1000).filter(|_| retries.pause(1, Transient::Failed).is_some()).count();
        assert_eq!(n_retries as u32, BUDGET / COST);
        for _ in 0..COST {
            assert!(retries.pause(1, Transient::Failed).is_none());
            retries.succeeded();
        }
        assert!(retries.pause(1, Transient::TimedOut).is_none(), "costs more");
        assert!(retries.pause(1, Transient::Failed).is_some());
        (0..10 * BUDGET).for_each(|_| retries.succeeded());
        let n_retries = (0..1000).filter(|_| retries.pause(1, Transient::TimedOut).is_some()).count();
        assert_eq!(n_retries, 10, "it is not saved up beyond its size");
    }
}
