//! Keys, lookups, retrievals and removals.
#![expect(unsafe_code, reason = "exports functions to C")]

use std::ffi::c_char;

use kvtier::{Chunk, Salt, block_on};

use crate::arguments::{self, Key, Out, Tiers, reference, slice, text};
use crate::engine::EngineHandle;
use crate::error::{Failure, Status, guarded, guarded_release};

/// A tag of a request. Requests with different tags share no chunks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tag {
    /// The name.
    pub name: *const c_char,
    /// The value.
    pub value: *const c_char,
}

/// Bytes of the caller.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// The first byte.
    pub data: *const u8,
    /// The number of bytes.
    pub size_bytes: usize,
}

/// A retrieved chunk. Any thread may read it, also several at a time, until it is released.
#[derive(Debug)]
pub struct ChunkHandle(Chunk);

/// Derives the keys of a prompt's chunks, and their sizes in bytes: of each full chunk and, if the configuration sets
/// `save_unfull_chunk`, of the rest. Writes at most `capacity` of them to `keys_out` and `sizes_bytes_out` (which may
/// be NULL), and their whole number to `n_chunks`. Only for engines on tokens.
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_prompt_keys(
    engine: *const EngineHandle,
    tokens: *const u32,
    n_tokens: usize,
    tags: *const Tag,
    n_tags: usize,
    keys_out: *mut Key,
    sizes_bytes_out: *mut usize,
    capacity: usize,
    n_chunks: *mut usize,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, tokens) = unsafe { (reference(engine, "engine")?, slice(tokens, n_tokens, "tokens")?) };
        // SAFETY: the caller's.
        let (n_chunks, keys) =
            unsafe { (Out::new(n_chunks, "n_chunks")?, Out::array(keys_out, capacity, "keys_out")?) };
        let n_sizes = if sizes_bytes_out.is_null() { 0 } else { capacity };
        // SAFETY: the caller's.
        let sizes = unsafe { Out::array(sizes_bytes_out, n_sizes, "sizes_bytes_out") }?;
        let mut salt = Salt::none();
        // SAFETY: the caller's.
        for tag in unsafe { slice(tags, n_tags, "tags") }? {
            // SAFETY: the caller's.
            let (name, value) =
                unsafe { (text(tag.name, "the name of a tag")?, text(tag.value, "the value of a tag")?) };
            salt = salt.tag(name, value);
        }
        let Some(engine) = &engine.on_tokens else {
            return Err(Failure::Invalid("the engine is on keys; use kvtier_foreign_keys()".into()));
        };
        let chunks = engine.chunks(&engine.prompt(tokens, &salt)).map_err(Failure::of)?;
        for (index, chunk) in chunks.iter().enumerate() {
            keys.set(index, chunk.spec.key.into());
            sizes.set(index, chunk.spec.size_bytes);
        }
        n_chunks.set(0, chunks.len());
        Ok(())
    })
}

/// Derives the keys of `n_names` chunks from the names that the caller has for them, of any bytes. A name has to
/// determine the chunk's bytes.
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_foreign_keys(
    engine: *const EngineHandle,
    names: *const Bytes,
    n_names: usize,
    keys_out: *mut Key,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, names) = unsafe { (reference(engine, "engine")?, slice(names, n_names, "names")?) };
        // SAFETY: the caller's.
        let keys = unsafe { Out::array(keys_out, n_names, "keys_out") }?;
        let mut read = Vec::with_capacity(names.len());
        for name in names {
            // SAFETY: the caller's.
            read.push(unsafe { slice(name.data, name.size_bytes, "the data of a name") }?);
        }
        let derived = engine.storage.namespace().foreign_keys(read);
        for (index, key) in derived.into_iter().enumerate() {
            keys.set(index, key.into());
        }
        Ok(())
    })
}

/// Counts the chunks that are present, from the first one on without a gap. With a `lookup_id` it also protects them
/// from eviction, until kvtier_unpin() or until the pins expire; NULL for none. `tiers` is NULL for all. Chunks of
/// a failing backend count as absent.
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_lookup(
    engine: *const EngineHandle,
    keys: *const Key,
    n_keys: usize,
    tiers: *const Tiers,
    lookup_id: *const c_char,
    n_found: *mut usize,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, n_found) = unsafe { (reference(engine, "engine")?, Out::new(n_found, "n_found")?) };
        // SAFETY: the caller's.
        let (keys, tiers) =
            unsafe { (arguments::keys(keys, n_keys)?, arguments::tiers(tiers, &engine.storage)?) };
        let lookup = if lookup_id.is_null() {
            block_on(engine.storage.contains(&keys, &tiers))
        } else {
            // SAFETY: the caller's.
            let id = unsafe { text(lookup_id, "lookup_id") }?;
            block_on(engine.storage.contains_pinned(&keys, &tiers, id))
        };
        n_found.set(0, lookup.n_chunks);
        Ok(())
    })
}

