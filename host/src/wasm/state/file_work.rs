//! The pending file operations of a backend, counted with the names and bytes that they hold.
//!
//! A disk or a network mount may hang, and a guest that drops an operation does not end it: the operation stays in the
//! queue of the backend's threads, with its path. So the backend owns the count, not the instance, and an operation
//! counts until a thread takes it up.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use crate::config::BackendLimits;
use crate::limits::FILE_OPERATION_BYTES;
use crate::sync::lock;

/// Counts the operations of all instances of a backend.
pub(in crate::wasm) struct FileWork {
    n_max: usize,
    bytes_max: u64,
    pending: Mutex<Pending>,
}

#[derive(Clone, Copy, Default)]
struct Pending {
    n: usize,
    /// Bytes of names, and of data to write.
    bytes: u64,
}

impl FileWork {
    pub(in crate::wasm) fn new(limits: &BackendLimits) -> Arc<Self> {
        let (n_max, bytes_max) = (limits.file_operations_max, limits.file_names_bytes);
        Arc::new(Self { n_max, bytes_max, pending: Mutex::default() })
    }

    /// Counts an operation that holds `n_bytes`, until the returned value is dropped; `None` if there are too many.
    pub(in crate::wasm) fn begin(self: &Arc<Self>, n_bytes: usize) -> Option<Begun> {
        let n_bytes = n_bytes as u64;
        let mut pending = lock(&self.pending);
        let bytes = pending.bytes.checked_add(n_bytes).filter(|bytes| *bytes <= self.bytes_max)?;
        if pending.n >= self.n_max {
            return None;
        }
        *pending = Pending { n: pending.n + 1, bytes };
        Some(Begun { work: Arc::clone(self), n_bytes })
    }

    /// Returns why an operation with `n_bytes` would be refused even if none were pending.
    pub(in crate::wasm) fn too_large(&self, n_bytes: usize) -> Option<String> {
        let bytes_max = self.bytes_max;
        (n_bytes as u64 > bytes_max).then(|| {
            format!("one file operation names and writes {n_bytes} bytes; limits.file_names_bytes allows {bytes_max}")
        })
    }

    /// Returns why an operation is refused for now.
    pub(in crate::wasm) fn refusal(&self) -> String {
        let Self { n_max, bytes_max, .. } = self;
        format!(
            "would-block: too many file operations are pending; limits.file_operations_max allows {n_max}, and \
             limits.file_names_bytes {bytes_max} bytes of names in them"
        )
    }

    /// Returns the host memory that the operations hold, in bytes.
    pub(in crate::wasm) fn held_bytes(&self) -> u64 {
        let Pending { n, bytes } = *lock(&self.pending);
        n as u64 * FILE_OPERATION_BYTES + bytes
    }
}

/// A pending operation.
pub(in crate::wasm) struct Begun {
    work: Arc<FileWork>,
    n_bytes: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut pending = lock(&self.work.pending);
        *pending = Pending { n: pending.n - 1, bytes: pending.bytes - self.n_bytes };
    }
}

/// An operation of WASI's own, which queues its work on the threads and forgets it when it is dropped.
///
/// If it is dropped before its end, it counts until a thread takes up a marker that is queued behind the work: the
/// threads take work up in order. The number of threads limits the work that they have taken up.
pub(in crate::wasm) struct Watched {
    begun: Option<Begun>,
    threads: Handle,
}

impl Watched {
    pub(in crate::wasm) fn new(begun: Begun, threads: &Handle) -> Self {
        Self { begun: Some(begun), threads: threads.clone() }
    }

    /// Records that the work is done.
    pub(in crate::wasm) fn ended(mut self) {
        self.begun = None;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            drop(self.threads.spawn_blocking(move || drop(begun)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn work(file_operations_max: usize, file_names_bytes: u64) -> Arc<FileWork> {
        FileWork::new(&BackendLimits { file_operations_max, file_names_bytes, ..BackendLimits::default() })
    }

    #[test]
    fn operations_and_their_names_are_counted_and_what_is_refused_does_not_count() {
        let work = work(2, 10);
        let first = work.begin(6).unwrap();
        assert!(work.begin(5).is_none(), "11 bytes");
        let second = work.begin(4).unwrap();
        assert!(work.begin(0).is_none(), "three operations");
        assert_eq!(work.held_bytes(), 2 * FILE_OPERATION_BYTES + 10);
        drop((first, second));
        assert_eq!(work.held_bytes(), 0);
        assert!(work.begin(11).is_none());
        assert!(work.refusal().contains("limits.file_operations_max allows 2"));
        assert_eq!(work.too_large(10), None);
        assert!(work.too_large(11).unwrap().contains("11 bytes; limits.file_names_bytes allows 10"));
    }

    #[test]
    fn what_is_given_up_counts_until_a_thread_has_come_to_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (done, is_done) = mpsc::channel();
        runtime.spawn_blocking(move || held.recv());
        let work = work(3, 100);
        for n in 0..3 {
            let watched = Watched::new(work.begin(10).unwrap(), runtime.handle());
            // As WASI queues its work.
            let done = done.clone();
            runtime.spawn_blocking(move || done.send(n));
            drop(watched);
        }
        assert!(work.begin(0).is_none(), "none has been taken up");
        Watched::ended(Watched::new(work_of_its_own(), runtime.handle()));
        drop(release);
        assert_eq!(is_done.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
        // Waits for the queued work.
        drop(runtime);
        assert_eq!(work.held_bytes(), 0);
    }

    fn work_of_its_own() -> Begun {
        work(1, 1).begin(1).unwrap()
    }

    #[test]
    fn an_operation_is_given_back_also_when_the_threads_are_gone() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let work = work(1, 1);
        let watched = Watched::new(work.begin(1).unwrap(), runtime.handle());
        drop(runtime);
        drop(watched);
        assert_eq!(work.held_bytes(), 0);
    }
}
