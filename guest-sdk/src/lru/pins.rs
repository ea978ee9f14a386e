//! Protection from eviction: a pinned entry is in no order.

use super::Lru;
use crate::ChunkKey;

impl<V> Lru<V> {
    /// Protects the leading run of `keys` that is present, and returns its length.
    pub fn pin(&mut self, keys: &[ChunkKey]) -> usize {
        let run = self.leading_run(keys);
        for key in &keys[..run] {
            if let Some(at) = self.find(key) {
                self.order.remove(&mut self.entries, at);
                self.entries[at].set_pinned();
            }
        }
        run
    }

    /// Ends the protection of `keys`, and returns how many were pinned. That counts as a use of them.
    pub fn unpin(&mut self, keys: &[ChunkKey]) -> usize {
        let call = self.call(keys.len());
        let mut n_pinned = 0;
        for (key, index) in keys.iter().zip(0..) {
            let pinned = self.find(key).filter(|&at| self.entries[at].is_pinned());
            if let Some(at) = pinned {
                self.entries[at].stamp = call.use_of(index) as u32;
                self.order.place(&mut self.entries, at);
                n_pinned += 1;
            }
        }
        n_pinned
    }
}
