//! Room: what is used and free, reserving, evicting, and memory for entries.

use super::entry::{NONE, SEGMENT};
use super::{CHUNK_BYTES_MAX, Call, Full, Lru, Removed, SPARE_BYTES};
use crate::ChunkKey;

impl<V> Lru<V> {
    /// Returns the bytes of all entries, of all reserved room, and of what is outside.
    pub fn size_bytes(&self) -> u64 {
        let inside = self.used_bytes.saturating_add(self.reserved_bytes);
        inside.saturating_add(self.outside_bytes)
    }

    /// Returns the bytes that a chunk may have without evicting another.
    pub fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.size_bytes())
    }

    /// Sets the bytes that count against the capacity and belong to no entry.
    pub fn set_outside_bytes(&mut self, size_bytes: u64) {
        self.outside_bytes = size_bytes;
    }

    /// Reserves room for chunks of `call` of these sizes, evicting what was used longest ago. The caller disposes of
    /// what is returned, then calls [`insert`](Self::insert) or [`release`](Self::release) for each, with the same
    /// size.
    ///
    /// # Errors
    /// [`Full`] if that is impossible; then nothing is evicted.
    pub fn reserve(&mut self, call: Call, sizes_bytes: &[u64]) -> Result<Vec<Removed<V>>, Full> {
        let victims = self.would_evict(call, sizes_bytes)?;
        let removed = victims.iter().filter_map(|key| self.remove(key)).collect();
        self.n_reserved += sizes_bytes.len();
        self.reserved_bytes += sizes_bytes.iter().sum::<u64>();
        Ok(removed)
    }

    /// Returns what [`reserve`](Self::reserve) would evict, without evicting it.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn would_evict(&mut self, call: Call, sizes_bytes: &[u64]) -> Result<Vec<ChunkKey>, Full> {
        let wanted = sizes_bytes.iter().try_fold(self.size_bytes(), |sum, &size_bytes| {
            sum.checked_add(size_bytes).filter(|_| size_bytes <= CHUNK_BYTES_MAX)
        });
        let excess_bytes = wanted.ok_or(Full)?.saturating_sub(self.capacity_bytes);
        let n_excess = self.missing_entries(sizes_bytes.len());
        self.victims(n_excess, excess_bytes, call.first_use).ok_or(Full)
    }

    /// Reserves `size_bytes` of the free bytes, but no entry. Given back by [`release_bytes`](Self::release_bytes).
    pub fn hold_bytes(&mut self, size_bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_add(size_bytes);
    }

    /// Gives back what [`hold_bytes`](Self::hold_bytes) has reserved.
    pub fn release_bytes(&mut self, size_bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(size_bytes);
    }

    /// Gives back room reserved for a chunk that is not needed after all.
    pub fn release(&mut self, size_bytes: u64) {
        self.n_reserved = self.n_reserved.saturating_sub(1);
        self.release_bytes(size_bytes);
    }

    /// Evicts until the index keeps to its capacity, for one that [`adopt`](Self::adopt)ed what it found; `n_max`
    /// entries at most. Returns nothing when it keeps to it, or when all that is left is pinned.
    pub fn shrink(&mut self, n_max: usize) -> Vec<Removed<V>> {
        let victims = self.surplus(n_max);
        victims.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Returns what [`shrink`](Self::shrink) would evict, without evicting it.
    pub fn surplus(&mut self, n_max: usize) -> Vec<ChunkKey> {
        self.order.found = None;
        let mut excess_bytes = self.size_bytes().saturating_sub(self.capacity_bytes);
        let mut victims = Vec::new();
        let mut at = self.order.oldest;
        while excess_bytes > 0 && at != NONE && victims.len() < n_max {
            let entry = &self.entries[at];
            excess_bytes = excess_bytes.saturating_sub(entry.size_bytes.into());
            victims.push(entry.key());
            at = entry.younger;
        }
        victims
    }

    /// Takes memory for `n` entries more than there are and are reserved. Returns for how many there is none.
    pub(super) fn missing_entries(&mut self, n: usize) -> usize {
        let wanted = self.entries.len() + self.n_reserved + n;
        while self.entries.room() < wanted.min(self.entries_max) {
            self.is_out_of_memory = self.grow().is_none();
            if self.is_out_of_memory {
                break;
            }
        }
        wanted.saturating_sub(self.entries.room().min(self.entries_max))
    }

    /// Takes memory for one more segment, unless too little would be left for others. The first segment is taken
    /// however little there is.
    fn grow(&mut self) -> Option<()> {
        if self.entries.room() > 0 {
            let mut spare = Vec::<u8>::new();
            spare.try_reserve_exact(SPARE_BYTES + SEGMENT * Self::ENTRY_BYTES).ok()?;
            // The compiler removes an unused allocation, which then never fails.
            drop(std::hint::black_box(spare));
        }
        self.table.grow_for(self.entries.room() + SEGMENT).ok()?;
        self.entries.grow().ok()
    }

    /// Returns the entries used longest ago, and before `before`: at least `n` entries that hold at least `n_bytes`.
    /// `None` if there are not enough.
    fn victims(&self, n: usize, n_bytes: u64, before: u64) -> Option<Vec<ChunkKey>> {
        let (mut victims, mut freed_bytes) = (Vec::new(), 0);
        let youngest_age = self.order.age_of(before);
        let mut at = self.order.oldest;
        while freed_bytes < n_bytes || victims.len() < n {
            let entry = (at != NONE).then(|| &self.entries[at])?;
            if self.order.age(entry.stamp) <= youngest_age {
                return None;
            }
            freed_bytes += u64::from(entry.size_bytes);
            victims.push(entry.key());
            at = entry.younger;
        }
        Some(victims)
    }
}