/// Releases the pins of a lookup. A second call does nothing.
///
/// # Safety
/// Pointers are NULL or valid; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_unpin(engine: *const EngineHandle, lookup_id: *const c_char) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, id) = unsafe { (reference(engine, "engine")?, text(lookup_id, "lookup_id")?) };
        block_on(engine.storage.unpin(id));
        Ok(())
    })
}

/// Sets each element of `present` to whether any of the tiers has the chunk, also behind gaps. `tiers` is NULL for all.
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_contains_each(
    engine: *const EngineHandle,
    keys: *const Key,
    n_keys: usize,
    tiers: *const Tiers,
    present: *mut bool,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, present) =
            unsafe { (reference(engine, "engine")?, Out::array(present, n_keys, "present")?) };
        // SAFETY: the caller's.
        let (keys, tiers) =
            unsafe { (arguments::keys(keys, n_keys)?, arguments::tiers(tiers, &engine.storage)?) };
        let found = block_on(engine.storage.contains_each(&keys, &tiers));
        for (index, is_present) in found.into_iter().enumerate() {
            present.set(index, is_present);
        }
        Ok(())
    })
}

/// Retrieves chunks up to the first gap, each from the first tier that has it and delivers the right bytes. Writes
/// `n_found` handles to `chunks`, and NULL to the rest of its `n_keys` elements; release each with
/// kvtier_chunk_release(). Chunks of the CPU tier are not copied. `sizes_bytes` are the sizes of the buffers that are
/// provided: a chunk may be shorter, and a larger one is not found. Chunks of a failing backend count as absent. An
/// engine without a CPU tier finds nothing here; use kvtier_fetch_into().
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_retrieve(
    engine: *const EngineHandle,
    keys: *const Key,
    sizes_bytes: *const usize,
    n_keys: usize,
    tiers: *const Tiers,
    chunks: *mut *mut ChunkHandle,
    n_found: *mut usize,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, n_found) = unsafe { (reference(engine, "engine")?, Out::new(n_found, "n_found")?) };
        // SAFETY: the caller's.
        let chunks = unsafe { Out::array(chunks, n_keys, "chunks") }?;
        // SAFETY: the caller's.
        let (specs, tiers) = unsafe {
            (arguments::specs(keys, sizes_bytes, n_keys)?, arguments::tiers(tiers, &engine.storage)?)
        };
        let retrieved = block_on(engine.storage.get(&specs, &tiers, None)).chunks;
        n_found.set(0, retrieved.len());
        let mut handles = retrieved.into_iter().map(|chunk| Box::into_raw(Box::new(ChunkHandle(chunk))));
        for index in 0..chunks.len() {
            chunks.set(index, handles.next().unwrap_or(std::ptr::null_mut()));
        }
        Ok(())
    })
}

/// Returns the bytes of a chunk. They stay valid until the chunk is released, and are not to be changed.
///
/// # Safety
/// Pointers are NULL or valid; `chunk` was retrieved and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_chunk_bytes(chunk: *const ChunkHandle, bytes: *mut Bytes) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (chunk, place) = unsafe { (reference(chunk, "chunk")?, Out::new(bytes, "bytes")?) };
        place.set(0, Bytes { data: chunk.0.as_ptr(), size_bytes: chunk.0.len() });
        Ok(())
    })
}

/// Releases a chunk. NULL is ignored. Any thread may call it, also after the engine was released.
///
/// # Safety
/// `chunk` is NULL, or was retrieved and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_chunk_release(chunk: *mut ChunkHandle) {
    if !chunk.is_null() {
        // SAFETY: made by `Box::into_raw`, as the caller vouches.
        guarded_release(|| drop(unsafe { Box::from_raw(chunk) }));
    }
}

/// Removes chunks from the tiers, pinned or not, and writes how many were present, summed over the tiers, to
/// `n_removed` (which may be NULL). KVTIER_STATUS_FAILED: a backend could not; the other tiers have removed them.
/// `tiers` is NULL for all.
///
/// # Safety
/// Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_remove(
    engine: *const EngineHandle,
    keys: *const Key,
    n_keys: usize,
    tiers: *const Tiers,
    n_removed: *mut usize,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, place) =
            unsafe { (reference(engine, "engine")?, Out::optional(n_removed, "n_removed")?) };
        // SAFETY: the caller's.
        let (keys, tiers) =
            unsafe { (arguments::keys(keys, n_keys)?, arguments::tiers(tiers, &engine.storage)?) };
        place.set(0, block_on(engine.storage.remove(&keys, &tiers)).map_err(Failure::of)?);
        Ok(())
    })
}
