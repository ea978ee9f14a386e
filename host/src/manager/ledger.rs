//! The ledger of pins: which lookup has pinned which chunks, in which tier, until when.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::select::TierIndex;
use crate::key::ChunkKey;
use crate::limits::LOOKUP_IDS_MAX;

/// How many outdated entries the expiry order may hold before it is cleaned, in addition to the number of current ones.
const ORDER_SLACK: usize = 64;

/// The pins of one lookup id.
#[derive(Debug, Default)]
pub(super) struct LookupPins(pub(super) Vec<(TierIndex, Vec<ChunkKey>)>);

#[derive(Default)]
pub(super) struct Ledger {
    entries: HashMap<String, (Duration, LookupPins)>,
    /// Ids in the order of their expiry. An id may occur more than once; the time in its entry decides.
    order: VecDeque<(Duration, String)>,
}

impl Ledger {
    /// Records more pins of `lookup_id`, all of which now expire at `expiry`. Returns the pins that must be released to
    /// stay within the limit.
    pub(super) fn record(&mut self, lookup_id: &str, more: LookupPins, expiry: Duration) -> Vec<LookupPins> {
        if more.0.is_empty() {
            return Vec::new();
        }
        let entry = self.entries.entry(lookup_id.to_owned()).or_default();
        entry.0 = expiry;
        entry.1.0.extend(more.0);
        self.order.push_back((expiry, lookup_id.to_owned()));
        let mut released = Vec::new();
        while self.entries.len() > LOOKUP_IDS_MAX {
            let Some((expiry, oldest)) = self.order.pop_front() else { break };
            // An id that was extended occurs again later.
            if self.entries.get(&oldest).is_some_and(|(current, _)| *current == expiry) {
                released.extend(self.release(&oldest));
            }
        }
        if self.order.len() > 2 * self.entries.len() + ORDER_SLACK {
            let entries = &self.entries;
            self.order.retain(|(expiry, id)| entries.get(id).is_some_and(|(current, _)| current == expiry));
        }
        released
    }

    /// Removes and returns the pins of `lookup_id`. The second call returns nothing.
    pub(super) fn release(&mut self, lookup_id: &str) -> Option<LookupPins> {
        self.entries.remove(lookup_id).map(|(_, pins)| pins)
    }

    /// Removes and returns the expired pins.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<LookupPins> {
        let mut expired = Vec::new();
        while let Some((expiry, _)) = self.order.front()
            && *expiry < now
        {
            let Some((_, lookup_id)) = self.order.pop_front() else { break };
            let is_due = self.entries.get(&lookup_id).is_some_and(|(expiry, _)| *expiry < now);
            if is_due {
                expired.extend(self.release(&lookup_id));
            }
        }
        expired
    }

    /// Returns the time after which pins may have expired. `None` if there are none.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.order.front().map(|(expiry, _)| *expiry)
    }

    /// Forgets all pins of `keys` in `tier`, because the chunks are gone from there with their pins. `None` means every
    /// key. A later pin of such a key belongs to another lookup, and these pins must not release it.
    pub(super) fn forget(&mut self, tier: TierIndex, keys: Option<&HashSet<ChunkKey>>) {
        self.entries.retain(|_, (_, pins)| {
            for (_, pinned_keys) in pins.0.iter_mut().filter(|(pinned_in, _)| *pinned_in == tier) {
                pinned_keys.retain(|key| keys.is_some_and(|keys| !keys.contains(key)));
            }
            pins.0.retain(|(_, pinned_keys)| !pinned_keys.is_empty());
            !pins.0.is_empty()
        });
    }

    /// Removes and returns all pins.
    pub(super) fn drain(&mut self) -> Vec<LookupPins> {
        self.order.clear();
        self.entries.drain().map(|(_, (_, pins))| pins).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn pins(n: u64) -> LookupPins {
        LookupPins(vec![(TierIndex(0), vec![ChunkKey { hi: n, lo: n }])])
    }

    #[test]
    fn t37_a_pin_expires_after_its_time_and_is_released_once_and_a_second_pin_extends_it() {
        let mut ledger = Ledger::default();
        ledger.record("a", pins(1), seconds(300));
        ledger.record("b", pins(2), seconds(300));
        assert!(ledger.expire(seconds(300)).is_empty(), "not before more than its time has passed");
        ledger.record("b", pins(2), seconds(599));
        let expired = ledger.expire(seconds(301));
        assert_eq!(expired.len(), 1);
        assert_eq!(expired[0].0[0].1[0].hi, 1);
        assert!(ledger.release("a").is_none(), "released once");
        assert_eq!(ledger.expire(seconds(600)).len(), 1, "both pins of b together");
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn t33_two_lookups_with_one_id_are_released_together() {
        let mut ledger = Ledger::default();
        ledger.record("a", pins(1), seconds(300));
        ledger.record("a", pins(2), seconds(300));
        assert_eq!(ledger.release("a").map(|pins| pins.0.len()), Some(2));
    }
}
