//! The bytes that the calls in flight move.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that one call moves, counted while it lasts.
pub(super) struct BytesInFlight<'a> {
    in_flight: &'a AtomicUsize,
    bytes: usize,
}

impl<'a> BytesInFlight<'a> {
    /// Counts a call, if all calls together stay within `max_bytes` or no other call moves any bytes.
    pub(super) fn new(in_flight: &'a AtomicUsize, bytes: usize, max_bytes: usize) -> Option<Self> {
        let add = |others: usize| {
            let total = others.saturating_add(bytes);
            (bytes == 0 || others == 0 || total <= max_bytes).then_some(total)
        };
        in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Self { in_flight, bytes })
    }
}

impl Drop for BytesInFlight<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
