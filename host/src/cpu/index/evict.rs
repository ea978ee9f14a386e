//! Eviction: entries leave in the order of the policy, except those that are held.

use super::Index;
use crate::chunk::{RemovedChunk, record};
use crate::cpu::table::LOOKED_AHEAD;
use crate::key::ChunkKey;

impl Index {
    fn mean_footprint_bytes(&self) -> usize {
        (self.sums.footprint_bytes / self.sums.entries.max(1)).max(1)
    }

    /// Loads the records of the next candidates, so that the processor waits for many cache lines simultaneously.
    fn look_ahead(&self, n_entries: usize) {
        if n_entries > 1 {
            let mut keys = [ChunkKey { hi: 0, lo: 0 }; LOOKED_AHEAD];
            let mut n_keys = 0;
            self.order.upcoming(n_entries, |slot| {
                keys[n_keys] = record(slot).key();
                n_keys += 1;
            });
            self.table.look_ahead(&keys[..n_keys]);
        }
    }

    /// Takes out the next entries of the policy, except held ones, until their memory is `n_bytes` or none are left.
    pub(in crate::cpu) fn evict(&mut self, n_bytes: usize, left: &mut Vec<RemovedChunk>) {
        let (mut n_evicted_bytes, mut n_looked_at) = (0, 0);
        while n_evicted_bytes < n_bytes {
            if n_looked_at == 0 {
                n_looked_at = LOOKED_AHEAD;
                let n_more = (n_bytes - n_evicted_bytes) / self.mean_footprint_bytes();
                self.look_ahead(n_more.min(LOOKED_AHEAD));
            }
            n_looked_at -= 1;
            let Some(slot) = self.order.candidate() else { return };
            let sizes = self.sizes(record(slot));
            if let Some(gone) = self.leave_or_park(slot) {
                self.evictions.pressure += 1;
                self.order.evict(slot);
                self.uncount(slot, sizes);
                n_evicted_bytes += sizes.footprint_bytes;
                left.push(gone);
            }
        }
    }
}
