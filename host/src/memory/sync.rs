//! What waiting for memory is made of, in one place: `tests/loom` puts the primitives of a model checker here.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) use tokio::sync::Notify;

/// Locks `mutex`. A panic of another holder is passed over: every critical section of kvtier leaves
/// its data consistent before anything in it can panic.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
