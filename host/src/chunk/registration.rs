//! Which index has a chunk, and how that index is notified that a reader is gone.
//!
//! A number instead of a reference: it fits into a chunk's record, it can be read while the record
//! changes hands, and one that has gone out of date names nobody.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, Weak};

use super::slot::{IndexId, Slot};

/// Hears that a chunk which it watches has lost its last reader. Called outside any lock of ours. May
/// be told in vain: it looks for itself.
pub(crate) trait Watcher: Send + Sync {
    fn last_reader_gone(&self, slot: Slot);
}

/// An index's own name, for as long as the index lives.
pub(crate) struct IndexRegistration(IndexId);

struct Registrations {
    last: u32,
    watchers: Option<HashMap<u32, Weak<dyn Watcher>>>,
}

static REGISTRATIONS: RwLock<Registrations> = RwLock::new(Registrations { last: 0, watchers: None });

impl IndexRegistration {
    pub(crate) fn new(watcher: Weak<dyn Watcher>) -> Self {
        let mut registrations = REGISTRATIONS.write().unwrap_or_else(PoisonError::into_inner);
        let mut id = registrations.last;
        let watchers = registrations.watchers.get_or_insert_default();
        loop {
            id = id.wrapping_add(1);
            if id != 0 && !watchers.contains_key(&id) {
                break;
            }
        }
        watchers.insert(id, watcher);
        registrations.last = id;
        Self(IndexId(id))
    }

    pub(crate) fn id(&self) -> IndexId {
        self.0
    }
}

impl Drop for IndexRegistration {
    fn drop(&mut self) {
        let mut registrations = REGISTRATIONS.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(watchers) = &mut registrations.watchers {
            watchers.remove(&self.0.0);
        }
    }
}

impl IndexId {
    /// Tells the index, if there still is one.
    pub(super) fn tell(self, slot: Slot) {
        let registrations = REGISTRATIONS.read().unwrap_or_else(PoisonError::into_inner);
        let watcher = registrations.watchers.as_ref().and_then(|watchers| watchers.get(&self.0)?.upgrade());
        drop(registrations);
        if let Some(watcher) = watcher {
            watcher.last_reader_gone(slot);
        }
    }
}
