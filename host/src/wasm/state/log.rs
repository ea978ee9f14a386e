//! A backend's lines in the host's log: cut, escaped, and limited in lines and bytes per second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::Level;

use crate::clock::Clock;
use crate::config::BackendConfig;
use crate::limits::LOG_BYTES_MAX;
use crate::sync::lock;
use crate::text::escaped;

/// The target by which a host's subscriber selects the lines of backends.
const TARGET: &str = "kvtier::backend";

/// The log of a backend, shared by its lanes and their generations.
///
/// Lines beyond the limits are dropped and counted. Lines that the host's subscriber does not want cost
/// nothing and do not count.
pub(in crate::wasm) struct BackendLog {
    backend: Arc<str>,
    clock: Clock,
    rates: Mutex<Rates>,
    n_dropped: AtomicU64,
}

struct Rates {
    lines: Bucket,
    bytes: Bucket,
    /// Lines dropped since the last one that passed.
    n_untold: u64,
}

/// The decision of the limits on a line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Passed {
        text: String,
        /// How many lines were dropped since the last one that passed.
        n_dropped: u64,
    },
    Dropped,
}

impl BackendLog {
    pub(in crate::wasm) fn new(config: &BackendConfig, clock: Clock) -> Self {
        let now = clock.now();
        let rates = Rates {
            lines: Bucket::new(config.limits.log_lines_per_s, now),
            bytes: Bucket::new(config.limits.log_bytes_per_s, now),
            n_untold: 0,
        };
        Self {
            backend: config.name.as_str().into(),
            clock,
            rates: Mutex::new(rates),
            n_dropped: AtomicU64::new(0),
        }
    }

    /// Returns how many lines were dropped in all.
    pub(in crate::wasm) fn n_dropped(&self) -> u64 {
        self.n_dropped.load(Ordering::Relaxed)
    }

    /// Reports whether the host's subscriber wants a line of that level and the limits have room for it, before its
    /// text is read. Counts a line without room as dropped.
    pub(in crate::wasm) fn has_room(&self, level: Level) -> bool {
        // The subscriber takes levels only as constants.
        let is_wanted = match level {
            Level::TRACE => tracing::enabled!(target: TARGET, Level::TRACE),
            Level::DEBUG => tracing::enabled!(target: TARGET, Level::DEBUG),
            Level::INFO => tracing::enabled!(target: TARGET, Level::INFO),
            Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
            Level::ERROR => tracing::enabled!(target: TARGET, Level::ERROR),
        };
        is_wanted && {
            let now = self.clock.now();
            let mut rates = lock(&self.rates);
            let has_room = rates.lines.has(1, now) && rates.bytes.has(1, now);
            if !has_room {
                self.count_dropped(&mut rates);
            }
            has_room
        }
    }

    /// Writes a message of the guest, after [`Self::has_room`] returned true.
    pub(in crate::wasm) fn write(&self, level: Level, message: &str) {
        let Line::Passed { text, n_dropped } = self.admit(message) else { return };
        self.tell(n_dropped);
        let backend = &self.backend;
        macro_rules! write_at {
            ($level:expr) => {
                tracing::event!(target: TARGET, $level, %backend, "{text}")
            };
        }
        match level {
            Level::TRACE => write_at!(Level::TRACE),
            Level::DEBUG => write_at!(Level::DEBUG),
            Level::INFO => write_at!(Level::INFO),
            Level::WARN => write_at!(Level::WARN),
            Level::ERROR => write_at!(Level::ERROR),
        }
    }

    fn tell(&self, n_dropped: u64) {
        if n_dropped > 0 {
            tracing::warn!(
                backend = %self.backend,
                n_dropped,
                "the backend logs more than limits.log_lines_per_s or limits.log_bytes_per_s allow; lines were dropped"
            );
        }
    }

    fn admit(&self, message: &str) -> Line {
        let now = self.clock.now();
        let mut rates = lock(&self.rates);
        let Rates { lines, bytes, n_untold } = &mut *rates;
        // Escaping only makes a text longer, so one that is too long already is cut first.
        let bytes_at_least = message.len().min(LOG_BYTES_MAX / 2) as u64;
        if lines.has(1, now) && bytes.has(bytes_at_least, now) {
            let text = escaped(message, LOG_BYTES_MAX);
            if bytes.has(text.len() as u64, now) {
                lines.take(1);
                bytes.take(text.len() as u64);
                return Line::Passed { text, n_dropped: std::mem::take(n_untold) };
            }
        }
        self.count_dropped(&mut rates);
        Line::Dropped
    }

