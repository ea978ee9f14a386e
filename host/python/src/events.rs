//! Events: what kvtier's threads have for Python. They queue it, and one Python thread (`kvtier/_lifecycle.py`) takes
//! it out and handles it in order. What it calls runs in frames of Python, not of Rust.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::memory::Owner;
use crate::{gate, log};

/// Makes the call that an event is: a function of Python, and its arguments.
type MakeCall = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>> + Send>;

/// Something to be done in Python.
pub(crate) enum Event {
    /// The last transfer of lent memory has ended.
    Release(Owner),
    /// An operation has ended, a callback is due, or a line is to be logged.
    Call(MakeCall),
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    is_filled: Condvar,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    is_stopped: bool,
}

/// The queue, made at first use and never freed. A forked child gets another one: in its copy of the parent's, a thread
/// that is not there may hold the lock.
static QUEUE: AtomicPtr<Queue> = AtomicPtr::new(std::ptr::null_mut());
/// The process that the queue belongs to; 0 before the first event. A forked child handles no events of its parent.
static OWNER_PROCESS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Owners that this thread lets go of while it holds the GIL anyway.
    static RELEASED_HERE: RefCell<Option<Vec<Owner>>> = const { RefCell::new(None) };
}

/// Queues an event. In a forked child, and when the interpreter is exiting, it is leaked: nobody would handle it, and
/// to drop it takes the GIL.
pub(crate) fn push(event: Event) {
    if gate::is_exiting() || is_forked_child() {
        std::mem::forget(event);
        return;
    }
    let queue = queue();
    lock(queue).events.push_back(event);
    queue.is_filled.notify_one();
}

/// Lets go of memory's owner, wherever this thread is.
pub(crate) fn release(owner: Owner) {
    let left = RELEASED_HERE.with(|released| match released.borrow_mut().as_mut() {
        Some(released) => {
            released.push(owner);
            None
        }
        None => Some(owner),
    });
    if let Some(owner) = left {
        push(Event::Release(owner));
    }
}

/// Runs `work`, which lets go of memory, and releases that memory before it returns.
pub(crate) fn release_here<T>(py: Python<'_>, work: impl FnOnce() -> T) -> T {
    let outer = RELEASED_HERE.with(|released| released.borrow_mut().replace(Vec::new()));
    let value = work();
    let released = RELEASED_HERE.with(|released| std::mem::replace(&mut *released.borrow_mut(), outer));
    for owner in released.into_iter().flatten() {
        owner.release(py);
    }
    value
}

fn is_forked_child() -> bool {
    let owner = OWNER_PROCESS.load(Ordering::Acquire);
    owner != 0 && owner != std::process::id()
}

fn queue() -> &'static Queue {
    let mut queue = QUEUE.load(Ordering::Acquire);
    if queue.is_null() {
        let new = Box::into_raw(Box::<Queue>::default());
        queue = match QUEUE.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            // Another thread was faster; the new one is leaked, a hundred bytes once.
            Err(existing) => existing,
        };
    }
    // SAFETY: made from a box above, or in `drop_events`, and never freed.
    #[expect(unsafe_code, reason = "an atomic reference")]
    unsafe {
        &*queue
    }
}

fn lock(queue: &Queue) -> MutexGuard<'_, Waiting> {
    queue.waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread of events, if it does not run.
pub(crate) fn start(py: Python<'_>) -> PyResult<()> {
    if OWNER_PROCESS.load(Ordering::Acquire) != std::process::id() {
        py.import("kvtier._lifecycle")?.call_method0("start")?;
    }
    Ok(())
}

/// Waits for events, and returns what to call for each: tuples of a function and its arguments. Returns `None` after
/// `stop_events`, when all events are handled.
#[pyfunction]
pub(crate) fn next_events(py: Python<'_>) -> PyResult<Option<Bound<'_, PyList>>> {
    OWNER_PROCESS.store(std::process::id(), Ordering::Release);
    let _inside = gate::enter(py);
    let events = py.detach(wait);
    if events.is_empty() {
        return Ok(None);
    }
    let calls = PyList::empty(py);
    for event in events {
        let call = match event {
            Event::Release(owner) => owner.into_call(py),
            Event::Call(make) => make(py).map(Some),
        };
        match call {
            Ok(Some(call)) => calls.append(call)?,
            Ok(None) => {}
            Err(error) => error.write_unraisable(py, None),
        }
    }
    Ok(Some(calls))
}

fn wait() -> VecDeque<Event> {
    let queue = queue();
    loop {
        let mut waiting = lock(queue);
        if !waiting.events.is_empty() || waiting.is_stopped {
            return std::mem::take(&mut waiting.events);
        }
        drop(queue.is_filled.wait_timeout(waiting, Duration::from_secs(1)));
        // Without the lock, which the thread that exits takes.
        gate::park_if_exiting();
    }
}

/// Makes `next_events` return `None` after the events that are queued.
#[pyfunction]
pub(crate) fn stop_events() {
    let queue = queue();
    lock(queue).is_stopped = true;
    queue.is_filled.notify_all();
}

/// Forgets the events of the parent, in a forked child. The child may start a thread for events of its own.
#[pyfunction]
pub(crate) fn drop_events() {
    gate::reset();
    log::reset();
    QUEUE.store(Box::into_raw(Box::default()), Ordering::Release);
    OWNER_PROCESS.store(0, Ordering::Release);
}
