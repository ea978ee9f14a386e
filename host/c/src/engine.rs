//! Opening, closing and observing an engine.
#![expect(unsafe_code, reason = "exports functions to C")]

use std::ffi::c_char;
use std::time::{Duration, Instant};

use kvtier::{
    Config, Dtype, Engine, EngineBuilder, EngineMetadata, KvShape, StorageManager, StorageMetadata, block_on,
};

use crate::arguments::{Out, path, reference, text};
use crate::error::{Failure, Status, c_string, guarded, guarded_release};

/// Opens an engine on keys without a CPU tier: kvtier reserves no memory, and chunks are stored from and fetched into
/// memory that the caller lends.
pub const KVTIER_WITHOUT_CPU_TIER: u32 = 1;

/// A limit that never passes, for waits.
pub const KVTIER_NO_LIMIT: u64 = u64::MAX;

/// An engine. Any thread may use it, also several at a time.
#[derive(Debug)]
pub struct EngineHandle {
    /// `None` if the engine is on keys.
    pub(crate) on_tokens: Option<Engine>,
    pub(crate) storage: StorageManager,
}

/// Where the configuration comes from: either `file` or `text` is given, and the other is NULL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ConfigSource {
    /// The path of a file in YAML. Variables `LMCACHE_*` of the process's environment override its keys.
    pub file: *const c_char,
    /// A text in YAML. The environment has no part in it. An empty text gives the defaults.
    pub text: *const c_char,
    /// With `text`, the directory that relative paths in it are relative to; NULL for the working directory.
    pub base_dir: *const c_char,
}

/// What an engine on tokens serves. `chunk_size` of the configuration is the third extent of the shape.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TokenMetadata {
    /// The model's name.
    pub model_name: *const c_char,
    /// The number of workers that hold a shard of the model.
    pub world_size: u32,
    /// This worker's index, in 0 to world_size - 1.
    pub worker_id: u32,
    /// The element type, such as "bfloat16", "half", "float" or "fp8_e4m3fn".
    pub kv_dtype: *const c_char,
    /// Layers, 2 (1 for MLA), tokens of a chunk, KV heads, head size.
    pub kv_shape: [u32; 5],
}

/// What an engine on keys serves.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KeyMetadata {
    /// The model's name.
    pub model_name: *const c_char,
    /// The number of workers that hold a shard of the model.
    pub world_size: u32,
    /// This worker's index, in 0 to world_size - 1.
    pub worker_id: u32,
    /// A tag for the layout of the chunks, of 1 to 256 bytes. Engines with different tags share nothing.
    pub layout: *const c_char,
    /// The size of the largest chunk in bytes, from 1 to 2^40. Larger chunks are not stored.
    pub chunk_bytes_max: usize,
}

unsafe fn read_config(source: *const ConfigSource) -> Result<Config, Failure> {
    // SAFETY: the caller's.
    let source = unsafe { reference(source, "config") }?;
    let read = match (source.file.is_null(), source.text.is_null()) {
        // SAFETY: the caller's.
        (false, true) => Config::from_file(unsafe { path(source.file, "config.file") }?),
        (true, false) => {
            // SAFETY: the caller's.
            let yaml = unsafe { text(source.text, "config.text") }?;
            let base_dir = if source.base_dir.is_null() {
                std::path::Path::new("")
            } else {
                // SAFETY: the caller's.
                unsafe { path(source.base_dir, "config.base_dir") }?
            };
            Config::from_yaml(yaml, base_dir, [])
        }
        _ => return Err(Failure::Invalid("give either config.file or config.text".into())),
    };
    Ok(read.map_err(Failure::of)?.log())
}

fn hand_out(place: Out<*mut EngineHandle>, on_tokens: Option<Engine>, storage: StorageManager) {
    place.set(0, Box::into_raw(Box::new(EngineHandle { on_tokens, storage })));
}

/// Opens an engine on tokens, and waits until its backends are open or have failed. It works with keys that
/// kvtier_prompt_keys() derives. Release it with kvtier_release().
///
/// # Safety
/// Pointers are NULL or valid, and texts end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_open_on_tokens(
    config: *const ConfigSource,
    metadata: *const TokenMetadata,
    engine: *mut *mut EngineHandle,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (place, metadata) = unsafe { (Out::new(engine, "engine")?, reference(metadata, "metadata")?) };
        // SAFETY: the caller's.
        let (name, dtype) = unsafe {
            (text(metadata.model_name, "metadata.model_name")?, text(metadata.kv_dtype, "metadata.kv_dtype")?)
        };
        let invalid = |error: kvtier::LayoutError| Failure::Invalid(error.to_string());
        let metadata = EngineMetadata {
            model_name: name.to_owned(),
            world_size: metadata.world_size,
            worker_id: metadata.worker_id,
            kv_dtype: dtype.parse::<Dtype>().map_err(invalid)?,
            kv_shape: KvShape::new(metadata.kv_shape).map_err(invalid)?,
        };
        // SAFETY: the caller's.
        let config = unsafe { read_config(config) }?;
        let engine = EngineBuilder::new(config, metadata).build_blocking().map_err(Failure::of)?;
        let storage = engine.storage().clone();
        hand_out(place, Some(engine), storage);
        Ok(())
    })
}

