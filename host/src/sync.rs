//! Locks whose poison is ignored, in one place.
//!
//! `tests/loom` compiles `memory/signal.rs` and `chunk/life.rs` with the primitives of a model checker, which replace
//! this module. A file that loom checks therefore takes its primitives from here; the others take `Mutex`, `RwLock` and
//! the atomics from `std`.
//!
//! A panic of another holder is ignored: every critical section of kvtier leaves its data consistent before anything in
//! it can panic.

use std::sync::{LockResult, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

pub(crate) use tokio::sync::Notify;

/// Locks a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// Locks for reading.
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    unpoisoned(lock.read())
}

/// Locks for writing.
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    unpoisoned(lock.write())
}

/// Waits until `condvar` is notified. Like the standard library's, it may also return without that.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    unpoisoned(condvar.wait(guard))
}

/// Waits until `condvar` is notified, for `limit` at most. Like the standard library's, it may return earlier.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    unpoisoned(condvar.wait_timeout(guard, limit)).0
}

fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
