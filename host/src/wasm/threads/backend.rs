//! The threads that one backend has to itself, for files, timers, HTTP and sockets of WASI 0.2, so that a busy backend
//! or a slow disk never delays the others.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;

use crate::limits::BLOCKING_THREADS_MAX;
use crate::runtime::{Control, OwnerProcess, discard};
use crate::sync::lock;

/// Starts the threads when they are first needed, and stops them when it is dropped.
#[derive(Default)]
pub(in crate::wasm) struct BackendThreads {
    runtime: Mutex<Option<(Runtime, OwnerProcess)>>,
    alive: Arc<Alive>,
}

/// How many threads there are.
#[derive(Default)]
struct Alive {
    n: AtomicUsize,
    one_ended: Notify,
}

impl BackendThreads {
    /// Returns the handle to spawn blocking work on.
    ///
    /// # Errors
    /// The system's, if it grants no more threads.
    pub(in crate::wasm) fn handle(&self) -> io::Result<Handle> {
        let mut runtime = lock(&self.runtime);
        if let Some((runtime, _)) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let (started, ended) = (Arc::clone(&self.alive), Arc::clone(&self.alive));
        let started = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("kvtier-backend")
            .on_thread_start(move || {
                started.n.fetch_add(1, Ordering::AcqRel);
            })
            .on_thread_stop(move || {
                ended.n.fetch_sub(1, Ordering::AcqRel);
                ended.one_ended.notify_waiters();
            })
            .enable_all()
            .build()?;
        Ok(runtime.insert((started, OwnerProcess::current())).0.handle().clone())
    }

    /// Stops the threads and returns how many have not ended by `deadline`: they wait for a disk.
    pub(in crate::wasm) async fn stop(&self, control: &Control, deadline: Instant) -> usize {
        let stopped = lock(&self.runtime).take();
        let Some((runtime, owner)) = stopped else { return 0 };
        discard(Some(runtime), owner);
        let all_ended = async {
            loop {
                let one_ended = self.alive.one_ended.notified();
                let mut one_ended = pin!(one_ended);
                one_ended.as_mut().enable();
                if self.alive.n.load(Ordering::Acquire) == 0 {
                    break;
                }
                one_ended.await;
            }
        };
        match control.until(deadline, all_ended).await {
            Ok(()) => 0,
            Err(_elapsed) => self.alive.n.load(Ordering::Acquire),
        }
    }
}

impl Drop for BackendThreads {
    fn drop(&mut self) {
        if let Some((runtime, owner)) = lock(&self.runtime).take() {
            discard(Some(runtime), owner);
        }
    }
}

/// Runs a future on the current thread, with its blocking work, timers and sockets on the threads of `handle`.
pub(in crate::wasm) async fn within<F: Future>(handle: Handle, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _context = handle.enter();
        future.as_mut().poll(cx)
    })
    .await
}
