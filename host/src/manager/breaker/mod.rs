//! The breakers of a backend: the chain skips a backend that fails until it works again.
//!
//! Each backend has two, one for reading and one for writing ([`Breakers`]): a store that refuses writes is still read.
//! A breaker gets the outcome of every call in its direction. While it is closed it admits all calls. When too many of
//! the last calls have failed it opens and admits none for a pause. Then it admits one call, the probe, which decides
//! whether the breaker closes or pauses for longer. It remembers the last calls during the pause, so that the next
//! failure of a backend that has just recovered opens it again, and one that fails every third call is skipped most of
//! the time. While a tier reports that it is not running, both breakers are open.
//!
//! A breaker does not change what a caller sees: an admitted call answers as it would without one.
//!
//! Invariant: of any number of concurrent calls at most one is the probe. A probe ends the half-open state however it
//! ends, and one that does not end is replaced after the longest pause.

mod outcome;
mod pair;
mod permit;
mod reports;
mod status;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

pub(super) use self::outcome::CallOutcome;
pub(crate) use self::pair::Breakers;
pub(super) use self::pair::Direction;
pub(super) use self::permit::{OwnedPermit, Permit};
pub use self::status::{BreakerState, BreakerStatus};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::BreakerConfig;
use crate::sync::lock;

/// [`Breaker::next_probe_ms`] of a closed breaker.
const CLOSED: u64 = 0;
/// [`Breaker::next_probe_ms`] while the tier is not running: no call may be the probe.
const NEVER: u64 = u64::MAX;

/// The breaker of one direction. Admission to a closed one is an atomic load and takes no lock.
pub(super) struct Breaker {
    name: String,
    direction: Direction,
    config: BreakerConfig,
    clock: Clock,
    /// [`CLOSED`], [`NEVER`], or the earliest time of the next probe, in milliseconds of the clock. Written under the
    /// state's lock only.
    next_probe_ms: AtomicU64,
    /// Advances when the outcomes of calls under way become outdated. Written under the state's lock only.
    epoch: AtomicU64,
    skipped: AtomicU64,
    state: Mutex<BreakerWindow>,
}

struct BreakerWindow {
    phase: Phase,
    /// The last calls, one bit each, the newest lowest; a failure is a 1.
    calls: u64,
    backoff: Backoff,
    last_cause: Option<String>,
    since: Duration,
    opened: u64,
    /// While the tier is not running.
    down: Option<Down>,
    /// The tier whose reports count. A replaced tier may report late.
    tier: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Closed,
    Open {
        until: Duration,
    },
    /// The probe is under way.
    HalfOpen,
}

struct Down {
    retry_at: Duration,
}

/// The change that a report has made, to be logged outside the lock.
enum Change {
    Nothing,
    Opened { cause: String, pause: Duration },
    Reopened { pause: Duration },
    Closed,
}

