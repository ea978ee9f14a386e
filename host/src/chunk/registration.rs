//! Names of indexes, and their notification when a chunk loses its last reader.
//!
//! An index has a number. It fits into a chunk's record, it can be read while the record changes hands, and an outdated
//! number names no index.

use std::collections::HashMap;
use std::sync::{RwLock, Weak};

use super::slot::{IndexId, Slot};
use crate::sync::{read, write};

/// Receives a notification when a watched chunk has lost its last reader, outside any lock of this crate. The
/// notification may be outdated, so an implementation looks for itself.
pub(crate) trait Watcher: Send + Sync {
    fn last_reader_gone(&self, slot: Slot);
}

/// The name of an index, for as long as the index lives.
pub(crate) struct IndexRegistration(IndexId);

struct Registrations {
    last: u32,
    watchers: Option<HashMap<u32, Weak<dyn Watcher>>>,
}

static REGISTRATIONS: RwLock<Registrations> = RwLock::new(Registrations { last: 0, watchers: None });

impl IndexRegistration {
    pub(crate) fn new(watcher: Weak<dyn Watcher>) -> Self {
        let mut registrations = write(&REGISTRATIONS);
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
        let mut registrations = write(&REGISTRATIONS);
        if let Some(watchers) = &mut registrations.watchers {
            watchers.remove(&self.0.0);
        }
    }
}

impl IndexId {
    /// Notifies the index if it still exists.
    pub(super) fn notify(self, slot: Slot) {
        let registrations = read(&REGISTRATIONS);
        let watcher = registrations.watchers.as_ref().and_then(|watchers| watchers.get(&self.0)?.upgrade());
        drop(registrations);
        if let Some(watcher) = watcher {
            watcher.last_reader_gone(slot);
        }
    }
}
