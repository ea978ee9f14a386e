//! An index of chunks that keeps to a capacity: sizes, recency, pins and reserved room.
//!
//! It holds no bytes and does no I/O: a value per chunk says where the bytes are, and what is evicted
//! is handed back to be disposed of. Sizes of all entries and of all reserved room together never
//! exceed the capacity.

mod hash;

use std::collections::{BTreeMap, HashMap};

use self::hash::KeyHashing;
use crate::ChunkKey;

/// An index of chunks, bounded in bytes, that evicts what was used longest ago.
#[derive(Debug)]
pub struct Lru<V> {
    entries: HashMap<ChunkKey, Entry<V>, KeyHashing>,
    /// Entries that may be evicted, by their last use.
    order: BTreeMap<u64, ChunkKey>,
    clock: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    reserved_bytes: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    size_bytes: u64,
    last_use: u64,
    pinned: bool,
}

/// The uses of one call. Of its chunks the head of the prompt counts as used last, because a tail
/// without its head is of no use; and none of them makes room for another.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    first_use: u64,
    n_chunks: u64,
}

/// An entry that left the index.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed<V> {
    /// Its key.
    pub key: ChunkKey,
    /// What was stored with it.
    pub value: V,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// There is no room: the chunk is larger than what is neither pinned nor reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl From<Full> for crate::Error {
    fn from(_: Full) -> Self {
        Self::NoSpace
    }
}

impl<V> Lru<V> {
    /// Makes an empty index for `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Self {
        Self {
            entries: HashMap::default(),
            order: BTreeMap::new(),
            clock: 0,
            capacity_bytes,
            used_bytes: 0,
            reserved_bytes: 0,
        }
    }

    /// Begins a call on `n_chunks` chunks.
    pub fn call(&mut self, n_chunks: usize) -> Call {
        let first_use = self.clock;
        self.clock += n_chunks as u64;
        Call { first_use, n_chunks: n_chunks as u64 }
    }

    /// Returns the number of chunks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no chunks.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the bytes of all entries and of all reserved room.
    pub fn size_bytes(&self) -> u64 {
        self.used_bytes + self.reserved_bytes
    }

    /// Returns the bytes that a chunk may have without evicting another.
    pub fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.size_bytes())
    }

    /// Returns the value and the size of `key`.
    pub fn get(&self, key: &ChunkKey) -> Option<(&V, u64)> {
        self.entries.get(key).map(|entry| (&entry.value, entry.size_bytes))
    }

    /// Returns how many of `keys`, counted from the first, are present without a gap.
    pub fn leading_run(&self, keys: &[ChunkKey]) -> usize {
        keys.iter().take_while(|key| self.entries.contains_key(key)).count()
    }

    /// Counts a use of `key`, chunk `index` of `call`. Returns whether it is present.
    pub fn touch(&mut self, call: Call, index: u32, key: &ChunkKey) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        self.order.remove(&entry.last_use);
        entry.last_use = call.use_of(index);
        if !entry.pinned {
            self.order.insert(entry.last_use, *key);
        }
        true
    }

    /// Reserves `size_bytes` for a chunk of `call`, evicting what was used longest ago. The caller
    /// disposes of what is returned, then calls [`insert`](Self::insert) or
    /// [`release`](Self::release) with the same size.
    ///
    /// # Errors
    /// [`Full`] if that is impossible; then nothing is evicted.
    pub fn reserve(&mut self, call: Call, size_bytes: u64) -> Result<Vec<Removed<V>>, Full> {
        let wanted = self.size_bytes().checked_add(size_bytes).ok_or(Full)?;
        let excess = wanted.saturating_sub(self.capacity_bytes);
        let victims = self.victims(excess, call.first_use).ok_or(Full)?;
        let removed = victims.iter().filter_map(|key| self.remove(key)).collect();
        self.reserved_bytes += size_bytes;
        Ok(removed)
    }

    /// Gives back reserved room that is not needed after all.
    pub fn release(&mut self, size_bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(size_bytes);
    }

    /// Puts `key`, chunk `index` of `call`, into the room that was reserved for it. Returns the value
    /// that it replaces, if there is one; its pin stays.
    pub fn insert(
        &mut self,
        call: Call,
        index: u32,
        key: ChunkKey,
        size_bytes: u64,
        value: V,
    ) -> Option<Removed<V>> {
        self.release(size_bytes);
        self.adopt(call, index, key, size_bytes, value)
    }

    /// As [`insert`](Self::insert), without reserved room: for chunks that a store finds when it
    /// opens. [`shrink`](Self::shrink) afterwards.
    pub fn adopt(
        &mut self,
        call: Call,
        index: u32,
        key: ChunkKey,
        size_bytes: u64,
        value: V,
    ) -> Option<Removed<V>> {
        let pinned = self.entries.get(&key).is_some_and(|entry| entry.pinned);
        let replaced = self.remove(&key);
        let last_use = call.use_of(index);
        self.used_bytes += size_bytes;
        if !pinned {
            self.order.insert(last_use, key);
        }
        self.entries.insert(key, Entry { value, size_bytes, last_use, pinned });
        replaced
    }

    /// Takes `key` out, pinned or not.
    pub fn remove(&mut self, key: &ChunkKey) -> Option<Removed<V>> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.last_use);
        self.used_bytes -= entry.size_bytes;
        Some(Removed { key: *key, value: entry.value, size_bytes: entry.size_bytes })
    }

    /// Protects the leading run of `keys` that is present, and returns its length.
    pub fn pin(&mut self, keys: &[ChunkKey]) -> usize {
        let run = self.leading_run(keys);
        for key in &keys[..run] {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.pinned = true;
                self.order.remove(&entry.last_use);
            }
        }
        run
    }

    /// Ends the protection of `keys`, and returns how many were pinned.
    pub fn unpin(&mut self, keys: &[ChunkKey]) -> usize {
        let mut n_pinned = 0;
        for key in keys {
            if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.pinned) {
                entry.pinned = false;
                self.order.insert(entry.last_use, *key);
                n_pinned += 1;
            }
        }
        n_pinned
    }

    /// Evicts until the index keeps to its capacity, for one that [`adopt`](Self::adopt)ed
    /// what it found.
    pub fn shrink(&mut self) -> Vec<Removed<V>> {
        let excess = self.size_bytes().saturating_sub(self.capacity_bytes);
        let victims = self.victims(excess, u64::MAX).unwrap_or_default();
        victims.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The entries used longest ago, and before `before`, that hold `excess` bytes. `None` if there
    /// are not enough.
    fn victims(&self, excess: u64, before: u64) -> Option<Vec<ChunkKey>> {
        let mut victims = Vec::new();
        let mut freed = 0;
        let mut oldest = self.order.range(..before);
        while freed < excess {
            let (_, key) = oldest.next()?;
            freed += self.entries[key].size_bytes;
            victims.push(*key);
        }
        Some(victims)
    }
}

impl Call {
    fn use_of(self, index: u32) -> u64 {
        self.first_use + self.n_chunks.saturating_sub(1 + u64::from(index))
    }
}

#[cfg(test)]
mod tests;