    fn count_dropped(&self, rates: &mut Rates) {
        rates.n_untold += 1;
        self.n_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A token bucket: refills at a steady rate, holds the tokens of one second, and starts full.
pub(in crate::wasm) struct Bucket {
    per_s: u64,
    /// Tokens × nanoseconds of a second, so that any rate is exact.
    level: u128,
    at: Duration,
}

const NS_PER_S: u128 = 1_000_000_000;

impl Bucket {
    pub(in crate::wasm) fn new(per_s: u64, now: Duration) -> Self {
        Self { per_s, level: u128::from(per_s) * NS_PER_S, at: now }
    }

    pub(in crate::wasm) fn has(&mut self, n: u64, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.at);
        let back = elapsed.as_nanos().saturating_mul(u128::from(self.per_s));
        self.level = self.level.saturating_add(back).min(u128::from(self.per_s) * NS_PER_S);
        self.at = self.at.max(now);
        self.level >= u128::from(n) * NS_PER_S
    }

    pub(in crate::wasm) fn take(&mut self, n: u64) {
        self.level -= u128::from(n) * NS_PER_S;
    }

    /// Returns how long it takes, from the last call of [`Self::has`], until there are `n` tokens.
    pub(in crate::wasm) fn lacks(&self, n: u64) -> Duration {
        let missing = (u128::from(n) * NS_PER_S).saturating_sub(self.level);
        let ns = missing.div_ceil(u128::from(self.per_s.max(1)));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendLimits;

    fn log(lines: u64, bytes: u64) -> (BackendLog, Clock) {
        let mut config = BackendConfig::new("b", "b.wasm", "B");
        config.limits =
            BackendLimits { log_lines_per_s: lines, log_bytes_per_s: bytes, ..BackendLimits::default() };
        let clock = Clock::manual();
        (BackendLog::new(&config, clock.clone()), clock)
    }

    fn passed(text: &str, n_dropped: u64) -> Line {
        Line::Passed { text: text.into(), n_dropped }
    }

    #[test]
    fn so_many_lines_a_second_pass_and_no_more() {
        let (log, clock) = log(3, 1 << 20);
        for _ in 0..3 {
            assert_eq!(log.admit("line"), passed("line", 0));
        }
        for n in 1..=5 {
            assert_eq!(log.admit("line"), Line::Dropped);
            assert_eq!(log.n_dropped(), n);
        }
        clock.advance(Duration::from_millis(333));
        assert_eq!(log.admit("line"), Line::Dropped, "not quite a line's time");
        clock.advance(Duration::from_millis(1));
        assert_eq!(log.admit("line"), passed("line", 6), "told once");
        assert_eq!(log.admit("line"), Line::Dropped);
        clock.advance(Duration::from_hours(1));
        assert_eq!(log.admit("line"), passed("line", 1));
        for _ in 0..2 {
            assert_eq!(log.admit("line"), passed("line", 0));
        }
        assert_eq!(log.admit("line"), Line::Dropped, "a rest saves up one second's lines");
        assert_eq!(log.n_dropped(), 8);
    }

    #[test]
    fn so_many_bytes_a_second_pass_as_they_are_written() {
        let (log, clock) = log(1000, LOG_BYTES_MAX as u64);
        let half = "x".repeat(LOG_BYTES_MAX / 2);
        assert_eq!(log.admit(&half), passed(&half, 0));
        assert_eq!(log.admit(&format!("{half}x")), Line::Dropped, "one byte beyond");
        assert_eq!(log.admit(&half), passed(&half, 1));
        assert_eq!(log.admit("x"), Line::Dropped);
        clock.advance(Duration::from_secs(1));
        // Six bytes each, when written.
        let control = "\u{1b}".repeat(LOG_BYTES_MAX / 6);
        assert!(matches!(log.admit(&control), Line::Passed { .. }));
        assert_eq!(log.admit("xxx"), Line::Dropped, "two bytes are left");
        assert!(matches!(log.admit("xx"), Line::Passed { .. }));
    }
}
