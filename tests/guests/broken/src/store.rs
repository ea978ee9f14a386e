//! Chunks in memory: a store that works, but for its fault.

use std::collections::{BTreeMap, BTreeSet};

use kvtier_guest::{ChunkKey, Error, Pinning};

use crate::faults::Fault;

/// Who pins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// `pin`.
    Asked,
    /// `contains`.
    LookedUp,
}

struct Entry {
    bytes: Vec<u8>,
    /// How often it was pinned, for counts.
    n_pins: u32,
    /// Whether eviction passes it over.
    is_protected: bool,
    last_use: u64,
    /// The call that stored it.
    call: u64,
}

pub(crate) struct Store {
    fault: Fault,
    chunks: BTreeMap<ChunkKey, Entry>,
    used_bytes: u64,
    capacity_bytes: u64,
    /// Counts calls and uses.
    time: u64,
    refused: BTreeSet<ChunkKey>,
    removed: BTreeSet<ChunkKey>,
}

impl Store {
    pub(crate) fn new(fault: Fault, capacity_bytes: u64) -> Self {
        Self {
            fault,
            chunks: BTreeMap::new(),
            used_bytes: 0,
            capacity_bytes,
            time: 0,
            refused: BTreeSet::new(),
            removed: BTreeSet::new(),
        }
    }

    pub(crate) fn next_call(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    pub(crate) fn has(&self, key: &ChunkKey) -> bool {
        self.chunks.contains_key(key)
    }

    pub(crate) fn was_refused(&self, key: &ChunkKey) -> bool {
        self.refused.contains(key)
    }

    pub(crate) fn contains(&mut self, keys: &[ChunkKey], pinning: Pinning) -> u32 {
        let mut keys = keys.to_vec();
        if self.fault.is("repeated-contains") {
            keys.dedup();
        }
        let run = keys.iter().take_while(|key| self.has(key)).count();
        let all = keys.iter().filter(|key| self.has(key)).count();
        if pinning == Pinning::Pin {
            let n_pinned = if self.fault.is("contains-pins") { keys.len() } else { run };
            self.pin_all(&keys[..n_pinned], When::LookedUp);
        }
        (if self.fault.is("contains-run") { all } else { run }) as u32
    }

    pub(crate) fn pin(&mut self, keys: &[ChunkKey], when: When) -> u32 {
        let run = keys.iter().take_while(|key| self.has(key)).count();
        let all = keys.iter().filter(|key| self.has(key)).count();
        let (n_pinned, count) = if self.fault.is("pin-run") { (keys.len(), all) } else { (run, run) };
        self.pin_all(&keys[..n_pinned], when);
        count as u32
    }

    fn pin_all(&mut self, keys: &[ChunkKey], when: When) {
        let is_weak = self.fault.is("contains-protects") && when == When::LookedUp;
        for key in keys {
            if let Some(entry) = self.chunks.get_mut(key) {
                entry.n_pins = if self.fault.is("pin-twice") { entry.n_pins + 1 } else { 1 };
                entry.is_protected |= !is_weak;
            }
        }
    }

    pub(crate) fn unpin(&mut self, keys: &[ChunkKey]) -> u32 {
        let is_pinned =
            |store: &Self, key: &ChunkKey| store.chunks.get(key).is_some_and(|entry| entry.n_pins > 0);
        let n_pinned = keys.iter().filter(|key| is_pinned(self, key)).count() as u32;
        let mut n_unpinned = 0;
        for key in keys {
            n_unpinned += u32::from(is_pinned(self, key));
            if let Some(entry) = self.chunks.get_mut(key) {
                entry.n_pins = entry.n_pins.saturating_sub(1);
                entry.is_protected = self.fault.is("unpin-frees") && entry.is_protected;
            }
        }
        if self.fault.is("unpin-counts") {
            keys.len() as u32
        } else if self.fault.is("repeated-pin") {
            n_pinned
        } else {
            n_unpinned
        }
    }

    pub(crate) fn remove(&mut self, keys: &[ChunkKey]) -> u32 {
        let n_present = keys.iter().filter(|key| self.has(key)).count() as u32;
        if self.fault.is("remove-gone") {
            return n_present;
        }
        let mut n_removed = 0;
        for key in keys {
            let is_kept =
                self.fault.is("remove-pinned") && self.chunks.get(key).is_some_and(|entry| entry.n_pins > 0);
            if !is_kept && self.drop_chunk(key) {
                n_removed += 1;
                if self.fault.is("put-after-remove") || self.fault.is("steady-memory") {
                    self.removed.insert(*key);
                }
            }
        }
        if self.fault.is("remove-counts") {
            keys.len() as u32
        } else if self.fault.is("repeated-remove") {
            n_present
        } else {
            n_removed
        }
    }

    fn drop_chunk(&mut self, key: &ChunkKey) -> bool {
        let removed = self.chunks.remove(key);
        self.used_bytes -= removed.as_ref().map_or(0, |entry| entry.bytes.len() as u64);
        removed.is_some()
    }

    /// Returns the result of a put that has nothing to store.
    pub(crate) fn again(&mut self, call: u64, key: ChunkKey) -> Option<Result<(), Error>> {
        if self.fault.is("put-after-remove") && self.removed.contains(&key) {
            return Some(Ok(()));
        }
        let stored_by = self.chunks.get(&key)?.call;
        if self.fault.is("repeated-put") && stored_by == call {
            return Some(Err(Error::other("the key is being stored")));
        }
        if self.fault.is("keeps-bytes") {
            return None;
        }
        self.touch(&key);
        Some(Ok(()))
    }

    /// Evicts chunks for one of `size_bytes`, those used longest ago first, and returns their keys.
    pub(crate) fn make_room(
        &mut self,
        call: u64,
        key: ChunkKey,
        size_bytes: u64,
    ) -> Result<Vec<ChunkKey>, Error> {
        let mut evicted = Vec::new();
        if size_bytes > self.capacity_bytes {
            self.refused.insert(key);
            return Err(Error::NoSpace);
        }
        while self.used_bytes + size_bytes > self.capacity_bytes {
            assert!(!self.fault.is("near-memory-limit"), "there is always room");
            let may_go = |entry: &Entry| {
                (!entry.is_protected || self.fault.is("pins-protect"))
                    && (entry.call != call || self.fault.is("ok-when-full"))
            };
            let candidates = self.chunks.iter().filter(|(_, entry)| may_go(entry));
            let oldest = candidates.min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| *key);
            let Some(oldest) = oldest else {
                self.refused.insert(key);
                return Err(Error::NoSpace);
            };
            self.drop_chunk(&oldest);
            evicted.push(oldest);
        }
        Ok(evicted)
    }

    pub(crate) fn insert(&mut self, call: u64, key: ChunkKey, bytes: Vec<u8>) {
        self.drop_chunk(&key);
        self.time += 1;
        self.used_bytes += bytes.len() as u64;
        self.refused.remove(&key);
        let entry = Entry { bytes, n_pins: 0, is_protected: false, last_use: self.time, call };
        self.chunks.insert(key, entry);
    }

    pub(crate) fn bytes(&mut self, key: &ChunkKey) -> Option<&[u8]> {
        self.touch(key);
        self.chunks.get(key).map(|entry| entry.bytes.as_slice())
    }

    fn touch(&mut self, key: &ChunkKey) {
        self.time += 1;
        if let Some(entry) = self.chunks.get_mut(key) {
            entry.last_use = self.time;
        }
    }
}
