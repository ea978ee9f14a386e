//! Bounds and defaults of the configuration, by name and with units.
//!
//! A [`Bound`] is the only place where a setting's default and accepted range stand: reading a file,
//! [`Config::validate`](super::Config::validate) and the reference table's test all use it.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR_MS: u64 = 3_600_000;
const DAY_SECS: u64 = 86_400;

/// States a whole-number setting's default and the range it is accepted in, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Value when the setting is not given.
    pub default: u64,
    /// Smallest accepted value.
    pub min: u64,
    /// Largest accepted value.
    pub max: u64,
}

impl Bound {
    const fn new(default: u64, min: u64, max: u64) -> Self {
        assert!(min <= default && default <= max);
        Self { default, min, max }
    }

    /// Tells whether `value` is in the accepted range.
    #[must_use]
    pub const fn contains(&self, value: u64) -> bool {
        self.min <= value && value <= self.max
    }

    /// Returns the default of a setting that counts milliseconds.
    #[must_use]
    pub const fn default_ms(&self) -> Duration {
        Duration::from_millis(self.default)
    }

    /// Returns the default of a setting that counts seconds.
    #[must_use]
    pub const fn default_secs(&self) -> Duration {
        Duration::from_secs(self.default)
    }
}

/// Largest configuration file or `LMCACHE_EXTRA_CONFIG` text, in bytes.
pub const CONFIG_BYTES_MAX: u64 = MIB;
/// Largest configuration after YAML aliases are expanded, in bytes of text plus
/// [`NODE_COST_BYTES`] for each value. An alias may repeat an anchor of any size, so the size of the
/// file bounds nothing.
pub const EXPANDED_BYTES_MAX: u64 = 8 * MIB;
/// What one value counts towards [`EXPANDED_BYTES_MAX`] beside its text, in bytes.
pub const NODE_COST_BYTES: u64 = 16;
/// Deepest nesting of lists and mappings in a configuration text.
pub const NESTING_DEPTH_MAX: usize = 64;
/// Most opening brackets times bytes of a YAML text, which bounds its scanning to about one second. A text
/// of 16 KiB can never reach it, one of 1 MiB may have 256 brackets.
pub const SCAN_COST_MAX: u64 = 1 << 28;
/// Longest backend name, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Longest class name, in characters.
pub const CLASS_NAME_CHARS_MAX: usize = 256;
/// Most backends in one chain.
pub const BACKENDS_MAX: usize = 64;
/// Largest secret, in bytes.
pub const SECRET_BYTES_MAX: u64 = 64 * KIB;
/// Shortest `kvtier.integrity_key`, in bytes. A shorter key could be guessed by trying.
pub const INTEGRITY_KEY_BYTES_MIN: usize = 16;
/// Largest size that any setting accepts, in bytes (64 TiB).
pub const SIZE_BYTES_MAX: u64 = 1 << 46;

/// `chunk_size`, in tokens.
pub const CHUNK_SIZE_TOKENS: Bound = Bound::new(256, 1, 1 << 20);
/// `max_local_cpu_size` as bytes. The smallest pool is one page of 4 KiB.
pub const POOL_SIZE_BYTES: Bound = Bound::new(5 * GIB, 4 * KIB, 4096 * GIB);
/// `lookup_timeout_ms`, in milliseconds.
pub const LOOKUP_TIMEOUT_MS: Bound = Bound::new(3_000, 1, DAY_SECS * 1_000);
/// `blocking_timeout_secs`, in seconds.
pub const BLOCKING_TIMEOUT_SECS: Bound = Bound::new(10, 1, DAY_SECS);
/// `pin_timeout_sec`, in seconds.
pub const PIN_TIMEOUT_SECS: Bound = Bound::new(300, 1, DAY_SECS);

/// `kvtier.lane_threads`, in threads. The default is lowered to the machine's parallelism.
pub const LANE_THREADS: Bound = Bound::new(4, 1, 256);
/// `kvtier.close_timeout_ms`, in milliseconds.
pub const CLOSE_TIMEOUT_MS: Bound = Bound::new(5_000, 1, HOUR_MS);

/// `limits.memory` of a backend, in bytes. A 32-bit component can address 4 GiB at most.
pub const BACKEND_MEMORY_BYTES: Bound = Bound::new(64 * MIB, MIB, 4 * GIB);
/// `limits.call_timeout_ms` of a backend, in milliseconds.
pub const BACKEND_CALL_TIMEOUT_MS: Bound = Bound::new(1_000, 1, HOUR_MS);
/// `limits.min_bytes_per_s` of a backend, in bytes a second.
pub const BACKEND_MIN_BYTES_PER_S: Bound = Bound::new(32 * MIB, 1, SIZE_BYTES_MAX);
/// `limits.open_timeout_ms` of a backend, in milliseconds.
pub const BACKEND_OPEN_TIMEOUT_MS: Bound = Bound::new(10_000, 1, HOUR_MS);
/// `limits.close_timeout_ms` of a backend, in milliseconds.
pub const BACKEND_CLOSE_TIMEOUT_MS: Bound = Bound::new(2_000, 1, HOUR_MS);
/// `limits.lane_stall_ms` of a backend, in milliseconds.
pub const BACKEND_LANE_STALL_MS: Bound = Bound::new(1_000, 1, HOUR_MS);
/// `limits.abandoned_calls_max` of a backend, in calls. 0 retires the lane at its first expired call.
pub const BACKEND_ABANDONED_CALLS_MAX: Bound = Bound::new(64, 0, 65_536);
/// `limits.calls_in_flight_max` of a backend, in calls.
pub const BACKEND_CALLS_IN_FLIGHT_MAX: Bound = Bound::new(256, 1, 65_536);
/// `limits.batch_chunks_max` of a backend, in chunks of one call.
pub const BACKEND_BATCH_CHUNKS_MAX: Bound = Bound::new(64, 1, 4_096);
/// `lanes` of a backend.
pub const BACKEND_LANES: Bound = Bound::new(1, 1, 64);
