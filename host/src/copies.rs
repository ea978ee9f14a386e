//! Counts how often the host touches the bytes of chunks: copies, hash passes, bytes moved by the system.
//!
//! For tests, under the feature `count-copies`; without it, `note` is an empty function. Code that copies or hashes a
//! chunk's bytes passes them here. Their address shows which pool they belong to, so tests that run at the same time do
//! not count each other's bytes.

/// What was done with bytes of a chunk.
#[derive(Clone, Copy)]
pub(crate) enum Pass {
    /// Copied by the processor, into the chunk's memory or out of it.
    Copy,
    /// Read for a check value. If the bytes are copied at the same time, both are counted.
    Hash,
    /// Moved by a system call, between a file and the chunk's memory.
    System,
}

#[cfg(not(feature = "count-copies"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "nothing is left of it")]
pub(crate) fn note(_: Pass, _: &[u8]) {}

#[cfg(feature = "count-copies")]
pub(crate) use counting::note;
#[cfg(feature = "count-copies")]
pub use counting::{Counting, Passes};

#[cfg(feature = "count-copies")]
mod counting {
    use std::ops::Range;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, RwLock};

    use super::Pass;
    use crate::sync::{read, write};

    static WATCHED: RwLock<Vec<Arc<Watched>>> = RwLock::new(Vec::new());

    struct Watched {
        addresses: Range<usize>,
        n_bytes: [AtomicU64; 3],
    }

    /// Bytes that have been counted.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Passes {
        /// Copied by the processor.
        pub copied: u64,
        /// Hashed, while they were copied or by themselves.
        pub hashed: u64,
        /// Moved by system calls.
        pub moved_by_system: u64,
    }

    /// Counts what happens to the chunks in one piece of memory, until it is dropped.
    pub struct Counting(Arc<Watched>);

    impl Counting {
        /// Begins to count. `addresses` is the range of the memory, such as a pool's base and capacity.
        pub fn begin(addresses: Range<usize>) -> Self {
            let watched = Arc::new(Watched { addresses, n_bytes: Default::default() });
            write(&WATCHED).push(Arc::clone(&watched));
            Self(watched)
        }

        /// Returns the counts since the last call.
        pub fn take(&self) -> Passes {
            let [copied, hashed, moved_by_system] = [Pass::Copy, Pass::Hash, Pass::System]
                .map(|pass| self.0.n_bytes[pass as usize].swap(0, Ordering::SeqCst));
            Passes { copied, hashed, moved_by_system }
        }
    }

    impl Drop for Counting {
        fn drop(&mut self) {
            let mut watched = write(&WATCHED);
            watched.retain(|watched| !Arc::ptr_eq(watched, &self.0));
        }
    }

    impl std::fmt::Debug for Counting {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Counting").field("addresses", &self.0.addresses).finish_non_exhaustive()
        }
    }

    pub(crate) fn note(pass: Pass, bytes: &[u8]) {
        let address = bytes.as_ptr().addr();
        let watched = read(&WATCHED);
        if let Some(of) = watched.iter().find(|watched| watched.addresses.contains(&address)) {
            of.n_bytes[pass as usize].fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
    }
}
