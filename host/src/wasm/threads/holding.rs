//! Holds up the threads of a backend, as a disk that does not answer does.
//!
//! For tests, under the feature `hold-threads`: a test cannot make a file that keeps a thread waiting.

#[cfg(not(feature = "hold-threads"))]
pub(in crate::wasm) fn note(_: &str, _: &std::sync::Arc<super::backend::BackendThreads>) {}

#[cfg(feature = "hold-threads")]
pub(in crate::wasm) use registry::note;
#[cfg(feature = "hold-threads")]
pub use registry::{Held, hold_threads};

#[cfg(feature = "hold-threads")]
mod registry {
    use std::sync::{Arc, Condvar, Mutex, Weak};

    use super::super::backend::BackendThreads;
    use crate::limits::BLOCKING_THREADS_MAX;
    use crate::sync::{lock, wait};

    static ALL: Mutex<Vec<(String, Weak<BackendThreads>)>> = Mutex::new(Vec::new());

    pub(crate) fn note(backend: &str, threads: &Arc<BackendThreads>) {
        let mut all = lock(&ALL);
        all.retain(|(_, threads)| threads.strong_count() > 0);
        all.push((backend.to_owned(), Arc::downgrade(threads)));
    }

    /// Threads that are held up until this is dropped.
    #[derive(Debug)]
    pub struct Held(Arc<Gate>);

    #[derive(Debug, Default)]
    struct Gate {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Debug, Default)]
    struct State {
        n_held: usize,
        is_open: bool,
    }

    /// Holds up all threads that a backend has for files, and returns when it has. `None` if there is no such backend.
    #[must_use]
    pub fn hold_threads(backend: &str) -> Option<Held> {
        let all = lock(&ALL);
        let (_, threads) = all.iter().rev().find(|(name, _)| name == backend)?;
        let handle = threads.upgrade()?.handle().ok()?;
        drop(all);
        let gate = Arc::new(Gate::default());
        for _ in 0..BLOCKING_THREADS_MAX {
            let gate = Arc::clone(&gate);
            drop(handle.spawn_blocking(move || {
                let mut state = lock(&gate.state);
                state.n_held += 1;
                gate.changed.notify_all();
                while !state.is_open {
                    state = wait(&gate.changed, state);
                }
            }));
        }
        let mut state = lock(&gate.state);
        while state.n_held < BLOCKING_THREADS_MAX {
            state = wait(&gate.changed, state);
        }
        drop(state);
        Some(Held(gate))
    }

    impl Drop for Held {
        fn drop(&mut self) {
            lock(&self.0.state).is_open = true;
            self.0.changed.notify_all();
        }
    }
}
