//! Removals that a backend still owes: of keys that it could not be asked to remove.
//!
//! They are in memory only, and bounded. A caller that got an error and must be sure of the removal repeats it.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::key::ChunkKey;
use crate::limits::{REMOVAL_TRIES_MAX, REMOVALS_OWED_MAX};
use crate::sync::lock;

/// The removals that a backend owes.
#[derive(Default)]
pub(in crate::manager) struct Owed {
    pub(super) keys: Mutex<Keys>,
    /// The number of keys, readable without the lock.
    n: AtomicUsize,
    /// A delivery is under way in the background.
    pub(super) under_way: AtomicBool,
    /// Notified when a delivery has ended.
    pub(super) ended: Notify,
}

#[derive(Default)]
pub(super) struct Keys {
    pub(super) keys: HashSet<ChunkKey>,
    /// Failed deliveries that the breaker had admitted.
    n_tries: u32,
}

impl Owed {
    pub(in crate::manager) fn len(&self) -> usize {
        self.n.load(Ordering::Acquire)
    }

    /// Reports whether the removal of any of `keys` is owed.
    pub(super) fn concerns(&self, keys: impl IntoIterator<Item = ChunkKey>) -> bool {
        let owed = lock(&self.keys);
        keys.into_iter().any(|key| owed.keys.contains(&key))
    }

    /// Adds keys as far as there is room, and returns how many did not fit.
    pub(super) fn add(&self, keys: &[ChunkKey]) -> usize {
        let mut owed = lock(&self.keys);
        let mut n_refused = 0;
        for key in keys {
            if owed.keys.len() < REMOVALS_OWED_MAX {
                owed.keys.insert(*key);
            } else if !owed.keys.contains(key) {
                n_refused += 1;
            }
        }
        self.n.store(owed.keys.len(), Ordering::Release);
        n_refused
    }

    /// Removes keys whose removal was delivered.
    pub(super) fn take_off(&self, keys: &[ChunkKey]) {
        let mut owed = lock(&self.keys);
        for key in keys {
            owed.keys.remove(key);
        }
        owed.n_tries = 0;
        self.n.store(owed.keys.len(), Ordering::Release);
    }

    /// Notes a failed delivery. After too many of them, drops all keys and returns their number.
    pub(super) fn failed(&self) -> usize {
        let mut owed = lock(&self.keys);
        owed.n_tries += 1;
        if owed.n_tries < REMOVAL_TRIES_MAX {
            return 0;
        }
        let given_up = std::mem::take(&mut *owed);
        self.n.store(0, Ordering::Release);
        given_up.keys.len()
    }
}
