//! An index of chunks that keeps to a capacity: sizes, recency, pins and reserved room.
//!
//! It holds no bytes and does no I/O: a value per chunk states where the bytes are, and evicted entries are handed back
//! to the caller. Sizes of all entries and of all reserved room together never exceed the capacity, unless a store
//! takes in what it finds.
//!
//! # Memory
//! An entry costs [`Lru::ENTRY_BYTES`]: 38 bytes and the value. Memory is taken for 1024 entries at a time; no table
//! doubles, and nothing is moved while the index grows. An instance with the default `limits.memory` of 64 MiB has room
//! for 1.5 million entries without a value.
//!
//! When the instance gets no more memory, the index is full, as if its capacity in bytes were:
//! [`reserve`](Lru::reserve) evicts for a new chunk what was used longest ago, and [`adopt_found`](Lru::adopt_found)
//! takes nothing more in. It never traps. [`SPARE_BYTES`] are left for what the instance does beside it.
//! [`Lru::is_out_of_memory`] reports it.

mod entry;
mod found;
mod hash;
mod order;
mod pins;
mod room;
mod segments;
mod table;

use std::fmt;
use std::time::Duration;

use self::entry::{Entries, Entry};
use self::found::Found;
use self::order::Order;
use self::table::{PER_BUCKET, Table};
use crate::ChunkKey;

/// Largest chunk that the index takes, in bytes.
pub const CHUNK_BYTES_MAX: u64 = u32::MAX as u64;

/// Memory in bytes that a growing index leaves free in its instance: for the calls that are inside.
pub const SPARE_BYTES: usize = 4 << 20;

/// Most entries of an index, whatever its memory.
const ENTRIES_MAX: usize = 1 << 31;

/// An index of chunks, bounded in bytes and by memory, that evicts what was used longest ago.
pub struct Lru<V> {
    entries: Entries<V>,
    table: Table,
    order: Order,
    entries_max: usize,
    n_reserved: usize,
    is_out_of_memory: bool,
    capacity_bytes: u64,
    used_bytes: u64,
    reserved_bytes: u64,
    outside_bytes: u64,
}

/// The uses of one call. Of its chunks the head of the prompt counts as used last, because a tail without its head is
/// of no use; and none of them makes room for another.
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
    /// The value that was stored with it.
    pub value: V,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// There is no room: the chunk is larger than what is neither pinned nor reserved, or than [`CHUNK_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl From<Full> for crate::Error {
    fn from(_: Full) -> Self {
        Self::NoSpace
    }
}

impl<V> Lru<V> {
    /// Memory that an entry takes, in bytes.
    pub const ENTRY_BYTES: usize = size_of::<Entry<V>>() + size_of::<u32>() / PER_BUCKET;

