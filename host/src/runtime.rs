//! The threads that do not run guests: timers, put workers, restarts. Deadlines fire here, so they fire on time
//! whatever guests do on their own threads.
//!
//! Invariant: a future of this crate needs nothing from the executor that polls it. In a tokio task or on a bare
//! thread, its own wakers suffice for its progress: see `unbudgeted` and `yield_now`.

mod blocking;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

pub use self::blocking::{block_on, block_on_for};
use futures::future::Either;
use tokio::runtime::{Builder, Handle, Runtime};

/// Owns the control threads. Cloning shares them; the last clone stops them.
#[derive(Clone, Debug)]
pub struct Control(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    runtime: Option<Runtime>,
    owner: OwnerProcess,
}

/// The process in which threads were started. A `fork` leaves them behind: the child has one thread, and waiting for
/// another would never end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerProcess(u32);

impl OwnerProcess {
    /// Returns the current process, as the owner of threads that it starts.
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Reports whether the current process is a fork of the owner. Costs a system call.
    pub(crate) fn is_parent(self) -> bool {
        self != Self::current()
    }
}

impl Control {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's error, if it grants no more threads.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("kvtier-control")
            .enable_time()
            .build()?;
        Ok(Self(Arc::new(Owned { runtime: Some(runtime), owner: OwnerProcess::current() })))
    }

    /// Returns the handle to spawn on.
    #[expect(clippy::missing_panics_doc, reason = "the runtime is taken only when its owner drops")]
    pub fn handle(&self) -> &Handle {
        self.0.runtime.as_ref().expect("the runtime lives as long as its owner").handle()
    }

    /// Reports whether the current process is a fork of the one that has the threads. Costs a system call.
    pub fn is_forked_child(&self) -> bool {
        self.0.owner.is_parent()
    }

    /// Waits for `future` until `deadline`. Can be awaited on any executor, or on none. In a forked process, where no
    /// deadline fires, it does not wait.
    ///
    /// # Errors
    /// [`Elapsed`]
    pub fn until<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + use<F> {
        if self.is_forked_child() {
            return Either::Left(async move { poll_once(future).await.ok_or(Elapsed) });
        }
        let _context = self.handle().enter();
        let timeout = unbudgeted(tokio::time::timeout_at(deadline.into(), future));
        Either::Right(async move { timeout.await.map_err(|_| Elapsed) })
    }

    /// Runs `work` on another thread if `bytes` is large, otherwise in place.
    pub async fn compute<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if bytes <= crate::limits::INLINE_CHECK_BYTES_MAX {
            return work();
        }
        match unbudgeted(self.handle().spawn_blocking(work)).await {
            Ok(value) => value,
            // The task cannot be cancelled, so it can only have panicked.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        discard(self.runtime.take(), self.owner);
    }
}

/// Stops the threads of a runtime without waiting for them, in the process that started them. After a fork it leaves
/// them alone: their tasks share their state with the parent, and their locks stay locked.
pub(crate) fn discard(runtime: Option<Runtime>, owner: OwnerProcess) {
    match runtime {
        Some(runtime) if owner.is_parent() => std::mem::forget(runtime),
        // May be dropped from within an executor, where waiting for threads would panic.
        Some(runtime) => runtime.shutdown_background(),
        None => {}
    }
}

/// Exempts a future from tokio's budget, so that it progresses wherever it is polled. In a tokio task, tokio's own
/// primitives stop after some 128 steps until the task has yielded, which a thread that blocks on the future never
/// does.
pub(crate) fn unbudgeted<F: Future>(future: F) -> impl Future<Output = F::Output> {
    tokio::task::coop::unconstrained(future)
}

/// Yields once, so that futures that are polled beside this one run first. It wakes itself; tokio's function leaves
/// that to the worker's next turn, which does not come while the worker's thread blocks on this.
pub(crate) async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls a future once, and returns its output if it is ready.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_yield_needs_nothing_but_its_waker() {
        let mut yielding = pin!(yield_now());
        let mut context = Context::from_waker(Waker::noop());
        assert!(yielding.as_mut().poll(&mut context).is_pending());
        assert!(yielding.as_mut().poll(&mut context).is_ready());
    }
}
