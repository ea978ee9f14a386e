//! The running sums of the index.

use crate::chunk::Sizes;

/// Sums over all entries; footprints are payload sizes rounded up by the provider.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(in crate::cpu) struct Sums {
    pub(in crate::cpu) entries: usize,
    pub(in crate::cpu) payload_bytes: usize,
    pub(in crate::cpu) footprint_bytes: usize,
    pub(in crate::cpu) pinned_entries: usize,
    pinned_footprint_bytes: usize,
}

impl Sums {
    /// Adds an entry, which is not pinned.
    pub(super) fn add(&mut self, sizes: Sizes) {
        self.entries += 1;
        self.payload_bytes += sizes.payload_bytes;
        self.footprint_bytes += sizes.footprint_bytes;
    }

    /// Removes an entry. A pinned one is also removed from the [pinned](Self::remove_pinned) ones.
    pub(super) fn remove(&mut self, sizes: Sizes) {
        self.entries -= 1;
        self.payload_bytes -= sizes.payload_bytes;
        self.footprint_bytes -= sizes.footprint_bytes;
    }

    /// Adds an entry to the pinned ones.
    pub(super) fn add_pinned(&mut self, sizes: Sizes) {
        self.pinned_entries += 1;
        self.pinned_footprint_bytes += sizes.footprint_bytes;
    }

    /// Removes an entry from the pinned ones.
    pub(super) fn remove_pinned(&mut self, sizes: Sizes) {
        self.pinned_entries -= 1;
        self.pinned_footprint_bytes -= sizes.footprint_bytes;
    }

    pub(super) fn unpinned_footprint_bytes(&self) -> usize {
        self.footprint_bytes - self.pinned_footprint_bytes
    }
}
