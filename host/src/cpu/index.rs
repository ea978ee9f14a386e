//! The index of the CPU tier: which chunks are here, how often they are pinned, which goes next.
//!
//! Everything here runs under the tier's one lock, and nothing here calls out: chunks that leave are
//! handed to the caller, who drops them outside the lock.
//!
//! Invariants: an entry is in the table, in the order and counted in the sums, or in none of them. An
//! entry that is parked in the order is watched, so its release is heard. While the hot cache is off,
//! every entry that is left is parked.

use std::hash::{BuildHasher, RandomState};
use std::sync::Weak;

use hashbrown::HashTable;

use super::order::{Order, Slot};
use super::policy::Policy;
use super::{Cleared, Evictions, Inserted};
use crate::chunk::{Chunk, IndexedChunk, Watcher};
use crate::key::ChunkKey;
use crate::memory::Inconsistency;

pub(super) struct Index {
    table: HashTable<(ChunkKey, Slot)>,
    hash: KeyHash,
    entries: Vec<Option<Entry>>,
    unused: Vec<Slot>,
    order: Order,
    watcher: Weak<dyn Watcher>,
    pub(super) is_hot: bool,
    pub(super) is_closed: bool,
    pub(super) sums: Sums,
    pub(super) evictions: Evictions,
}

struct Entry {
    key: ChunkKey,
    chunk: IndexedChunk,
    n_pins: u32,
}

impl Entry {
    fn is_held(&self) -> bool {
        self.n_pins > 0 || self.chunk.has_readers()
    }
}

/// Running sums over all entries; footprints are payload sizes rounded up by the provider.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Sums {
    pub(super) payload_bytes: usize,
    pub(super) footprint_bytes: usize,
    pub(super) pinned_entries: usize,
    pub(super) pinned_footprint_bytes: usize,
}

/// What a change of pins left to be done outside the lock.
#[derive(Default)]
pub(super) struct Released {
    /// Entries that left the index.
    pub(super) left: Vec<IndexedChunk>,
    /// More can be evicted than before, so those who wait for memory should try again.
    pub(super) may_fit: bool,
}

impl Index {
    pub(super) fn new(policy: Policy, is_hot: bool, watcher: Weak<dyn Watcher>) -> Self {
        Self {
            table: HashTable::new(),
            hash: KeyHash::new(),
            entries: Vec::new(),
            unused: Vec::new(),
            order: Order::new(policy),
            watcher,
            is_hot,
            is_closed: false,
            sums: Sums::default(),
            evictions: Evictions::default(),
        }
    }

    pub(super) fn n_entries(&self) -> usize {
        self.table.len()
    }

    pub(super) fn find(&self, key: ChunkKey) -> Option<Slot> {
        let found = self.table.find(self.hash.of(key), |&(other, _)| other == key);
        found.map(|&(_, slot)| slot)
    }

    /// Returns a reader's handle to the chunk, and counts a use.
    pub(super) fn get(&mut self, key: ChunkKey) -> Option<Chunk> {
        let slot = self.find(key)?;
        self.order.touch(slot);
        Some(self.entry(slot).chunk.reader())
    }

    pub(super) fn touch(&mut self, key: ChunkKey) {
        if let Some(slot) = self.find(key) {
            self.order.touch(slot);
        }
    }

    pub(super) fn refresh(&mut self, key: ChunkKey) {
        if let Some(slot) = self.find(key) {
            self.order.refresh(slot);
        }
    }

    pub(super) fn insert(&mut self, chunk: &Chunk) -> Inserted {
        if !self.is_hot || self.is_closed {
            return Inserted::CacheOff;
        }
        let key = chunk.key();
        if let Some(slot) = self.find(key) {
            self.order.touch(slot);
            return Inserted::Present;
        }
        let Some(chunk) = chunk.enter_index() else {
            return Inserted::InAnotherTier;
        };
        self.sums.payload_bytes += chunk.size_bytes();
        self.sums.footprint_bytes += chunk.footprint_bytes();
        let entry = Some(Entry { key, chunk, n_pins: 0 });
        let slot = if let Some(slot) = self.unused.pop() {
            self.entries[slot as usize] = entry;
            slot
        } else {
            self.entries.push(entry);
            self.entries.len() as Slot - 1
        };
        self.order.insert(slot);
        let Self { table, hash, .. } = self;
        table.insert_unique(hash.of(key), (key, slot), |&(key, _)| hash.of(key));
        Inserted::New
    }

