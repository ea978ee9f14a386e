//! Holds up the threads of a backend, as a disk that answers nothing does.
//!
//! For tests, under the feature `hold-threads`: no file that a test can make keeps a thread waiting.

#[cfg(not(feature = "hold-threads"))]
pub(in crate::wasm) fn note(_: &str, _: &std::sync::Arc<super::backend::BackendThreads>) {}

#[cfg(feature = "hold-threads")]
pub(in crate::wasm) use registry::note;
#[cfg(feature = "hold-threads")]
pub use registry::{Held, hold_threads};

#[cfg(feature = "hold-threads")]
mod registry {
    use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

    use super::super::backend::BackendThreads;
    use crate::limits::BLOCKING_THREADS_MAX;

    static ALL: Mutex<Vec<(String, Weak<BackendThreads>)>> = Mutex::new(Vec::new());

    pub(crate) fn note(backend: &str, threads: &Arc<BackendThreads>) {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
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
        let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, threads) = all.iter().rev().find(|(name, _)| name == backend)?;
        let handle = threads.upgrade()?.handle().ok()?;
        drop(all);
        let gate = Arc::new(Gate::default());
        for _ in 0..BLOCKING_THREADS_MAX {
            let gate = Arc::clone(&gate);
            drop(handle.spawn_blocking(move || {
                let mut state = gate.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.n_held += 1;
                gate.changed.notify_all();
                let _open = gate.changed.wait_while(state, |state| !state.is_open);
            }));
        }
        let state = gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_short = |state: &mut State| state.n_held < BLOCKING_THREADS_MAX;
        drop(gate.changed.wait_while(state, is_short));
        Some(Held(gate))
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.state.lock().unwrap_or_else(PoisonError::into_inner).is_open = true;
            self.0.changed.notify_all();
        }
    }
}
