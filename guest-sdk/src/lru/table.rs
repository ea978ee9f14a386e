//! Finds entries by key: linear hashing, which splits one bucket at a time.

use std::collections::TryReserveError;
use std::hash::BuildHasher as _;

use super::entry::{Entries, NONE, SEGMENT};
use super::hash::KeyHashing;
use super::segments::Segments;
use crate::ChunkKey;

/// Entries a bucket, on average.
pub(super) const PER_BUCKET: usize = 2;

/// Chains of entries, by the hash of their keys.
pub(super) struct Table {
    /// The first entry of each bucket.
    buckets: Segments<u32, { SEGMENT / PER_BUCKET }>,
    hashing: KeyHashing,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { buckets: Segments::new(), hashing: KeyHashing::default() }
    }

    /// Takes memory for as many buckets as a segment of entries needs, unless there is enough for `n_entries`.
    pub(super) fn grow_for(&mut self, n_entries: usize) -> Result<(), TryReserveError> {
        if self.buckets.room() * PER_BUCKET < n_entries { self.buckets.grow() } else { Ok(()) }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.buckets.room() * size_of::<u32>()
    }

    #[inline]
    pub(super) fn find<V>(&self, entries: &Entries<V>, key: &ChunkKey) -> Option<u32> {
        if self.buckets.len() == 0 {
            return None;
        }
        let mut at = self.buckets[self.bucket_of(key)];
        while at != NONE {
            let entry = &entries[at];
            if entry.key() == *key {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// Takes in the entry `at`, whose key is not there. Splits a bucket if there are too few.
    pub(super) fn insert<V>(&mut self, entries: &mut Entries<V>, at: u32) {
        if self.buckets.len() * PER_BUCKET < entries.len() {
            self.split(entries);
        }
        let bucket = self.bucket_of(&entries[at].key());
        entries[at].next = std::mem::replace(&mut self.buckets[bucket], at);
    }

    pub(super) fn remove<V>(&mut self, entries: &mut Entries<V>, at: u32) {
        let (key, next) = (entries[at].key(), entries[at].next);
        self.redirect(entries, &key, at, next);
    }

    /// Notes that the entry `from` is now `to`.
    pub(super) fn moved<V>(&mut self, entries: &mut Entries<V>, from: u32, to: u32) {
        let key = entries[to].key();
        self.redirect(entries, &key, from, to);
    }

    /// Replaces the link to `from`, in the bucket of `key`, by one to `to`.
    fn redirect<V>(&mut self, entries: &mut Entries<V>, key: &ChunkKey, from: u32, to: u32) {
        let bucket = self.bucket_of(key);
        let first = &mut self.buckets[bucket];
        if *first == from {
            *first = to;
            return;
        }
        let mut at = *first;
        while entries[at].next != from {
            at = entries[at].next;
        }
        entries[at].next = to;
    }

    /// Adds a bucket, which takes its entries from one other.
    fn split<V>(&mut self, entries: &mut Entries<V>) {
        let added = self.buckets.len() as u32;
        self.buckets.push(NONE);
        if added == 0 {
            return;
        }
        let from = added & ((added + 1).next_power_of_two() / 2 - 1);
        let mut at = std::mem::replace(&mut self.buckets[from], NONE);
        while at != NONE {
            let bucket = self.bucket_of(&entries[at].key());
            let next = entries[at].next;
            entries[at].next = std::mem::replace(&mut self.buckets[bucket], at);
            at = next;
        }
    }

    /// Buckets are numbered by as many bits as they need; those beyond the last are not split off yet.
    #[inline]
    fn bucket_of(&self, key: &ChunkKey) -> u32 {
        let n = self.buckets.len() as u32;
        let mask = n.next_power_of_two() - 1;
        let bucket = self.hashing.hash_one(key) as u32 & mask;
        if bucket < n { bucket } else { bucket & mask >> 1 }
    }
}
