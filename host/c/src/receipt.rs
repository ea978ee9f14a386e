//! Receipts of puts.
#![expect(unsafe_code, reason = "exports functions to C")]

use std::ffi::{c_char, c_void};
use std::pin::pin;

use kvtier::{PutOutcome as Outcome, Receipt, block_on, block_on_for};

use crate::arguments::{Out, reference};
use crate::engine::{EngineHandle, limit};
use crate::error::{Failure, Status, fixed, guarded, guarded_release};

/// The receipt of a put. Any thread may use it, also several at a time.
#[derive(Debug)]
pub struct ReceiptHandle(Receipt);

impl ReceiptHandle {
    pub(crate) fn hand_out(receipt: Receipt) -> *mut Self {
        Box::into_raw(Box::new(Self(receipt)))
    }
}

/// What became of a chunk in one backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The backend has it.
    Stored = 0,
    /// The backend refused it, or its call failed.
    Failed = 1,
    /// It was given up before the backend was asked.
    Dropped = 2,
}

/// What became of a chunk in one backend, and why.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PutResult {
    /// What became of it.
    pub outcome: PutOutcome,
    /// The backend's name.
    pub backend: [c_char; 65],
    /// Why it was not stored, as in the metrics, such as "queue_full"; else empty.
    pub reason: [c_char; 32],
}

/// Called by a thread of kvtier when a receipt is complete. It must not wait, call functions of kvtier that wait, or
/// throw.
pub type Completed = Option<unsafe extern "C" fn(context: *mut c_void)>;

/// Waits until the outcome of each chunk in each backend is known, for at most `limit_ms`, and writes the number of
/// backends to `n_backends` (which may be NULL). KVTIER_STATUS_TIMED_OUT: some are still open.
///
/// # Safety
/// Pointers are NULL or valid; `receipt` was not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_receipt_wait(
    receipt: *const ReceiptHandle,
    limit_ms: u64,
    n_backends: *mut usize,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (receipt, place) =
            unsafe { (reference(receipt, "receipt")?, Out::optional(n_backends, "n_backends")?) };
        let outcomes = match limit(limit_ms) {
            None => Some(block_on(receipt.0.outcomes())),
            Some(limit) => block_on_for(pin!(receipt.0.outcomes()), limit),
        };
        let outcomes = outcomes.ok_or_else(|| Failure::TimedOut("the receipt is not complete yet".into()))?;
        place.set(0, outcomes.len());
        Ok(())
    })
}

/// Returns what became of the chunk at a position of the put in the backend at a position of the chain, counted among
/// those that the put chose. KVTIER_STATUS_FAILED: the receipt is not complete yet.
///
/// # Safety
/// Pointers are NULL or valid; `receipt` was not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_receipt_result(
    receipt: *const ReceiptHandle,
    backend: usize,
    chunk: usize,
    result: *mut PutResult,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (receipt, place) = unsafe { (reference(receipt, "receipt")?, Out::new(result, "result")?) };
        let outcomes =
            receipt.0.try_outcomes().ok_or_else(|| Failure::of("the receipt is not complete yet"))?;
        let of_backend = outcomes.get(backend);
        let outcome = of_backend.and_then(|of| Some((of, of.outcomes.get(chunk)?)));
        let Some((of_backend, outcome)) = outcome else {
            return Err(Failure::Invalid(format!("the put had no chunk {chunk} for a backend {backend}")));
        };
        let (outcome, reason) = match outcome {
            Outcome::Stored => (PutOutcome::Stored, ""),
            Outcome::Failed(error) => (PutOutcome::Failed, error.kind()),
            Outcome::Dropped(reason) => (PutOutcome::Dropped, reason.name()),
            other => return Err(Failure::Failed(format!("unknown outcome {other:?}"))),
        };
        place.set(0, PutResult { outcome, backend: fixed(&of_backend.backend), reason: fixed(reason) });
        Ok(())
    })
}

struct Notified {
    callback: unsafe extern "C" fn(context: *mut c_void),
    context: *mut c_void,
}

// SAFETY: the caller lets a thread of kvtier call it, see `Completed`.
unsafe impl Send for Notified {}

impl Notified {
    fn call(self) {
        // SAFETY: called once, as promised to the caller.
        unsafe { (self.callback)(self.context) };
    }
}

/// Calls `completed` once when the receipt is complete, from a thread of kvtier: for event loops. The receipt may be
/// released before. If the engine is released before, it may not be called; in a forked child it is not.
///
/// # Safety
/// Pointers are NULL or valid; `receipt` is of a put of `engine`, and neither was released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_receipt_notify(
    engine: *const EngineHandle,
    receipt: *const ReceiptHandle,
    completed: Completed,
    context: *mut c_void,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, receipt) = unsafe { (reference(engine, "engine")?, reference(receipt, "receipt")?) };
        let callback = completed.ok_or_else(|| Failure::Invalid("completed is NULL".into()))?;
        let (receipt, notified) = (receipt.0.clone(), Notified { callback, context });
        engine.storage.spawn(async move {
            receipt.outcomes().await;
            notified.call();
        });
        Ok(())
    })
}

/// Releases a receipt. The put goes on. NULL is ignored.
///
/// # Safety
/// `receipt` is NULL, or was not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_receipt_release(receipt: *mut ReceiptHandle) {
    if !receipt.is_null() {
        // SAFETY: made by `Box::into_raw`, as the caller vouches.
        guarded_release(|| drop(unsafe { Box::from_raw(receipt) }));
    }
}
