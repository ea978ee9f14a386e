//! Memory that the caller lends: puts from it, and fetches into it.
#![expect(unsafe_code, reason = "exports functions to C")]

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use kvtier::memory::{BufferMut, ChunkWriter};
use kvtier::{Chunk, ChunkKey, block_on};

use crate::arguments::{self, Key, Out, Tiers, reference, slice};
use crate::engine::EngineHandle;
use crate::error::{Failure, Status, fixed, guarded};
use crate::receipt::ReceiptHandle;

/// Called when kvtier no longer uses a piece of lent memory: once for each piece, by any thread. It must not wait, call
/// functions of kvtier, or throw.
pub type Release = Option<unsafe extern "C" fn(context: *mut c_void)>;

/// Memory that the caller lends for one chunk.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Lent {
    /// The chunk's key.
    pub key: Key,
    /// The memory.
    pub data: *mut u8,
    /// In a put the size of the chunk in bytes; in a fetch that of the buffer, which may be larger than the chunk. At
    /// least 1.
    pub size_bytes: usize,
    /// Called when kvtier no longer uses the memory. Not NULL.
    pub release: Release,
    /// The argument of `release`.
    pub context: *mut c_void,
}

/// What became of a fetch into one buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The buffer has the chunk.
    Fetched = 0,
    /// No tier delivered the chunk. The buffer's bytes are arbitrary.
    Missed = 1,
    /// No tier delivered the chunk, and a transfer still writes to the buffer: `release` is called when it ends.
    MissedInUse = 2,
}

/// The result of a fetch into one buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FetchResult {
    /// What became of it.
    pub outcome: FetchOutcome,
    /// The size of the fetched chunk in bytes, else 0.
    pub size_bytes: usize,
    /// Why it was missed, as in the metrics, such as "not_found"; else empty.
    pub reason: [c_char; 32],
}

/// Calls the caller back when kvtier no longer uses the memory.
struct Owner {
    release: unsafe extern "C" fn(context: *mut c_void),
    context: *mut c_void,
}

// SAFETY: the caller lets any thread call `release`, see `Release`.
unsafe impl Send for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: called once, as promised to the caller.
        unsafe { (self.release)(self.context) };
    }
}

/// Takes over all of the lent memory, or nothing if a piece of it is wrong.
///
/// # Safety
/// As [`slice`], and the memory is that of [`BufferMut::lend`] until it is released.
unsafe fn take(lent: *const Lent, n: usize) -> Result<Vec<ChunkWriter>, Failure> {
    // SAFETY: the caller's.
    let lent = unsafe { slice(lent, n, "lent") }?;
    let mut checked = Vec::with_capacity(lent.len());
    for (index, piece) in lent.iter().enumerate() {
        let wrong = |what: &str| Failure::Invalid(format!("lent[{index}].{what}"));
        let data = NonNull::new(piece.data).ok_or_else(|| wrong("data is NULL"))?;
        let release = piece.release.ok_or_else(|| wrong("release is NULL"))?;
        if piece.size_bytes == 0 || isize::try_from(piece.size_bytes).is_err() {
            return Err(wrong(&format!("size_bytes is {}, not a size", piece.size_bytes)));
        }
        checked.push((piece, data, release));
    }
    let writers = checked.into_iter().map(|(piece, data, release)| {
        let owner = Owner { release, context: piece.context };
        // SAFETY: the caller's.
        ChunkWriter::new(ChunkKey::from(piece.key), unsafe { BufferMut::lend(data, piece.size_bytes, owner) })
    });
    Ok(writers.collect())
}

/// Stores chunks from memory of the caller, without a copy, in the backends among the tiers (NULL for all); the CPU
/// tier never keeps lent memory. Returns when they are queued. Then the memory belongs to kvtier until each `release`:
/// kvtier reads it, and nobody changes it. With KVTIER_STATUS_INVALID_ARGUMENT nothing was taken, and no `release` is
/// called.
///
/// `receipt` may be NULL. Otherwise it gets a receipt, to be released with kvtier_receipt_release().
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released. The memory is
/// valid until it is released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_put(
    engine: *const EngineHandle,
    lent: *const Lent,
    n_lent: usize,
    tiers: *const Tiers,
    receipt: *mut *mut ReceiptHandle,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, place) = unsafe { (reference(engine, "engine")?, Out::optional(receipt, "receipt")?) };
        // SAFETY: the caller's.
        let tiers = unsafe { arguments::tiers(tiers, &engine.storage) }?;
        // SAFETY: the caller's.
        let chunks: Vec<Chunk> =
            unsafe { take(lent, n_lent) }?.into_iter().map(ChunkWriter::freeze).collect();
        if place.len() == 0 {
            block_on(engine.storage.put_chunks(&chunks, &tiers));
        } else {
            let (_, receipt) = block_on(engine.storage.put_chunks_with_receipt(&chunks, &tiers));
            place.set(0, ReceiptHandle::hand_out(receipt));
        }
        Ok(())
    })
}

/// Fetches chunks into memory of the caller, each from the first of the tiers (NULL for all) that has it and delivers
/// the right bytes, and writes one result for each to `results`. Unlike kvtier_retrieve(), it does not stop at a gap.
/// `release` of each buffer is called before this returns, unless its result is KVTIER_FETCH_OUTCOME_MISSED_IN_USE:
/// until then nobody else uses the memory. With KVTIER_STATUS_INVALID_ARGUMENT nothing was taken, and no `release` is
/// called.
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released. The memory is
/// valid and writable until it is released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_fetch_into(
    engine: *const EngineHandle,
    lent: *const Lent,
    n_lent: usize,
    tiers: *const Tiers,
    results: *mut FetchResult,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, results) =
            unsafe { (reference(engine, "engine")?, Out::array(results, n_lent, "results")?) };
        // SAFETY: the caller's.
        let tiers = unsafe { arguments::tiers(tiers, &engine.storage) }?;
        // SAFETY: the caller's.
        let buffers = unsafe { take(lent, n_lent) }?;
        for (index, fetched) in block_on(engine.storage.fetch_into(buffers, &tiers)).into_iter().enumerate() {
            let result = match fetched {
                Ok(chunk) => {
                    FetchResult { outcome: FetchOutcome::Fetched, size_bytes: chunk.len(), reason: fixed("") }
                }
                Err(not) => {
                    let is_free = not.buffer.is_some();
                    let outcome = if is_free { FetchOutcome::Missed } else { FetchOutcome::MissedInUse };
                    FetchResult { outcome, size_bytes: 0, reason: fixed(not.miss.reason()) }
                }
            };
            results.set(index, result);
        }
        Ok(())
    })
}
