//! The limits of one backend and of its breakers. `docs/configuration.md` describes what happens at each limit.

use std::time::Duration;

use crate::config::error::{ConfigError, Origin};
use crate::config::kind::{count, millis, size, whole};
use crate::config::setting::{Number, Settings as _, check_range, settings};
use crate::config::value::bound::Bound;
use crate::limits::{
    COMPONENT_BYTES_MAX, DAY_MS, GIB, HOUR_MS, KIB, LOG_BYTES_MAX, MIB, PATH_BYTES_MAX, READ_BYTES_MAX,
    SIZE_BYTES_MAX,
};

settings! {
    /// The limits of one backend.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BackendLimits {
        /// Linear memory of one instance, all its memories together, in bytes. One 32-bit memory can have 4 GiB.
        memory_bytes: u64 = size("limits.memory", 64 * MIB, MIB..=4 * GIB),
        /// Time limit of one call, without the time for its bytes.
        call_timeout: Duration = millis("limits.call_timeout_ms", 1_000, 1..=HOUR_MS),
        /// Slowest accepted transfer, in bytes per second; extends the time limit of calls that move bytes.
        min_bytes_per_s: u64 = size("limits.min_bytes_per_s", 32 * MIB, 1..=SIZE_BYTES_MAX),
        /// Time limit of the constructor and `open` together.
        open_timeout: Duration = millis("limits.open_timeout_ms", 10_000, 1..=HOUR_MS),
        /// Time limit of `close`.
        close_timeout: Duration = millis("limits.close_timeout_ms", 2_000, 1..=HOUR_MS),
        /// How long a lane may make no progress before it is replaced.
        lane_stall: Duration = millis("limits.lane_stall_ms", 1_000, 1..=HOUR_MS),
        /// How many expired calls may be inside a lane before it is replaced. 0 replaces it at the first one. At most
        /// one less than `calls_in_flight_max` counts.
        abandoned_calls_max: usize = count("limits.abandoned_calls_max", 64, 0..=65_536),
        /// How many calls may be inside a lane.
        calls_in_flight_max: usize = count("limits.calls_in_flight_max", 256, 1..=65_536),
        /// How many chunks one call may carry.
        batch_chunks_max: usize = count("limits.batch_chunks_max", 64, 1..=4_096),
        /// How many elements the tables of one instance may have in total. Each takes a pointer of the host's.
        table_elements: usize = count("limits.table_elements", 100_000, 1..=10_000_000),
        /// How many handles of each kind one instance may hold, in addition to
        /// [`HANDLES_PER_CALL`](crate::limits::HANDLES_PER_CALL) for each call. The default is for 256 calls that each
        /// work on 16 chunks at a time.
        handles_max: usize = count("limits.handles_max", 16_384, 64..=1 << 20),
        /// How many bytes one call of a host function, or one of its results, may carry. The host holds and reads that
        /// much for a guest before any other limit applies. The smallest value is the piece in which the SDK copies
        /// chunks, the default the largest read ([`READ_BYTES_MAX`]).
        hostcall_bytes: u64 = size("limits.hostcall_bytes", READ_BYTES_MAX, MIB..=4 * GIB),
        /// How many random bytes one call may ask for.
        random_bytes: u64 = size("limits.random_bytes", 64 * KIB, 64..=64 * MIB),
        /// How many lines per second may be logged, over all lanes.
        log_lines_per_s: u64 = whole("limits.log_lines_per_s", 1_000, 1..=1_000_000),
        /// How many bytes per second may be logged, over all lanes. The longest line passes the smallest value.
        log_bytes_per_s: u64 = size("limits.log_bytes_per_s", MIB, LOG_BYTES_MAX as u64..=GIB),
        /// How many bytes of puts and gets may be in flight; one call is always allowed. The default has room for all
        /// batches of puts in flight ([`PUT_BATCHES_IN_FLIGHT`](crate::limits::PUT_BATCHES_IN_FLIGHT) of
        /// [`BATCH_BYTES_MAX`](crate::limits::BATCH_BYTES_MAX)) and for 15 retrievals of the largest chunks
        /// ([`GET_BYTES_IN_FLIGHT_MAX`](crate::limits::GET_BYTES_IN_FLIGHT_MAX)).
        bytes_in_flight: u64 = size("limits.bytes_in_flight", 2 * GIB, 1..=SIZE_BYTES_MAX),
        /// How many files, directories and sockets one instance may have open, in addition to its granted directories.
        open_files_max: usize = count("limits.open_files_max", 256, 1..=65_536),
        /// How many operations on files may be pending, over all lanes. An operation that the guest has given up is
        /// pending until a thread has handled it.
        file_operations_max: usize = count("limits.file_operations_max", 1_024, 1..=65_536),
        /// How many bytes of paths, and of data to write, may wait in them. Two of the longest paths fit into the
        /// smallest value.
        file_names_bytes: u64 = size("limits.file_names_bytes", 16 * MIB, 2 * PATH_BYTES_MAX as u64..=GIB),
        /// Time limit to resolve a name and connect, for HTTP and for sockets of WASI 0.3.
        connect_timeout: Duration = millis("limits.connect_timeout_ms", 1_000, 1..=HOUR_MS),
        /// Time limit of one TLS handshake.
        tls_timeout: Duration = millis("limits.tls_timeout_ms", 1_000, 1..=HOUR_MS),
        /// How long an HTTP request may wait for a free connection, and then transfer no byte in either direction.
        request_timeout: Duration = millis("limits.request_timeout_ms", 10_000, 1..=HOUR_MS),
        /// How many HTTP requests may be under way, over all lanes. The same number of connections to each target is
        /// kept.
        http_requests_max: usize = count("limits.http_requests_max", 64, 1..=4_096),
        /// Size of the component's file, in bytes.
        component_bytes: u64 = size("limits.component_bytes", 256 * MIB, KIB..=COMPONENT_BYTES_MAX),
    }
}

