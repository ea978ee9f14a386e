//! Storing chunks in buffers of kvtier.
#![expect(unsafe_code, reason = "exports functions to C")]

use kvtier::{Allocation, block_on};

use crate::arguments::{self, Key, Out, Tiers, reference};
use crate::engine::EngineHandle;
use crate::error::{Failure, Status, guarded, guarded_release};
use crate::receipt::ReceiptHandle;

/// Buffers for chunks that are to be stored. One thread at a time uses it.
#[derive(Debug)]
pub struct AllocationHandle(Allocation);

/// A chunk that the CPU tier does not have, with a buffer for it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MissingChunk {
    /// The chunk's position among those that were allocated.
    pub position: usize,
    /// The buffer, to be filled. Its bytes are arbitrary before.
    pub data: *mut u8,
    /// The size of the buffer in bytes, all of which are stored.
    pub size_bytes: usize,
}

/// Reserves buffers for those of the chunks that the CPU tier does not have. Evicts as needed; if memory runs out, the
/// buffers are those of the first chunks. End it with kvtier_store() or kvtier_allocation_discard().
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_allocate(
    engine: *const EngineHandle,
    keys: *const Key,
    sizes_bytes: *const usize,
    n_keys: usize,
    allocation: *mut *mut AllocationHandle,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, place) = unsafe { (reference(engine, "engine")?, Out::new(allocation, "allocation")?) };
        // SAFETY: the caller's.
        let specs = unsafe { arguments::specs(keys, sizes_bytes, n_keys) }?;
        let allocation = block_on(engine.storage.allocate(&specs)).map_err(Failure::of)?;
        place.set(0, Box::into_raw(Box::new(AllocationHandle(allocation))));
        Ok(())
    })
}

/// Writes at most `capacity` of the chunks that are to be filled to `missing`, in the order of their positions, and
/// their whole number to `n_missing`. The buffers stay valid until the allocation is stored or discarded.
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `allocation` was neither stored nor discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_allocation_missing(
    allocation: *mut AllocationHandle,
    missing: *mut MissingChunk,
    capacity: usize,
    n_missing: *mut usize,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (place, count) =
            unsafe { (Out::array(missing, capacity, "missing")?, Out::new(n_missing, "n_missing")?) };
        // SAFETY: the caller's.
        unsafe { reference(allocation, "allocation") }?;
        // SAFETY: not null and aligned, as checked; only this thread uses it, as the caller vouches.
        let allocation = unsafe { &mut *allocation };
        count.set(0, allocation.0.n_missing());
        for (index, missing) in allocation.0.missing().enumerate() {
            let size_bytes = missing.bytes.len();
            let data = missing.bytes.as_mut_ptr();
            place.set(index, MissingChunk { position: missing.position, data, size_bytes });
        }
        Ok(())
    })
}

/// Stores the filled buffers: in the CPU tier at once, in the backends in the background. Also offers the chunks that
/// were present to backends that are not known to have them. Writes how many chunks are new in the CPU tier to `n_new`
/// (which may be NULL). `tiers` is NULL for all. Ends the allocation, unless it returns
/// KVTIER_STATUS_INVALID_ARGUMENT.
///
/// `receipt` may be NULL. Otherwise it gets a receipt, to be released with kvtier_receipt_release(), with a result for
/// each chunk that was present or had a buffer, in the order of the allocation.
///
/// # Safety
/// Pointers are NULL or valid; `engine` is the one that made `allocation`, which was neither stored nor discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_store(
    engine: *const EngineHandle,
    allocation: *mut AllocationHandle,
    tiers: *const Tiers,
    n_new: *mut usize,
    receipt: *mut *mut ReceiptHandle,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, place) = unsafe { (reference(engine, "engine")?, Out::optional(n_new, "n_new")?) };
        // SAFETY: the caller's.
        let receipt_place = unsafe { Out::optional(receipt, "receipt") }?;
        // SAFETY: the caller's.
        let tiers = unsafe { arguments::tiers(tiers, &engine.storage) }?;
        // SAFETY: the caller's.
        unsafe { reference(allocation, "allocation") }?;
        // SAFETY: made by `Box::into_raw`, as the caller vouches.
        let AllocationHandle(allocation) = *unsafe { Box::from_raw(allocation) };
        if receipt_place.len() == 0 {
            place.set(0, block_on(engine.storage.put(allocation, &tiers)).n_new);
        } else {
            let (stored, receipt) = block_on(engine.storage.put_with_receipt(allocation, &tiers));
            place.set(0, stored.n_new);
            receipt_place.set(0, ReceiptHandle::hand_out(receipt));
        }
        Ok(())
    })
}

/// Gives up an allocation: nothing is stored. NULL is ignored.
///
/// # Safety
/// `allocation` is NULL, or was neither stored nor discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_allocation_discard(allocation: *mut AllocationHandle) {
    if !allocation.is_null() {
        // SAFETY: made by `Box::into_raw`, as the caller vouches.
        guarded_release(|| drop(unsafe { Box::from_raw(allocation) }));
    }
}