    /// Adds a pin and counts a use; returns whether the key is here.
    pub(super) fn pin(&mut self, key: ChunkKey) -> bool {
        let Some(slot) = self.find(key) else {
            return false;
        };
        let entry = self.entry_mut(slot);
        let footprint_bytes = entry.chunk.footprint_bytes();
        entry.n_pins = entry.n_pins.saturating_add(1);
        if entry.n_pins == 1 {
            self.sums.pinned_entries += 1;
            self.sums.pinned_footprint_bytes += footprint_bytes;
        }
        self.order.touch(slot);
        true
    }

    /// Takes a pin away; returns whether the key is here.
    pub(super) fn unpin(&mut self, key: ChunkKey, released: &mut Released) -> bool {
        let Some(slot) = self.find(key) else {
            return false;
        };
        let entry = self.entry_mut(slot);
        if entry.n_pins == 0 {
            tracing::warn!(%key, "unpin of a chunk that is not pinned: it was unpinned twice");
            return true;
        }
        entry.n_pins -= 1;
        if entry.n_pins == 0 {
            let footprint_bytes = entry.chunk.footprint_bytes();
            self.sums.pinned_entries -= 1;
            self.sums.pinned_footprint_bytes -= footprint_bytes;
            // Parked or not: an allocation may have given up because of the sum of the pins.
            released.may_fit = true;
            self.release(slot, released);
        }
        true
    }

    /// Returns how many references there are to the chunk, the index's own included.
    #[cfg(test)]
    pub(super) fn n_references(&self, key: ChunkKey) -> Option<usize> {
        self.find(key).map(|slot| self.entry(slot).chunk.n_references())
    }

    /// Returns a reader's handle without counting a use.
    #[cfg(test)]
    pub(super) fn peek(&self, key: ChunkKey) -> Option<Chunk> {
        self.find(key).map(|slot| self.entry(slot).chunk.reader())
    }

    pub(super) fn n_pins(&self, key: ChunkKey) -> Option<u32> {
        self.find(key).map(|slot| self.entry(slot).n_pins)
    }

    /// Looks again at an entry whose last reader is gone.
    pub(super) fn last_reader_gone(&mut self, key: ChunkKey, released: &mut Released) {
        if let Some(slot) = self.find(key) {
            self.release(slot, released);
        }
    }

    /// If an entry that was found held is so no longer, makes it evictable, or takes it out when the
    /// cache was switched off meanwhile.
    fn release(&mut self, slot: Slot, released: &mut Released) {
        if !self.order.is_parked(slot) || self.entry(slot).is_held() {
            return;
        }
        if self.is_hot {
            self.unpark(slot);
            released.may_fit = true;
        } else {
            self.evictions.cache_off += 1;
            released.left.push(self.take(slot));
        }
    }

    /// Takes out the entry that the policy evicts next, passing over held ones.
    pub(super) fn evict(&mut self) -> Option<IndexedChunk> {
        while let Some(slot) = self.order.candidate() {
            if !self.park_if_held(slot) {
                self.evictions.pressure += 1;
                return Some(self.take(slot));
            }
        }
        None
    }

    /// Takes an entry out, drops its pins, and leaves its memory to its readers.
    pub(super) fn remove(&mut self, key: ChunkKey) -> Option<IndexedChunk> {
        let slot = self.find(key)?;
        self.evictions.removed += 1;
        Some(self.take(slot))
    }

    /// Takes out every entry that is not held.
    pub(super) fn clear(&mut self, left: &mut Vec<IndexedChunk>) -> Cleared {
        let mut cleared = Cleared::default();
        for slot in 0..self.entries.len() as Slot {
            if self.entries[slot as usize].is_some() && !self.park_if_held(slot) {
                let chunk = self.take(slot);
                cleared.chunks += 1;
                cleared.bytes += chunk.size_bytes() as u64;
                left.push(chunk);
            }
        }
        cleared
    }

    /// Takes everything out, held or not.
    pub(super) fn close(&mut self, left: &mut Vec<IndexedChunk>) {
        self.is_closed = true;
        for slot in 0..self.entries.len() as Slot {
            if self.entries[slot as usize].is_some() {
                self.evictions.closed += 1;
                left.push(self.take(slot));
            }
        }
    }

    /// Returns whether the entry is held; if so it is parked and watched.
    fn park_if_held(&mut self, slot: Slot) -> bool {
        if !self.entry(slot).is_held() {
            return false;
        }
        self.order.park(slot);
        let Self { entries, watcher, .. } = self;
        if let Some(entry) = &entries[slot as usize] {
            entry.chunk.watch(watcher);
        }
        // The last reader may have gone before the watch was set, and then nobody reports it.
        if self.entry(slot).is_held() {
            return true;
        }
        self.unpark(slot);
        false
    }