    /// Makes an empty index for `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Self {
        Self {
            entries: Entries::new(),
            table: Table::new(),
            order: Order::new(),
            entries_max: ENTRIES_MAX,
            n_reserved: 0,
            is_out_of_memory: false,
            capacity_bytes,
            used_bytes: 0,
            reserved_bytes: 0,
            outside_bytes: 0,
        }
    }

    /// Bounds the number of entries, beside the bytes.
    #[must_use]
    pub fn with_entries_max(mut self, n: usize) -> Self {
        self.entries_max = n.min(ENTRIES_MAX);
        self
    }

    /// Begins a call on `n_chunks` chunks.
    pub fn call(&mut self, n_chunks: usize) -> Call {
        let n_chunks = n_chunks as u64;
        Call { first_use: self.order.advance(&mut self.entries, n_chunks), n_chunks }
    }

    /// Returns the number of chunks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Reports whether there are no chunks.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// Reports whether the index has less memory than it asked for last.
    pub fn is_out_of_memory(&self) -> bool {
        self.is_out_of_memory
    }

    /// Returns the memory that the index has taken, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let found = self.order.found.as_ref().map_or(0, Found::memory_bytes);
        self.entries.room() * size_of::<Entry<V>>() + self.table.memory_bytes() + found
    }

    /// Returns the value and the size of `key`.
    pub fn get(&self, key: &ChunkKey) -> Option<(&V, u64)> {
        let entry = &self.entries[self.find(key)?];
        Some((&entry.value, entry.size_bytes.into()))
    }

    /// Returns how many of `keys`, counted from the first, are present without a gap.
    pub fn leading_run(&self, keys: &[ChunkKey]) -> usize {
        keys.iter().take_while(|key| self.find(key).is_some()).count()
    }

    /// Counts a use of `key`, chunk `index` of `call`. Reports whether it is present.
    pub fn touch(&mut self, call: Call, index: u32, key: &ChunkKey) -> bool {
        let Some(at) = self.find(key) else {
            return false;
        };
        self.order.remove(&mut self.entries, at);
        self.entries[at].stamp = call.use_of(index) as u32;
        if !self.entries[at].is_pinned() {
            self.order.place(&mut self.entries, at);
        }
        true
    }

    /// Puts `key`, chunk `index` of `call`, into the room that was reserved for it. Returns the value that it replaces,
    /// if there is one; its pin stays.
    ///
    /// # Errors
    /// [`Full`] if no room was reserved, and there is no memory for another entry.
    pub fn insert(
        &mut self,
        call: Call,
        index: u32,
        key: ChunkKey,
        size_bytes: u64,
        value: V,
    ) -> Result<Option<Removed<V>>, Full> {
        self.release(size_bytes);
        self.adopt(call, index, key, size_bytes, value)
    }

    /// As [`insert`](Self::insert), without reserved room: for a chunk that a store comes upon. Evicts nothing;
    /// [`shrink`](Self::shrink) afterwards.
    ///
    /// # Errors
    /// [`Full`] if there is no memory for another entry, or the chunk is too large.
    pub fn adopt(
        &mut self,
        call: Call,
        index: u32,
        key: ChunkKey,
        size_bytes: u64,
        value: V,
    ) -> Result<Option<Removed<V>>, Full> {
        let size = u32::try_from(size_bytes).map_err(|_| Full)?;
        let stamp = call.use_of(index) as u32;
        if let Some(at) = self.find(&key) {
            let entry = &mut self.entries[at];
            self.used_bytes = self.used_bytes - u64::from(entry.size_bytes) + size_bytes;
            let replaced = Removed {
                key,
                value: std::mem::replace(&mut entry.value, value),
                size_bytes: entry.size_bytes.into(),
            };
            entry.size_bytes = size;
            self.touch(call, index, &key);
            return Ok(Some(replaced));
        }
        let at = self.push(Entry::new(key, size, stamp, value))?;
        self.order.place(&mut self.entries, at);
        Ok(None)
    }

    /// Takes in a chunk that a store finds when it looks through what there is. It was last used `age` ago, before any
    /// counted use. One that is present stays as it is. Chunks of about the same age, within a hundredth, may change
    /// places if there are many. [`shrink`](Self::shrink) afterwards.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt).
    pub fn adopt_found(
        &mut self,
        key: ChunkKey,
        size_bytes: u64,
        age: Duration,
        value: V,
    ) -> Result<(), Full> {
        if self.find(&key).is_some() {
            return Ok(());
        }
        let size = u32::try_from(size_bytes).map_err(|_| Full)?;
        if self.order.found.is_none() {
            let now = self.order.advance(&mut self.entries, 0);
            self.order.found = Some(Found::new(now as u32).ok_or(Full)?);
        }
        let stamp = self.order.found.as_ref().map_or(0, |found| found.stamp(age));
        let at = self.push(Entry::new(key, size, stamp, value))?;
        self.order.place_found(&mut self.entries, at);
        Ok(())
    }

    /// Takes `key` out, pinned or not.
    pub fn remove(&mut self, key: &ChunkKey) -> Option<Removed<V>> {
        let at = self.find(key)?;
        self.order.remove(&mut self.entries, at);
        self.table.remove(&mut self.entries, at);
        let entry = self.entries.swap_remove(at);
        let last = self.entries.len() as u32;
        if at != last {
            self.table.moved(&mut self.entries, last, at);
            self.order.moved(&mut self.entries, last, at);
        }
        self.entries.trim(self.entries.len() + self.n_reserved);
        let size_bytes = entry.size_bytes.into();
        self.used_bytes -= size_bytes;
        Some(Removed { key: *key, value: entry.value, size_bytes })
    }

    /// Forgets all entries, pinned or not. What is reserved stays so.
    pub fn clear(&mut self) {
        self.entries = Entries::new();
        self.table = Table::new();
        self.order.clear();
        (self.used_bytes, self.outside_bytes) = (0, 0);
    }

    fn find(&self, key: &ChunkKey) -> Option<u32> {
        self.table.find(&self.entries, key)
    }

    /// Adds an entry whose key is not there, in no order yet.
    fn push(&mut self, entry: Entry<V>) -> Result<u32, Full> {
        if self.missing_entries(1) > 0 {
            return Err(Full);
        }
        let at = self.entries.len() as u32;
        self.used_bytes += u64::from(entry.size_bytes);
        self.entries.push(entry);
        self.table.insert(&mut self.entries, at);
        Ok(at)
    }
}

impl<V> fmt::Debug for Lru<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lru")
            .field("len", &self.len())
            .field("size_bytes", &self.size_bytes())
            .field("capacity_bytes", &self.capacity_bytes)
            .finish_non_exhaustive()
    }
}

impl Call {
    fn use_of(self, index: u32) -> u64 {
        self.first_use + self.n_chunks.saturating_sub(1 + u64::from(index))
    }
}

#[cfg(test)]
mod tests;
