//! The streams of WASI 0.2 from and to files that an instance holds.

use std::collections::BTreeMap;

use tokio::runtime::Handle;
use wasmtime::component::{Resource, ResourceTable};

use super::file_work::Begun;
use super::held::is_there;
use crate::wasm::policy::open_files::IsThere;

/// The streams of WASI 0.2 from and to files that an instance holds. Each counts as a pending operation, since it may
/// have one under way, which the end of the instance does not end.
pub(in crate::wasm) struct FileStreams {
    max: usize,
    live: BTreeMap<u32, (IsThere<ResourceTable>, Begun)>,
    threads: Handle,
}

impl FileStreams {
    /// Allows `max` streams, which work on `threads`.
    pub(in crate::wasm) fn new(max: usize, threads: &Handle) -> Self {
        Self { max, live: BTreeMap::new(), threads: threads.clone() }
    }

    /// Reports whether there is room for one more.
    pub(in crate::wasm) fn have_room(&mut self, table: &ResourceTable) -> bool {
        // Streams that are gone are removed immediately, or they would count as pending for the other lanes.
        self.live.retain(|place, (is_there, _)| is_there(table, *place));
        self.live.len() < self.max
    }

    /// Counts a stream for as long as it is in the table.
    pub(in crate::wasm) fn put<T: 'static>(&mut self, stream: &Resource<T>, begun: Begun) {
        self.live.insert(stream.rep(), (is_there::<T>, begun));
    }
}

impl Drop for FileStreams {
    fn drop(&mut self) {
        let live = std::mem::take(&mut self.live);
        if !live.is_empty() {
            // Queued behind the work that is under way, which the threads take up first.
            drop(self.threads.spawn_blocking(move || drop(live)));
        }
    }
}