    fn unpark(&mut self, slot: Slot) {
        self.entry(slot).chunk.unwatch();
        self.order.unpark(slot);
    }

    fn take(&mut self, slot: Slot) -> IndexedChunk {
        self.order.remove(slot);
        self.unused.push(slot);
        let Some(entry) = self.entries[slot as usize].take() else {
            unreachable!("slot {slot} was found in use under the same lock");
        };
        let found = self.table.find_entry(self.hash.of(entry.key), |&(_, other)| other == slot);
        if let Ok(found) = found {
            found.remove();
        }
        self.sums.payload_bytes -= entry.chunk.size_bytes();
        self.sums.footprint_bytes -= entry.chunk.footprint_bytes();
        if entry.n_pins > 0 {
            self.sums.pinned_entries -= 1;
            self.sums.pinned_footprint_bytes -= entry.chunk.footprint_bytes();
        }
        entry.chunk.leave_index();
        entry.chunk
    }

    fn entry(&self, slot: Slot) -> &Entry {
        match &self.entries[slot as usize] {
            Some(entry) => entry,
            None => unreachable!("slot {slot} was found in use under the same lock"),
        }
    }

    fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        match &mut self.entries[slot as usize] {
            Some(entry) => entry,
            None => unreachable!("slot {slot} was found in use under the same lock"),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.order.policy()
    }

    /// Verifies the invariants.
    pub(super) fn check(&self) -> Result<(), Inconsistency> {
        let unless = |holds, detail: &dyn Fn() -> String| {
            Inconsistency::unless(holds, "index of the CPU tier", detail)
        };
        let (mut n_entries, mut sums) = (0, Sums::default());
        for (slot, entry) in self.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            n_entries += 1;
            sums.payload_bytes += entry.chunk.size_bytes();
            sums.footprint_bytes += entry.chunk.footprint_bytes();
            if entry.n_pins > 0 {
                sums.pinned_entries += 1;
                sums.pinned_footprint_bytes += entry.chunk.footprint_bytes();
            }
            unless(self.find(entry.key) == Some(slot as Slot), &|| {
                format!("{} is not found under its key", entry.key)
            })?;
            unless(self.is_hot || self.order.is_parked(slot as Slot), &|| {
                format!("{} cannot leave, though the cache is off", entry.key)
            })?;
        }
        unless(n_entries == self.table.len(), &|| format!("{n_entries} entries, {} keys", self.table.len()))?;
        unless(n_entries + self.unused.len() == self.entries.len(), &|| "a slot is lost".into())?;
        unless(sums == self.sums, &|| format!("{sums:?} by entry, {:?} by counter", self.sums))?;
        self.order.check(n_entries).or_else(|what| unless(false, &|| what.clone()))
    }
}

/// Hashes keys by two folded multiplications. Keys are hashes already, but an embedder may bring keys
/// of its own, and `n`, `n + 1`, … must not cluster: with one multiplication they did under one seed
/// in a thousand. The seed keeps chosen keys from colliding.
struct KeyHash {
    hi: u64,
    lo: u64,
}

impl KeyHash {
    fn new() -> Self {
        let random = RandomState::new();
        Self { hi: random.hash_one(0), lo: random.hash_one(1) }
    }

    #[inline]
    fn of(&self, key: ChunkKey) -> u64 {
        const CONSTANT: u64 = 0x9e37_79b9_7f4a_7c15;
        fold(fold(key.hi ^ self.hi, key.lo ^ self.lo), CONSTANT)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::KeyHash;
    use crate::key::ChunkKey;

    #[test]
    fn consecutive_keys_do_not_cluster() {
        let patterns: [fn(u64) -> ChunkKey; 4] = [
            |n| ChunkKey { hi: 0, lo: n },
            |n| ChunkKey { hi: n, lo: 0 },
            |n| ChunkKey { hi: n, lo: n },
            |n| ChunkKey { hi: n << 48, lo: 0 },
        ];
        for _ in 0..if cfg!(miri) { 1 } else { 100 } {
            let hash = KeyHash::new();
            for key in patterns {
                // hashbrown uses the low bits for the group and the top seven within it.
                let hashes = (0..4096).map(|n| hash.of(key(n)));
                let groups: HashSet<_> = hashes.clone().map(|hash| hash & 0xffff).collect();
                let tags: HashSet<_> = hashes.map(|hash| hash >> 57).collect();
                assert!(groups.len() > 3500, "{} of 4096", groups.len());
                assert_eq!(tags.len(), 128);
            }
        }
    }
}
