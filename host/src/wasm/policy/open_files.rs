//! How many descriptors of the process an instance holds.
//!
//! WASI's own types own them, and streams share them, so nothing tells when one is closed. What is remembered of each
//! is enough to find out: a weak reference to a file, the place of a socket in the table.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::Descriptor;

use crate::wasm::state::file_work::Begun;

/// The files, directories and sockets that an instance has open, beside the directories that it is granted.
pub(in crate::wasm) struct OpenFiles {
    max: usize,
    files: Vec<Weak<dyn Any + Send + Sync>>,
    /// By place: whether what is there still is what was put there.
    in_table: BTreeMap<u32, IsThere>,
}

/// Tells whether what is at a place of the table still is what was put there.
type IsThere = fn(&ResourceTable, u32) -> bool;

/// Returns the question whether a resource is still at its place.
fn is_there<T: 'static>(_: &Resource<T>) -> IsThere {
    |table, place| table.get(&Resource::<T>::new_borrow(place)).is_ok()
}

/// A place among the open files, held by what is being opened.
pub(in crate::wasm) struct Place(#[expect(dead_code, reason = "is there to be dropped")] Arc<()>);

impl OpenFiles {
    pub(in crate::wasm) fn new(max: usize) -> Self {
        Self { max, files: Vec::new(), in_table: BTreeMap::new() }
    }

    /// Tells whether there is room for one more. Looks after what has been closed only if there seems to be none.
    pub(in crate::wasm) fn have_room(&mut self, table: &ResourceTable) -> bool {
        if self.count() >= self.max {
            self.files.retain(|file| file.strong_count() > 0);
            self.in_table.retain(|place, is_there| is_there(table, *place));
        }
        self.count() < self.max
    }

    /// Takes a place for something that is about to be opened, if there is room.
    pub(in crate::wasm) fn reserve(&mut self, table: &ResourceTable) -> Option<Place> {
        self.have_room(table).then(|| {
            let place = Arc::new(());
            let weak = Arc::downgrade(&place);
            self.files.push(weak);
            Place(place)
        })
    }

    /// Counts a descriptor that has been opened, instead of the place that was held for it.
    pub(in crate::wasm) fn opened(
        &mut self,
        table: &ResourceTable,
        descriptor: &Resource<Descriptor>,
        _place: Place,
    ) {
        let file = match table.get(descriptor) {
            Ok(Descriptor::File(file)) => Arc::downgrade(&file.file),
            Ok(Descriptor::Dir(directory)) => Arc::downgrade(&directory.dir),
            Err(_) => return,
        };
        self.files.push(file);
    }

    /// Counts what has been put into the table, for as long as it is there.
    pub(in crate::wasm) fn put<T: 'static>(&mut self, resource: &Resource<T>) {
        self.in_table.insert(resource.rep(), is_there(resource));
    }

    fn count(&self) -> usize {
        self.files.len() + self.in_table.len()
    }
}

/// The streams of WASI 0.2 from and to files that an instance holds. Each is a pending operation, since it may have one
/// under way, and what it has under way is not ended by the end of the instance.
pub(in crate::wasm) struct FileStreams {
    max: usize,
    live: BTreeMap<u32, (IsThere, Begun)>,
    threads: Handle,
}

impl FileStreams {
    /// Allows `max` of them, which work on `threads`.
    pub(in crate::wasm) fn new(max: usize, threads: &Handle) -> Self {
        Self { max, live: BTreeMap::new(), threads: threads.clone() }
    }

    /// Tells whether there is room for one more.
    pub(in crate::wasm) fn have_room(&mut self, table: &ResourceTable) -> bool {
        // At once: what is gone would count as pending for the other lanes.
        self.live.retain(|place, (is_there, _)| is_there(table, *place));
        self.live.len() < self.max
    }

    /// Counts a stream for as long as it is in the table.
    pub(in crate::wasm) fn put<T: 'static>(&mut self, stream: &Resource<T>, begun: Begun) {
        self.live.insert(stream.rep(), (is_there(stream), begun));
    }
}

impl Drop for FileStreams {
    fn drop(&mut self) {
        let live = std::mem::take(&mut self.live);
        if !live.is_empty() {
            // Behind what they have under way, which is what the threads come to first.
            drop(self.threads.spawn_blocking(move || drop(live)));
        }
    }
}