settings! {
    /// When a backend is skipped because it fails, and for how long.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BreakerConfig {
        /// How many of the last `window` calls must have failed; 0 means never.
        failures: usize = count("breaker.failures", 5, 0..=64),
        /// How many of the last calls count.
        window: usize = count("breaker.window", 20, 1..=64),
        /// The first pause. It doubles whenever the call after it fails.
        pause: Duration = millis("breaker.pause_ms", 500, 1..=HOUR_MS),
        /// The longest pause.
        pause_max: Duration = millis("breaker.pause_max_ms", 30_000, 1..=DAY_MS),
    }
}

impl Default for BackendLimits {
    fn default() -> Self {
        Self::with_defaults()
    }
}

impl BackendLimits {
    /// Returns the value of `limits.<name>`, in bytes, in milliseconds if the name ends in `_ms`, or as a number.
    pub(crate) fn value(&self, name: &str) -> Option<u64> {
        let named = |key: &str| key.strip_prefix("limits.") == Some(name);
        let setting = Self::SETTINGS.iter().find(|setting| named(setting.key))?;
        (setting.number)(self).map(|number| number.value)
    }

    /// Returns the time limit of a call that moves `bytes`: `call_timeout` plus the time that they take at
    /// `min_bytes_per_s`.
    #[must_use]
    pub fn call_timeout_for(&self, bytes: u64) -> Duration {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.min_bytes_per_s.max(1));
        let transfer = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.call_timeout.saturating_add(transfer)
    }

    /// Returns the limits that differ from their default: name below `limits.`, value and default.
    pub(crate) fn changed(&self) -> Vec<(&'static str, u64, u64)> {
        let numbers =
            Self::SETTINGS.iter().filter_map(|setting| Some((setting.key, (setting.number)(self)?)));
        numbers
            .filter(|(_, number)| number.value != number.bound.default)
            .map(|(key, number)| (key.trim_start_matches("limits."), number.value, number.bound.default))
            .collect()
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self::with_defaults()
    }
}

impl BreakerConfig {
    pub(in crate::config) fn check(
        &self,
        origin: &Origin,
        full_key: impl Fn(&str) -> String,
    ) -> Result<(), ConfigError> {
        self.check_ranges(origin, &full_key)?;
        // More failures than calls would never open it, and pauses cannot shrink.
        let as_ms = |pause: Duration| pause.as_millis() as u64;
        for (key, value, min, max) in [
            ("breaker.failures", self.failures as u64, 0, self.window as u64),
            ("breaker.pause_ms", as_ms(self.pause), 1, as_ms(self.pause_max)),
        ] {
            let bound = Bound { default: min, min, max, or_zero: false };
            check_range(origin, &full_key(key), &Number { value, bound, show: |n| n.to_string() })?;
        }
        Ok(())
    }
}
