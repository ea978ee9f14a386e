//! Pins of lookups over the whole chain: held, released, expired.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use futures::future::{join_all, select};
use tokio::sync::Notify;

use super::ledger::Held;
use super::{Inner, StorageManager};
use crate::clock::Clock;
use crate::runtime::anywhere;
use crate::sync::lock;

/// A release of pins that goes on whether it is awaited or not.
type Release = tokio::task::JoinHandle<()>;

impl StorageManager {
    /// Releases what `lookup_id` has pinned, in the tiers where it did. The second time nothing happens.
    ///
    /// # Cancellation
    /// The release goes on.
    pub async fn unpin(&self, lookup_id: &str) {
        let held = self.ledger().release(lookup_id);
        anywhere(join_all(self.release(held))).await;
    }

    /// Releases the pins whose time is over. Runs by itself when that is so.
    pub async fn expire_pins(&self) {
        anywhere(join_all(self.release_expired())).await;
    }

    pub(super) fn release_expired(&self) -> Vec<Release> {
        // Under the lock, so that who finds nothing expired finds it released.
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

    /// Notes what a lookup holds from now on.
    pub(super) fn hold(&self, lookup_id: &str, held: Held) {
        let options = &self.0.options;
        let expiry = options.clock.now() + options.pin_timeout;
        let (surplus, is_first) = {
            let mut ledger = self.ledger();
            let is_first = ledger.next_expiry().is_none();
            (ledger.hold(lookup_id, held, expiry), is_first)
        };
        if is_first {
            self.0.pinned.notify_one();
        }
        drop(self.release(surplus));
    }

    /// Releases pins as their time comes, until the chain is gone. Later pins expire later, so the next moment changes
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

    /// Releases pins: in the CPU tier at once, in backends in the background, so that no caller waits for them
    /// who does not want to.
    fn release(&self, held: impl IntoIterator<Item = Held>) -> Vec<Release> {
        let deadline = self.deadline();
        let mut releases = Vec::new();
        let mut is_left_behind = None;
        for (tier, keys) in held.into_iter().flat_map(|held| held.0) {
            let Some(index) = tier.0.checked_sub(1) else {
                self.0.cpu.unpin(&keys);
                continue;
            };
            if *is_left_behind.get_or_insert_with(|| self.is_left_behind()) {
                // What the parent has pinned, it unpins.
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
