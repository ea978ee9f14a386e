//! Lookups: the prefix of the keys that is present, and the tiers that have it.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ledger::LookupPins;
use super::{CPU_TIER, StorageManager, TierIndex, Tiers};
use crate::key::ChunkKey;
use crate::metrics::Operation;
use crate::runtime::unbudgeted;
use crate::tier::Pinning;

/// A run of chunks that one tier serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The tier.
    pub tier: TierIndex,
    /// Positions in the list of keys.
    pub range: Range<usize>,
}

/// The result of a lookup: the leading run of chunks that are present. Equality ignores the time of the lookup.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Lookup {
    /// The length of the run.
    pub n_chunks: usize,
    /// The tiers that serve it: adjoining ranges in ascending order that cover `0..n_chunks`.
    pub served: Vec<Served>,
    /// The time of the lookup. `None` if no tier was asked.
    pub(super) stamp: Option<LookupStamp>,
}

/// The time of a lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookupStamp {
    /// On the clock of pins and breakers.
    pub(super) at: Duration,
    /// The chain's removal generation at that time.
    pub(super) removal_generation: u64,
}

impl PartialEq for Lookup {
    fn eq(&self, other: &Self) -> bool {
        self.n_chunks == other.n_chunks && self.served == other.served
    }
}

impl Eq for Lookup {}

impl Lookup {
    fn extend(&mut self, tier: TierIndex, n_chunks: usize) {
        let range = self.n_chunks..self.n_chunks + n_chunks;
        self.n_chunks = range.end;
        match self.served.last_mut() {
            Some(last) if last.tier == tier => last.range.end = range.end,
            _ => self.served.push(Served { tier, range }),
        }
    }

    /// Returns the tier that serves the chunk at `index`, if the run reaches it.
    pub fn tier_of(&self, index: usize) -> Option<TierIndex> {
        let at = self.served.partition_point(|served| served.range.end <= index);
        self.served.get(at).filter(|served| served.range.contains(&index)).map(|served| served.tier)
    }

    /// Returns the part of the result for the keys in `range`, with positions that start at 0.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let (start, end) = (range.start.min(self.n_chunks), range.end.min(self.n_chunks));
        let mut slice = Self { stamp: self.stamp, ..Self::default() };
        for Served { tier, range } in &self.served {
            let n_chunks = range.end.min(end).saturating_sub(range.start.max(start));
            if n_chunks > 0 {
                slice.extend(*tier, n_chunks);
            }
        }
        slice
    }
}

impl StorageManager {
    /// Returns the leading run of `keys` across the chosen tiers: tier by tier on the remainder, as long as any tier
    /// extends it. A tier that fails or does not answer in time is skipped. Each call gets the remaining time, divided
    /// by the number of backends that may still have to be asked.
    ///
    /// Cost: one hash lookup per key in the CPU tier; one call per backend that is asked, and one more for every change
    /// from tier to tier.
    pub async fn contains(&self, keys: &[ChunkKey], tiers: &Tiers) -> Lookup {
        self.find(keys, tiers, None).await
    }

    /// Like [`StorageManager::contains`], and pins the counted chunks for `lookup_id`, until [`StorageManager::unpin`]
    /// or until the pins expire. A pinned lookup counts as a use.
    pub async fn contains_pinned(&self, keys: &[ChunkKey], tiers: &Tiers, lookup_id: &str) -> Lookup {
        // The release of other lookups' pins is not awaited.
        drop(self.release_expired());
        self.find(keys, tiers, Some(lookup_id)).await
    }

    async fn find(&self, keys: &[ChunkKey], tiers: &Tiers, lookup_id: Option<&str>) -> Lookup {
        let deadline = Instant::now() + self.0.options.lookup_timeout;
        let stamp = LookupStamp {
            at: self.0.options.clock.now(),
            removal_generation: self.0.removal_generation.load(Ordering::Acquire),
        };
        let mut lookup = Lookup { stamp: Some(stamp), ..Lookup::default() };
        let mut new_pins = NewPins { manager: self, lookup_id, pins: LookupPins::default() };
        // The position where each tier's run ended: it lacks the next chunk. `None`: not asked yet.
        let mut ends: Vec<Option<usize>> = vec![None; self.0.backends.len() + 1];
        let mut failed = vec![false; ends.len()];
        while lookup.n_chunks < keys.len() {
            let at = lookup.n_chunks;
            let rest = &keys[at..];
            if ends[0] != Some(at) && tiers.includes(CPU_TIER) {
                let started = Instant::now();
                let n = match lookup_id {
                    None => self.0.cpu.contains_run(rest),
                    Some(_) => self.0.cpu.pin_run(rest),
                };
                self.0.cpu_metrics.took(Operation::Contains, started.elapsed());
                ends[0] = Some(at + n);
                if n > 0 {
                    new_pins.add(TierIndex(0), &rest[..n]);
                    lookup.extend(TierIndex(0), n);
                    continue;
                }
            }
            let mut candidates =
                self.backends(tiers).filter(|(tier, _)| ends[tier.0] != Some(at) && !failed[tier.0]);
            let Some((tier, backend)) = candidates.next() else { break };
            if !backend.breakers.reading.is_ready() {
                backend.breakers.reading.skip();
                failed[tier.0] = true;
                continue;
            }
            let n_behind = candidates.filter(|(_, behind)| behind.breakers.reading.is_ready()).count() as u32;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // A tier that hangs uses no more time than it leaves to each tier after it.
            let deadline = Instant::now() + left / (n_behind + 1);
            let pinning = if lookup_id.is_some() { Pinning::Pin } else { Pinning::None };
            match unbudgeted(backend.contains(rest, pinning, deadline)).await {
                Ok(n) => {
                    ends[tier.0] = Some(at + n);
                    if n > 0 {
                        new_pins.add(tier, &rest[..n]);
                        lookup.extend(tier, n);
                    }
                }
                Err(_counted) => failed[tier.0] = true,
            }
        }
        drop(new_pins);
        lookup
    }
}

/// The pins of a lookup under way. They are recorded even if the lookup is cancelled.
struct NewPins<'a> {
    manager: &'a StorageManager,
    lookup_id: Option<&'a str>,
    pins: LookupPins,
}

impl NewPins<'_> {
    fn add(&mut self, tier: TierIndex, keys: &[ChunkKey]) {
        if self.lookup_id.is_some() {
            self.pins.0.push((tier, keys.to_vec()));
        }
    }
}

impl Drop for NewPins<'_> {
    fn drop(&mut self) {
        let Some(lookup_id) = self.lookup_id else { return };
        self.manager.record_pins(lookup_id, std::mem::take(&mut self.pins));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_the_tiers_of_its_range_and_counts_from_0() {
        let mut lookup = Lookup::default();
        for (tier, n_chunks) in [(0, 3), (2, 2), (1, 4)] {
            lookup.extend(TierIndex(tier), n_chunks);
        }
        for (start, end) in [(0, 9), (0, 3), (2, 6), (3, 5), (4, 4), (6, 20), (9, 12), (30, 40)] {
            let slice = lookup.slice(start..end);
            assert_eq!(slice.n_chunks, end.min(9).saturating_sub(start), "{start}..{end}");
            for index in 0..slice.n_chunks {
                assert_eq!(slice.tier_of(index), lookup.tier_of(start + index), "{start}..{end}");
            }
            assert_eq!(slice.tier_of(slice.n_chunks), None);
        }
    }
}
