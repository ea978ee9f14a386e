//! What the index keeps of a chunk.

use super::segments::Segments;
use crate::ChunkKey;

/// In the place of an entry's number: there is none.
pub(super) const NONE: u32 = u32::MAX;
/// In the place of the next older entry: this one is pinned, and in no order.
const PINNED: u32 = u32::MAX - 1;

/// Entries a segment.
pub(super) const SEGMENT: usize = 1024;

/// The entries, without gaps, known by their numbers. The last one takes the place of one that is removed.
pub(super) type Entries<V> = Segments<Entry<V>, SEGMENT>;

/// One chunk. Words of 32 bits, so that nothing is lost between them: 36 bytes beside the value.
pub(super) struct Entry<V> {
    key: [u32; 4],
    pub(super) size_bytes: u32,
    /// When it was used last, see [`Order`](super::order::Order).
    pub(super) stamp: u32,
    /// Its neighbours in the order of use.
    pub(super) older: u32,
    pub(super) younger: u32,
    /// The next entry of its bucket.
    pub(super) next: u32,
    pub(super) value: V,
}

impl<V> Entry<V> {
    pub(super) fn new(key: ChunkKey, size_bytes: u32, stamp: u32, value: V) -> Self {
        let ChunkKey { hi, lo } = key;
        let key = [(hi >> 32) as u32, hi as u32, (lo >> 32) as u32, lo as u32];
        Self { key, size_bytes, stamp, older: NONE, younger: NONE, next: NONE, value }
    }

    pub(super) fn key(&self) -> ChunkKey {
        let [a, b, c, d] = self.key.map(u64::from);
        ChunkKey { hi: a << 32 | b, lo: c << 32 | d }
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.older == PINNED
    }

    /// Marks an entry that has left the order.
    pub(super) fn set_pinned(&mut self) {
        (self.older, self.younger) = (PINNED, NONE);
    }
}
