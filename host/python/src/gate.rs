//! The exit of the interpreter. CPython ends a daemon thread that asks for the GIL once it is finalizing, wherever that
//! thread is, and Rust code does not survive that. So no thread may be in kvtier's code by then: those that wait stay
//! parked, those that come in are parked, and the exiting thread waits until the others have left.
//!
//! Every function that Python calls enters first, if it gives the GIL up or may run Python code, which does.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How long the exit waits for threads that are in kvtier's code. They are there for microseconds, or wait.
const EXIT_WAIT: Duration = Duration::from_secs(5);

static IS_EXITING: AtomicBool = AtomicBool::new(false);
/// Threads that are in kvtier's code and not parked.
static N_INSIDE: AtomicUsize = AtomicUsize::new(0);
/// The thread that exits, by [`own_id`]. It is the only one that still runs Python.
static EXITING_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// How often this thread has entered and not left: callbacks of Python's may come in again.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// This thread is in kvtier's code, and holds or will take the GIL.
pub(crate) struct Inside(());

impl Drop for Inside {
    fn drop(&mut self) {
        let depth = DEPTH.get().saturating_sub(1);
        DEPTH.set(depth);
        if depth == 0 {
            leave();
        }
    }
}

/// Notes that this thread is in kvtier's code. Does not return while the interpreter exits, except in the thread that
/// exits.
pub(crate) fn enter(py: Python<'_>) -> Inside {
    if DEPTH.get() == 0 {
        N_INSIDE.fetch_add(1, Ordering::SeqCst);
    }
    DEPTH.set(DEPTH.get() + 1);
    if must_park() {
        py.detach(park);
    }
    Inside(())
}

/// Parks this thread for ever if the interpreter exits. To be called without the GIL, before it is taken again.
pub(crate) fn park_if_exiting() {
    if must_park() {
        park();
    }
}

/// Reports whether the interpreter is exiting.
pub(crate) fn is_exiting() -> bool {
    IS_EXITING.load(Ordering::SeqCst)
}

fn park() {
    leave();
    loop {
        thread::park();
    }
}

fn leave() {
    // A child that was forked by a thread inside begins at 0.
    N_INSIDE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).ok();
}

fn must_park() -> bool {
    is_exiting() && EXITING_THREAD.load(Ordering::SeqCst) != own_id()
}

/// Returns a number that no other living thread has: the address of a variable of its own.
fn own_id() -> usize {
    DEPTH.with(|depth| std::ptr::from_ref(depth) as usize)
}

/// Closes the gate: called by the thread that exits, before the interpreter is finalized.
#[pyfunction]
pub(crate) fn close_gate(py: Python<'_>) {
    EXITING_THREAD.store(own_id(), Ordering::SeqCst);
    IS_EXITING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let until = Instant::now() + EXIT_WAIT;
        while N_INSIDE.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Opens the gate in a forked child, which has one thread.
pub(crate) fn reset() {
    N_INSIDE.store(usize::from(DEPTH.get() > 0), Ordering::SeqCst);
    IS_EXITING.store(false, Ordering::SeqCst);
}
