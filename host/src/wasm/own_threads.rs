//! The threads that one backend has to itself: for files, timers, HTTP and sockets of WASI 0.2, so that whatever one backend keeps busy,
//! or however slow its disk is, the others do not wait for it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::limits::BLOCKING_THREADS_MAX;
use crate::memory::lock;
use crate::runtime::{Home, discard};

/// Starts the threads when they are first needed, and stops them when it is dropped.
#[derive(Default)]
pub(super) struct OwnThreads(Mutex<Option<(Runtime, Home)>>);

impl OwnThreads {
    /// Returns the handle to spawn blocking work on.
    ///
    /// # Errors
    /// The system's, if it grants no more threads.
    pub(super) fn handle(&self) -> io::Result<Handle> {
        let mut runtime = lock(&self.0);
        if let Some((runtime, _)) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let started = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("kvtier-backend")
            .enable_all()
            .build()?;
        Ok(runtime.insert((started, Home::here())).0.handle().clone())
    }
}

impl Drop for OwnThreads {
    fn drop(&mut self) {
        if let Some((runtime, home)) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            discard(Some(runtime), home);
        }
    }
}

/// Runs a future where it is, with its blocking work, its timers and its sockets on the threads of `handle`.
pub(super) async fn within<F: Future>(handle: Handle, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _context = handle.enter();
        future.as_mut().poll(cx)
    })
    .await
}