/// Opens an engine on keys, whose chunks have a layout that only the caller knows and sizes up to
/// `metadata.chunk_bytes_max`. `flags` is 0 or KVTIER_WITHOUT_CPU_TIER. Release it with kvtier_release().
///
/// # Safety
/// Pointers are NULL or valid, and texts end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_open_on_keys(
    config: *const ConfigSource,
    metadata: *const KeyMetadata,
    flags: u32,
    engine: *mut *mut EngineHandle,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (place, metadata) = unsafe { (Out::new(engine, "engine")?, reference(metadata, "metadata")?) };
        if flags & !KVTIER_WITHOUT_CPU_TIER != 0 {
            return Err(Failure::Invalid(format!("flags is {flags:#x}; known is KVTIER_WITHOUT_CPU_TIER")));
        }
        // SAFETY: the caller's.
        let (name, layout) = unsafe {
            (text(metadata.model_name, "metadata.model_name")?, text(metadata.layout, "metadata.layout")?)
        };
        let metadata = StorageMetadata {
            model_name: name.to_owned(),
            world_size: metadata.world_size,
            worker_id: metadata.worker_id,
            layout: layout.to_owned(),
            chunk_bytes_max: metadata.chunk_bytes_max,
        };
        // SAFETY: the caller's.
        let builder = EngineBuilder::on_keys(unsafe { read_config(config) }?, metadata);
        let builder = if flags & KVTIER_WITHOUT_CPU_TIER == 0 { builder } else { builder.without_cpu_tier() };
        hand_out(place, None, builder.build_blocking().map_err(Failure::of)?);
        Ok(())
    })
}

/// Waits until every queued put has been stored or has failed, for at most `limit_ms`.
/// KVTIER_STATUS_TIMED_OUT: some puts are still pending.
///
/// # Safety
/// `engine` is NULL, or was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_flush(engine: *const EngineHandle, limit_ms: u64) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let engine = unsafe { reference(engine, "engine") }?;
        let deadline = Instant::now() + limit(limit_ms).unwrap_or(LONGEST);
        let flushed = block_on(engine.storage.flush_until(deadline));
        flushed.map_err(|error| Failure::TimedOut(error.to_string()))
    })
}

/// The longest wait for which there is a deadline on every clock: thirty years.
const LONGEST: Duration = Duration::from_hours(24 * 365 * 30);

/// Returns a limit in milliseconds as a duration, or `None` for no limit.
pub(crate) fn limit(limit_ms: u64) -> Option<Duration> {
    (limit_ms != KVTIER_NO_LIMIT).then(|| Duration::from_millis(limit_ms).min(LONGEST))
}

/// Stores the queued chunks and closes all tiers, within the limits of the configuration. Afterwards nothing is stored
/// or found. A second close returns the same result. The handle still has to be released.
///
/// # Safety
/// `engine` is NULL, or was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_close(engine: *const EngineHandle) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        block_on(unsafe { reference(engine, "engine") }?.storage.close()).map_err(Failure::of)
    })
}

/// Releases an engine. Chunks that were not released stay valid. Without kvtier_close() before, queued puts are
/// dropped. NULL is ignored. No other thread may be using the handle.
///
/// # Safety
/// `engine` is NULL, or was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_release(engine: *mut EngineHandle) {
    if !engine.is_null() {
        // SAFETY: made by `Box::into_raw`, as the caller vouches.
        guarded_release(|| drop(unsafe { Box::from_raw(engine) }));
    }
}

/// Gives up an engine in a child process after fork(): call it first in the child, instead of any other function. It
/// waits for nothing, and leaves what belongs to the parent. In the process that opened the engine it is
/// kvtier_release(). NULL is ignored.
///
/// # Safety
/// `engine` is NULL, or was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_abandon(engine: *mut EngineHandle) {
    if !engine.is_null() {
        guarded_release(|| {
            // SAFETY: made by `Box::into_raw`, as the caller vouches.
            let EngineHandle { on_tokens, storage } = *unsafe { Box::from_raw(engine) };
            storage.abandon();
            if let Some(engine) = on_tokens {
                engine.abandon();
            }
        });
    }
}

/// Returns the state of all tiers with the causes of failures, as a text for people, whose form may change. Release it
/// with kvtier_string_free().
///
/// # Safety
/// Pointers are NULL or valid; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_status_text(engine: *const EngineHandle, status: *mut *mut c_char) -> Status {
    // SAFETY: the caller's.
    unsafe { report(engine, status, "status", |storage| format!("{:#?}", storage.status())) }
}

/// Returns all counters and latencies in Prometheus' text format. Release it with kvtier_string_free().
///
/// # Safety
/// Pointers are NULL or valid; `engine` was opened and not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvtier_metrics_text(
    engine: *const EngineHandle,
    metrics: *mut *mut c_char,
) -> Status {
    // SAFETY: the caller's.
    unsafe { report(engine, metrics, "metrics", StorageManager::metrics) }
}

unsafe fn report(
    engine: *const EngineHandle,
    place: *mut *mut c_char,
    name: &str,
    of: impl FnOnce(&StorageManager) -> String,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let (engine, place) = unsafe { (reference(engine, "engine")?, Out::new(place, name)?) };
        place.set(0, c_string(&of(&engine.storage)).into_raw());
        Ok(())
    })
}
