//! Notices async classes that read and write files by the blocking functions of WASI 0.2, as `std::fs` in Rust and
//! `open` in Python do. While such a call lasts, no other call of the instance goes on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;
use crate::log_throttle::LogThrottle;
use crate::tier::{BLOCKING_FILES_NOTE, TierNote};

/// A line of the log is due for each so many reads and writes. Fewer are no matter, as for a file of settings.
const CALLS_PER_LINE: u64 = 64;

/// The blocking reads and writes of a backend with an async class.
pub(in crate::wasm) struct BlockingFiles {
    backend: String,
    count: AtomicU64,
    throttle: LogThrottle,
}

impl BlockingFiles {
    pub(in crate::wasm) fn new(backend: &str, clock: Clock) -> Self {
        Self { backend: backend.to_owned(), count: AtomicU64::new(0), throttle: LogThrottle::new(clock) }
    }

    /// Returns the number of reads and writes, if there were so many that they matter.
    pub(in crate::wasm) fn told(&self) -> Option<TierNote> {
        let count = self.count.load(Ordering::Relaxed);
        (count >= CALLS_PER_LINE).then(|| TierNote::new(BLOCKING_FILES_NOTE, count.to_string()))
    }

    /// Counts a read or a write.
    pub(in crate::wasm) fn note(&self) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(CALLS_PER_LINE) && self.throttle.due().is_some() {
            tracing::warn!(
                backend = %self.backend,
                "an async class has blocked its instance {count} times to read or write a file, and its other calls \
                 waited: use kvtier's directories and splices or WASI 0.3 in the place of std::fs and the like"
            );
        }
    }
}
