//! The threads that run guests, and the engine that they share.

pub(in crate::wasm) mod backend;
pub(in crate::wasm) mod holding;

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use wasmtime::Engine;

use super::component::{Compilation, Loader};
use super::engine::engine_config;
use super::engine::ticker::{Guests, Ticker};
use super::no_memory;
use crate::runtime::{OwnerProcess, discard};

/// Owns the threads. Cloning shares them; the last clone stops them.
#[derive(Clone)]
pub struct LaneThreads(Arc<Owned>);

struct Owned {
    loader: Loader,
    ticker: Ticker,
    runtime: Option<Runtime>,
    owner: OwnerProcess,
}

/// Why the threads could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadsError {
    /// The system grants no more threads.
    #[error(
        "threads for backends cannot be started: {0}; raise ulimit -u (threads) or ulimit -v (their stacks)"
    )]
    Threads(#[from] std::io::Error),
    /// The engine does not run on this machine.
    #[error("the WebAssembly engine does not run here: {0}")]
    Engine(String),
}

impl LaneThreads {
    /// Starts `n_threads` threads that run guests. `compilation` configures how components become code.
    ///
    /// # Errors
    /// [`ThreadsError`]
    pub fn start(n_threads: usize, compilation: Compilation) -> Result<Self, ThreadsError> {
        let engine = Engine::new(&engine_config(compilation.traps)).map_err(|error| {
            ThreadsError::Engine(no_memory::explain(&error).unwrap_or_else(|| format!("{error:#}")))
        })?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(n_threads.max(1))
            // Timers and files wake tasks from other threads, and these threads wait for sockets. So look for woken
            // tasks after every slice of a computing guest.
            .global_queue_interval(1)
            .event_interval(1)
            .enable_io()
            .thread_name("kvtier-lane")
            .build()?;
        let ticker = {
            let engine = engine.clone();
            Ticker::start(move || engine.increment_epoch())?
        };
        let loader = Loader::new(engine, compilation);
        Ok(Self(Arc::new(Owned { loader, ticker, runtime: Some(runtime), owner: OwnerProcess::current() })))
    }

    pub(in crate::wasm) fn engine(&self) -> &Engine {
        self.0.loader.engine()
    }

    pub(in crate::wasm) fn loader(&self) -> &Loader {
        &self.0.loader
    }

    /// Returns a spawner of tasks that run guests.
    pub(in crate::wasm) fn spawner(&self) -> Spawner {
        let runtime = self.0.runtime.as_ref().expect("the runtime lives as long as its owner");
        Spawner { handle: runtime.handle().clone(), guests: self.0.ticker.guests().clone() }
    }
}

/// Spawns tasks that run guests, so that the tick interrupts them.
#[derive(Clone)]
pub(in crate::wasm) struct Spawner {
    handle: Handle,
    guests: Guests,
}

impl Spawner {
    /// Spawns a future in which guests run.
    pub(in crate::wasm) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(self.guests.clone().drive(future))
    }

    /// Returns the handle of the threads, for tasks that do not run guests.
    pub(in crate::wasm) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        discard(self.runtime.take(), self.owner);
        // Computing guests yield, and their tasks are not run again.
        self.loader.engine().increment_epoch();
    }
}

impl std::fmt::Debug for LaneThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneThreads").finish_non_exhaustive()
    }
}
