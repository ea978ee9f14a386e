//! The bytes that calls in flight move, counted.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that one call moves, counted while it lasts.
pub(super) struct Moving<'a> {
    in_flight: &'a AtomicUsize,
    bytes: usize,
}

impl<'a> Moving<'a> {
    /// Counts a call in, if it is within `max_bytes` with all others, or is the only one that moves anything.
    pub(super) fn new(in_flight: &'a AtomicUsize, bytes: usize, max_bytes: usize) -> Option<Self> {
        let add = |others: usize| {
            let total = others.saturating_add(bytes);
            (bytes == 0 || others == 0 || total <= max_bytes).then_some(total)
        };
        in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Self { in_flight, bytes })
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
