//! Pins of lookups over the whole chain: recording, release and expiry.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use futures::future::{join_all, select};
use tokio::sync::Notify;

use super::ledger::LookupPins;
use super::{Inner, StorageManager};
use crate::clock::Clock;
use crate::runtime::unbudgeted;
use crate::sync::lock;

/// A release of pins that runs in the background.
type Release = tokio::task::JoinHandle<()>;

impl StorageManager {
    /// Releases the pins of `lookup_id`. A second call does nothing.
    ///
    /// # Cancellation
    /// The release continues.
    pub async fn unpin(&self, lookup_id: &str) {
        let pins = self.ledger().release(lookup_id);
        unbudgeted(join_all(self.release(pins))).await;
    }

    /// Releases expired pins. The chain also does so by itself.
    pub async fn expire_pins(&self) {
        unbudgeted(join_all(self.release_expired())).await;
    }

    pub(super) fn release_expired(&self) -> Vec<Release> {
        // Under the lock: a caller that finds nothing expired may count on the release of the expired pins.
        let mut ledger = self.ledger();
        let expired = ledger.expire(self.0.options.clock.now());
        let n_lookups = expired.len();
        let releases = self.release(expired);
        drop(ledger);
        if n_lookups > 0 {
            self.0.cpu_metrics.pins_expired.fetch_add(n_lookups as u64, Ordering::Relaxed);
            tracing::warn!(n_lookups, "pins expired without unpin");
        }
        releases
    }

    /// Records the pins of a lookup.
    pub(super) fn record_pins(&self, lookup_id: &str, pins: LookupPins) {
        let options = &self.0.options;
        let expiry = options.clock.now() + options.pin_timeout;
        let (surplus, is_first) = {
            let mut ledger = self.ledger();
            let is_first = ledger.next_expiry().is_none();
            (ledger.record(lookup_id, pins, expiry), is_first)
        };
        if is_first {
            self.0.pinned.notify_one();
        }
        drop(self.release(surplus));
    }

    /// Releases pins when they expire, until the chain is dropped. Later pins expire later, so the next expiry changes
    /// only when there was none.
    pub(super) async fn expire_in_time(chain: Weak<Inner>, clock: Clock, pinned: Arc<Notify>) {
        loop {
            let Some(inner) = chain.upgrade() else { return };
            let next = lock(&inner.ledger).next_expiry();
            drop(inner);
            match next {
                None => pinned.notified().await,
                Some(moment) => {
                    select(pin!(clock.past(moment)), pin!(pinned.notified())).await;
                }
            }
            let Some(inner) = chain.upgrade() else { return };
            drop(Self(inner).release_expired());
        }
    }

    /// Releases pins: in the CPU tier immediately, in backends in the background, so that callers need not wait.
    fn release(&self, pins: impl IntoIterator<Item = LookupPins>) -> Vec<Release> {
        let deadline = self.deadline();
        let mut releases = Vec::new();
        let mut is_forked_child = None;
        for (tier, keys) in pins.into_iter().flat_map(|pins| pins.0) {
            let Some(index) = tier.0.checked_sub(1) else {
                self.0.cpu.unpin(&keys);
                continue;
            };
            if *is_forked_child.get_or_insert_with(|| self.is_forked_child()) {
                // The parent releases its own pins.
                continue;
            }
            let backend = Arc::clone(&self.0.backends[index]);
            releases.push(self.0.control.handle().spawn(async move {
                if let Err(error) = backend.unpin(&keys, deadline).await {
                    tracing::debug!(backend = %backend.name, %error, "unpin failed");
                }
            }));
        }
        releases
    }
}