impl Breaker {
    fn new(name: String, direction: Direction, config: BreakerConfig, clock: Clock) -> Self {
        let backoff = Backoff::new(config.pause, config.pause_max);
        let state = BreakerWindow {
            phase: Phase::Closed,
            calls: 0,
            backoff,
            last_cause: None,
            since: clock.now(),
            opened: 0,
            down: None,
            tier: 0,
        };
        Self {
            name,
            direction,
            config,
            clock,
            next_probe_ms: AtomicU64::new(CLOSED),
            epoch: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BreakerWindow> {
        lock(&self.state)
    }

    /// Admits a call, as the probe if it is time for one. Counts a call that is not admitted.
    pub(super) fn admit(&self) -> Option<Permit<'_>> {
        let next_probe_ms = self.next_probe_ms.load(Ordering::Acquire);
        let is_probe = if next_probe_ms == CLOSED { Some(false) } else { self.begin_probe(next_probe_ms) };
        let Some(is_probe) = is_probe else {
            self.skip();
            return None;
        };
        Some(Permit { breaker: self, is_probe, epoch: self.epoch.load(Ordering::Acquire) })
    }

    /// Counts an operation that skipped the tier.
    pub(super) fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports whether a call would be admitted now.
    pub(super) fn is_ready(&self) -> bool {
        let next_probe_ms = self.next_probe_ms.load(Ordering::Acquire);
        next_probe_ms == CLOSED || self.is_due(next_probe_ms)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.next_probe_ms.load(Ordering::Acquire) == CLOSED
    }

    fn is_due(&self, next_probe_ms: u64) -> bool {
        next_probe_ms != NEVER && self.clock.now() >= Duration::from_millis(next_probe_ms)
    }

    /// Decides about a call while the breaker is not closed: `None` if it is not admitted, else whether it is the
    /// probe.
    fn begin_probe(&self, next_probe_ms: u64) -> Option<bool> {
        if !self.is_due(next_probe_ms) {
            return None;
        }
        let mut state = self.lock();
        match state.phase {
            _ if state.down.is_some() => None,
            // Another call's probe has just succeeded.
            Phase::Closed => Some(false),
            Phase::Open { until } if self.clock.now() >= until => {
                state.enter(Phase::HalfOpen, self.clock.now());
                self.publish(&state);
                Some(true)
            }
            // The caller of the probe does not drive it. That must not exclude the backend for ever.
            Phase::HalfOpen if self.clock.now() >= state.since + self.config.pause_max => {
                self.begin_epoch();
                state.enter(Phase::HalfOpen, self.clock.now());
                self.publish(&state);
                Some(true)
            }
            Phase::Open { .. } | Phase::HalfOpen => None,
        }
    }

    fn publish(&self, state: &BreakerWindow) {
        let from = |time: Duration| (time.as_millis() as u64).max(CLOSED + 1);
        let next_probe_ms = match state.phase {
            _ if state.down.is_some() => NEVER,
            Phase::Closed => CLOSED,
            Phase::HalfOpen => from(state.since + self.config.pause_max),
            Phase::Open { until } => from(until),
        };
        self.next_probe_ms.store(next_probe_ms, Ordering::Release);
    }

    /// Takes the report of a call, and returns the pause if the breaker opens because of it.
    fn report(&self, permit: &Permit<'_>, outcome: CallOutcome) -> Option<Duration> {
        let change = {
            let mut state = self.lock();
            // A call from before the last opening shows nothing new.
            if permit.epoch != self.epoch.load(Ordering::Acquire) {
                return None;
            }
            let change = self.judge(&mut state, permit.is_probe, outcome);
            self.publish(&state);
            change
        };
        let (backend, direction) = (self.name.as_str(), self.direction.name());
        match change {
            Change::Nothing => None,
            Change::Opened { cause, pause } => {
                tracing::warn!(backend, direction, cause, ?pause, "breaker opened: the backend is skipped");
                Some(pause)
            }
            Change::Reopened { pause } => {
                tracing::debug!(backend, direction, ?pause, "probe failed, breaker stays open");
                Some(pause)
            }
            Change::Closed => {
                tracing::info!(backend, direction, "breaker closed: the backend works again");
                None
            }
        }
    }

    fn judge(&self, state: &mut BreakerWindow, is_probe: bool, outcome: CallOutcome) -> Change {
        let now = self.clock.now();
        let decides = is_probe && state.phase == Phase::HalfOpen;
        match outcome {
            CallOutcome::Unknown => {
                if decides {
                    state.enter(Phase::Open { until: now }, now);
                }
                Change::Nothing
            }
            CallOutcome::Worked | CallOutcome::Declined => {
                state.calls = self.window(state.calls << 1);
                if state.calls == 0 {
                    state.backoff.reset();
                }
                if !decides {
                    return Change::Nothing;
                }
                state.enter(Phase::Closed, now);
                Change::Closed
            }
            CallOutcome::Failed(cause) => {
                state.calls = self.window(state.calls << 1 | 1);
                state.last_cause = Some(cause.clone());
                let n_failures = state.calls.count_ones() as usize;
                let too_many = self.config.failures > 0 && n_failures >= self.config.failures;
                let opens = decides || (too_many && state.phase == Phase::Closed);
                if !opens {
                    return Change::Nothing;
                }
                let pause = state.backoff.pause();
                state.enter(Phase::Open { until: now + pause }, now);
                state.opened += 1;
                self.begin_epoch();
                if decides { Change::Reopened { pause } } else { Change::Opened { cause, pause } }
            }
        }
    }

    fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Drops the calls that have left the window.
    fn window(&self, calls: u64) -> u64 {
        calls & (u64::MAX >> (64 - self.config.window.clamp(1, 64)))
    }

    pub(super) fn status(&self) -> BreakerStatus {
        let state = self.lock();
        let now = self.clock.now();
        let (phase, retry_at) = match (&state.down, state.phase) {
            (Some(down), _) => (BreakerState::Open, Some(down.retry_at)),
            (None, Phase::Closed) => (BreakerState::Closed, None),
            (None, Phase::Open { until }) if until > now => (BreakerState::Open, Some(until)),
            (None, Phase::Open { .. } | Phase::HalfOpen) => (BreakerState::HalfOpen, None),
        };
        BreakerStatus {
            state: phase,
            since: now.saturating_sub(state.since),
            failures: state.calls.count_ones(),
            last_cause: state.last_cause.clone(),
            retry_in: retry_at.map(|at| at.saturating_sub(now)),
            opened: state.opened,
            skipped: self.skipped.load(Ordering::Relaxed),
        }
    }
}

impl BreakerWindow {
    fn enter(&mut self, phase: Phase, now: Duration) {
        self.phase = phase;
        self.since = now;
    }
}

#[cfg(test)]
mod tests;
