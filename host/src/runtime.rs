//! The threads that run no guest: timers, put workers, restarts. Deadlines fire here, so that they
//! fire on time whatever guests do on their own threads.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use tokio::runtime::{Builder, Handle, Runtime};

/// Owns the control threads. Cloning shares them; the last clone stops them.
#[derive(Clone, Debug)]
pub struct Control(Arc<Owned>);

#[derive(Debug)]
struct Owned(Option<Runtime>);

impl Control {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's, if it grants no more threads.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("kvtier-control")
            .enable_time()
            .build()?;
        Ok(Self(Arc::new(Owned(Some(runtime)))))
    }

    /// Returns the handle to spawn on.
    #[expect(clippy::missing_panics_doc, reason = "the runtime is taken only when its owner drops")]
    pub fn handle(&self) -> &Handle {
        self.0.0.as_ref().expect("the runtime lives as long as its owner").handle()
    }

    /// Waits for `future` until `deadline`. Can be awaited on any executor, or on none.
    ///
    /// # Errors
    /// [`Elapsed`]
    pub fn until<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + use<F> {
        let _context = self.handle().enter();
        let timeout = tokio::time::timeout_at(deadline.into(), future);
        async move { timeout.await.map_err(|_| Elapsed) }
    }

    /// Runs `work` off the calling thread if `bytes` is large, else in place.
    pub async fn compute<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if bytes <= crate::limits::INLINE_CHECK_BYTES_MAX {
            return work();
        }
        match self.handle().spawn_blocking(work).await {
            Ok(value) => value,
            // The task cannot be cancelled, so it can only have panicked.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // May be dropped from within an executor, where waiting for threads would panic.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Drives `future` on the calling thread, for callers without an executor.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
        fn wake_by_ref(self: &Arc<Self>) {
            self.0.unpark();
        }
    }
    thread_local! {
        /// Made once: most calls are answered by the CPU tier, and take less time than making it.
        static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
    }
    WAKER.with(|waker| {
        let mut context = Context::from_waker(waker);
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => return value,
                Poll::Pending => thread::park(),
            }
        }
    })
}
