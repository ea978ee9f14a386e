//! What C can get wrong: each wrong argument is a status and a message, and nothing is taken or leaked.
#![expect(unsafe_code, reason = "calls functions as C does")]
#![expect(clippy::unwrap_used, reason = "a test fails where it cannot do what it needs")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

use kvtier_c::*;
use kvtier_tests::support::{self, eventually};

fn message() -> String {
    // SAFETY: the text of this thread's last failure.
    unsafe { CStr::from_ptr(kvtier_error()) }.to_str().unwrap().to_owned()
}

fn refused(status: Status, expected: &str) {
    assert_eq!(status, Status::InvalidArgument, "{}", message());
    assert!(message().contains(expected), "{} instead of {expected}", message());
}

const MODEL: *const c_char = c"tiny".as_ptr();

fn defaults() -> ConfigSource {
    ConfigSource { file: null(), text: c"max_local_cpu_size: 0.01".as_ptr(), base_dir: null() }
}

fn key_metadata() -> KeyMetadata {
    KeyMetadata {
        model_name: MODEL,
        world_size: 1,
        worker_id: 0,
        layout: c"test".as_ptr(),
        chunk_bytes_max: 4096,
    }
}

fn token_metadata() -> TokenMetadata {
    let kv_dtype = c"bfloat16".as_ptr();
    TokenMetadata { model_name: MODEL, world_size: 1, worker_id: 0, kv_dtype, kv_shape: [2, 2, 256, 2, 8] }
}

/// Opens an engine on keys, releases it at the end.
struct Opened(*mut EngineHandle);

impl Opened {
    fn on_keys(flags: u32) -> Self {
        let (config, metadata, mut engine) = (defaults(), key_metadata(), null_mut());
        // SAFETY: all pointers are valid.
        let status =
            unsafe { kvtier_open_on_keys(&raw const config, &raw const metadata, flags, &raw mut engine) };
        assert_eq!(status, Status::Ok, "{}", message());
        Self(engine)
    }
}

impl Opened {
    /// Opens an engine on keys that has a backend in memory, and one that hangs in its puts. Is not released.
    fn with_backends() -> std::mem::ManuallyDrop<Self> {
        let backend = |name: &str, component: &str, class: &str| {
            let path = support::component(component);
            let begin = format!("  external_backend.{name}");
            format!("{begin}.module_path: '{}'\n{begin}.class_name: {class}\n", path.display())
                + &support::patient_lines(&format!("{begin}."))
        };
        let text = format!(
            "external_backends: memory, stuck\nextra_config:\n{}{}  external_backend.stuck.config.in: put\n  \
             kvtier.close_timeout_ms: 1\n  kvtier.compiler: off\n  kvtier.compile_cache: '{}'\n  \
             kvtier.on_load_error: fail\n",
            backend("memory", "memory", "MemoryBackend"),
            // Its put is waited for until it expires.
            backend("stuck", "misbehaving", "HangBackend").replace(
                &format!("call_timeout_ms: {}", support::FOR_EVER.as_millis()),
                "call_timeout_ms: 5000"
            ),
            support::compile_cache().display(),
        );
        let text = CString::new(text).unwrap();
        let config = ConfigSource { file: null(), text: text.as_ptr(), base_dir: null() };
        let (metadata, mut engine) = (key_metadata(), null_mut());
        let flags = KVTIER_WITHOUT_CPU_TIER;
        // SAFETY: all pointers are valid.
        let status =
            unsafe { kvtier_open_on_keys(&raw const config, &raw const metadata, flags, &raw mut engine) };
        assert_eq!(status, Status::Ok, "{}", message());
        std::mem::ManuallyDrop::new(Self(engine))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by this, and released once.
        unsafe { kvtier_release(self.0) };
    }
}

#[test]
fn opening_refuses_what_describes_no_engine() {
    let mut engine = null_mut();
    let mut open = |config: *const ConfigSource, metadata: *const KeyMetadata, flags| {
        // SAFETY: pointers are null or valid.
        unsafe { kvtier_open_on_keys(config, metadata, flags, &raw mut engine) }
    };
    let (config, metadata) = (defaults(), key_metadata());
    refused(open(null(), &raw const metadata, 0), "config is NULL");
    refused(open(&raw const config, null(), 0), "metadata is NULL");
    refused(open(&raw const config, &raw const metadata, 6), "flags is 0x6");
    let neither = ConfigSource { text: null(), ..config };
    refused(open(&raw const neither, &raw const metadata, 0), "either config.file or config.text");
    let both = ConfigSource { file: MODEL, ..config };
    refused(open(&raw const both, &raw const metadata, 0), "either config.file or config.text");
    let latin = ConfigSource { text: c"\xff".as_ptr(), ..config };
    refused(open(&raw const latin, &raw const metadata, 0), "config.text is not UTF-8");
    let nameless = KeyMetadata { model_name: null(), ..metadata };
    refused(open(&raw const config, &raw const nameless, 0), "metadata.model_name is NULL");
    // What the library refuses.
    let wrong = ConfigSource { text: c"chunk_size: many".as_ptr(), ..config };
    assert_eq!(open(&raw const wrong, &raw const metadata, 0), Status::Failed);
    assert!(message().contains("chunk_size"), "{}", message());
    let worker = KeyMetadata { worker_id: 1, ..metadata };
    assert_eq!(open(&raw const config, &raw const worker, 0), Status::Failed);
    let untagged = KeyMetadata { layout: c"".as_ptr(), ..metadata };
    assert_eq!(open(&raw const config, &raw const untagged, 0), Status::Failed);
    assert!(message().contains("layout tag"), "{}", message());
    // SAFETY: pointers are null or valid.
    refused(
        unsafe { kvtier_open_on_keys(&raw const config, &raw const metadata, 0, null_mut()) },
        "engine is NULL",
    );

    let mut open = |metadata: TokenMetadata| {
        // SAFETY: pointers are valid.
        unsafe { kvtier_open_on_tokens(&raw const config, &raw const metadata, &raw mut engine) }
    };
    refused(open(TokenMetadata { kv_dtype: c"float13".as_ptr(), ..token_metadata() }), "float13");
    refused(open(TokenMetadata { kv_shape: [0; 5], ..token_metadata() }), "KV shape");
    assert_eq!(open(TokenMetadata { kv_shape: [2, 2, 64, 2, 8], ..token_metadata() }), Status::Failed);
    assert!(message().contains("chunk_size"), "{}", message());
    assert!(engine.is_null(), "nothing was opened");
}

/// Counts the releases of lent memory.
unsafe extern "C" fn count(context: *mut c_void) {
    // SAFETY: the context is a counter.
    unsafe { &*context.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn operations_refuse_wrong_arguments_and_take_nothing() {
    let opened = Opened::on_keys(0);
    let engine = opened.0;
    let key = Key { bytes: [7; 16] };
    let (keys, mut n, mut flag) = (&raw const key, 0_usize, false);
    let n_out = &raw mut n;
    // SAFETY: in all calls, pointers are null or valid for the given numbers of elements, unless the call is refused
    // before it uses them.
    unsafe {
        refused(kvtier_lookup(null(), keys, 1, null(), null(), n_out), "engine is NULL");
        refused(kvtier_lookup(engine, null(), 1, null(), null(), n_out), "keys is NULL");
        refused(kvtier_lookup(engine, keys, usize::MAX, null(), null(), n_out), "more than memory can have");
        refused(kvtier_lookup(engine, keys, 1, null(), null(), null_mut()), "n_found is NULL");
        refused(kvtier_lookup(engine, keys, 1, null(), c"\xfe".as_ptr(), n_out), "lookup_id is not UTF-8");
        let unknown = [c"disk".as_ptr()];
        let tiers = Tiers { names: unknown.as_ptr(), n_names: 1 };
        refused(
            kvtier_lookup(engine, keys, 1, &raw const tiers, null(), n_out),
            "no tier `disk`; there are cpu",
        );
        let tiers = Tiers { names: null(), n_names: 1 };
        refused(kvtier_lookup(engine, keys, 1, &raw const tiers, null(), n_out), "tiers.names is NULL");
        assert_eq!(kvtier_lookup(engine, null(), 0, null(), null(), n_out), Status::Ok, "nothing to look up");
        refused(kvtier_contains_each(engine, keys, 1, null(), null_mut()), "present is NULL");
        assert_eq!(kvtier_contains_each(engine, keys, 1, null(), &raw mut flag), Status::Ok);
        assert!(!flag);
        refused(kvtier_unpin(engine, null()), "lookup_id is NULL");
        refused(
            kvtier_prompt_keys(engine, null(), 0, null(), 0, null_mut(), null_mut(), 0, n_out),
            "the engine is on keys",
        );
        let name = Bytes { data: null(), size_bytes: 3 };
        let mut derived = key;
        refused(kvtier_foreign_keys(engine, &raw const name, 1, &raw mut derived), "data of a name is NULL");
        let mut chunk = null_mut();
        let mut allocation = null_mut();
        for size in [0, usize::MAX] {
            let sizes = &raw const size;
            refused(kvtier_retrieve(engine, keys, sizes, 1, null(), &raw mut chunk, n_out), "sizes_bytes[0]");
            refused(kvtier_allocate(engine, keys, sizes, 1, &raw mut allocation), "sizes_bytes[0]");
        }
        let size = 4097_usize;
        assert_eq!(kvtier_allocate(engine, keys, &raw const size, 1, &raw mut allocation), Status::Failed);
        assert!(message().contains("at most 4096 bytes"), "{}", message());
        assert!(allocation.is_null());
        refused(kvtier_allocation_missing(null_mut(), null_mut(), 0, n_out), "allocation is NULL");
        refused(kvtier_store(engine, null_mut(), null(), null_mut(), null_mut()), "allocation is NULL");
        refused(kvtier_chunk_bytes(null(), null_mut()), "chunk is NULL");
        refused(kvtier_receipt_wait(null(), 0, null_mut()), "receipt is NULL");
        refused(kvtier_status_text(engine, null_mut()), "status is NULL");

        let n_released = AtomicUsize::new(0);
        let mut memory = [0_u8; 16];
        let context = (&raw const n_released).cast_mut().cast();
        let good = Lent { key, data: memory.as_mut_ptr(), size_bytes: 16, release: Some(count), context };
        let mut results = [FetchResult { outcome: FetchOutcome::Fetched, size_bytes: 9, reason: [0; 32] }; 2];
        for (bad, expected) in [
            (Lent { data: null_mut(), ..good }, "lent[1].data is NULL"),
            (Lent { size_bytes: 0, ..good }, "lent[1].size_bytes is 0"),
            (Lent { release: None, ..good }, "lent[1].release is NULL"),
        ] {
            let lent = [good, bad];
            refused(kvtier_put(engine, lent.as_ptr(), 2, null(), null_mut()), expected);
            refused(kvtier_fetch_into(engine, lent.as_ptr(), 2, null(), results.as_mut_ptr()), expected);
        }
        refused(kvtier_fetch_into(engine, &raw const good, 1, null(), null_mut()), "results is NULL");
        assert_eq!(n_released.load(Ordering::SeqCst), 0, "nothing was taken");
        assert_eq!(kvtier_fetch_into(engine, &raw const good, 1, null(), results.as_mut_ptr()), Status::Ok);
        assert_eq!((results[0].outcome, results[0].size_bytes), (FetchOutcome::Missed, 0));
        assert_eq!(CStr::from_ptr(results[0].reason.as_ptr()), c"not_found");
        assert_eq!(n_released.load(Ordering::SeqCst), 1);
        // Without backends, a put has nowhere to go.
        let mut receipt = null_mut();
        assert_eq!(kvtier_put(engine, &raw const good, 1, null(), &raw mut receipt), Status::Ok);
        assert_eq!(n_released.load(Ordering::SeqCst), 2);
        assert_eq!(kvtier_receipt_wait(receipt, 0, n_out), Status::Ok);
        assert_eq!(n, 0);
        let mut result = PutResult { outcome: PutOutcome::Stored, backend: [0; 65], reason: [0; 32] };
        refused(kvtier_receipt_result(receipt, 0, 0, &raw mut result), "no chunk 0 for a backend 0");
        refused(kvtier_receipt_notify(engine, receipt, None, null_mut()), "completed is NULL");
        kvtier_receipt_release(receipt);
    }
}

#[test]
fn a_closed_engine_finds_and_stores_nothing_and_chunks_outlive_it() {
    let opened = Opened::on_keys(0);
    let engine = opened.0;
    let (key, size) = (Key { bytes: [3; 16] }, 1000_usize);
    let (keys, sizes) = (&raw const key, &raw const size);
    let (mut allocation, mut chunk, mut n) = (null_mut(), null_mut(), 0_usize);
    // SAFETY: in all calls, pointers are null or valid, and handles are used before their release.
    unsafe {
        assert_eq!(kvtier_allocate(engine, keys, sizes, 1, &raw mut allocation), Status::Ok);
        let mut missing = MissingChunk { position: 9, data: null_mut(), size_bytes: 0 };
        assert_eq!(kvtier_allocation_missing(allocation, &raw mut missing, 1, &raw mut n), Status::Ok);
        assert_eq!((n, missing.position, missing.size_bytes), (1, 0, size));
        missing.data.write_bytes(5, size);
        let mut receipt = null_mut();
        let (new, kept) = (&raw mut n, &raw mut receipt);
        assert_eq!(kvtier_store(engine, allocation, null(), new, kept), Status::Ok);
        assert_eq!(n, 1);
        assert_eq!(kvtier_receipt_wait(receipt, 0, new), Status::Ok, "there is no backend");
        kvtier_receipt_release(receipt);
        assert_eq!(kvtier_retrieve(engine, keys, sizes, 1, null(), &raw mut chunk, &raw mut n), Status::Ok);
        assert_eq!(n, 1);
        let mut text = null_mut();
        assert_eq!(kvtier_metrics_text(engine, &raw mut text), Status::Ok);
        assert!(CStr::from_ptr(text).to_str().unwrap().contains("kvtier_"));
        kvtier_string_free(text);
        assert_eq!(kvtier_allocate(engine, keys, sizes, 1, &raw mut allocation), Status::Ok);
        kvtier_allocation_discard(allocation);

        assert_eq!(kvtier_close(engine), Status::Ok);
        assert_eq!(kvtier_close(engine), Status::Ok, "a second time");
        let other = Key { bytes: [4; 16] };
        assert_eq!(kvtier_allocate(engine, &raw const other, sizes, 1, &raw mut allocation), Status::Failed);
        assert!(message().contains("closed"), "{}", message());
        let mut none = chunk;
        assert_eq!(
            kvtier_retrieve(engine, &raw const other, sizes, 1, null(), &raw mut none, &raw mut n),
            Status::Ok
        );
        assert!(n == 0 && none.is_null());
        assert_eq!(kvtier_flush(engine, 0), Status::Ok);
        drop(opened);
        let mut bytes = Bytes { data: null(), size_bytes: 0 };
        assert_eq!(kvtier_chunk_bytes(chunk, &raw mut bytes), Status::Ok);
        assert_eq!(std::slice::from_raw_parts(bytes.data, bytes.size_bytes), [5; 1000]);
        kvtier_chunk_release(chunk);
    }
}

#[test]
fn a_put_that_hangs_reaches_the_limit_of_the_wait_and_its_memory_comes_back() {
    let engine = Opened::with_backends();
    let engine = engine.0;
    let (mut memory, mut receipt, mut n) = ([[1_u8; 100], [2; 100]], null_mut(), 0_usize);
    let (n_released, n_completed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let counter = |counter: &AtomicUsize| std::ptr::from_ref(counter).cast_mut().cast::<c_void>();
    let mut lent = |index: usize| Lent {
        key: Key { bytes: [index as u8; 16] },
        data: memory[index].as_mut_ptr(),
        size_bytes: 100,
        release: Some(count),
        context: counter(&n_released),
    };
    let (pair, again) = ([lent(0), lent(1)], lent(0));
    let one = |name: &[*const c_char; 1]| Tiers { names: name.as_ptr(), n_names: 1 };
    let (memory_tier, stuck_tier) = ([c"memory".as_ptr()], [c"stuck".as_ptr()]);
    let (in_memory, in_stuck) = (one(&memory_tier), one(&stuck_tier));
    let mut result = PutResult { outcome: PutOutcome::Dropped, backend: [0; 65], reason: [0; 32] };
    let n_now = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    // SAFETY: all pointers are valid, and handles are used before their release.
    unsafe {
        let both = pair.as_ptr();
        assert_eq!(kvtier_put(engine, both, 2, &raw const in_memory, &raw mut receipt), Status::Ok);
        assert_eq!(kvtier_receipt_notify(engine, receipt, Some(count), counter(&n_completed)), Status::Ok);
        assert_eq!(kvtier_receipt_wait(receipt, KVTIER_NO_LIMIT, &raw mut n), Status::Ok);
        assert_eq!(n, 1);
        assert_eq!(kvtier_receipt_result(receipt, 0, 1, &raw mut result), Status::Ok);
        assert_eq!((result.outcome, result.reason), (PutOutcome::Stored, [0; 32]));
        assert_eq!(CStr::from_ptr(result.backend.as_ptr()), c"memory");
        refused(kvtier_receipt_result(receipt, 0, 2, &raw mut result), "no chunk 2 for a backend 0");
        kvtier_receipt_release(receipt);
        eventually("the callbacks were called", || n_now(&n_released) == 2 && n_now(&n_completed) == 1);

        let hung = &raw const again;
        assert_eq!(kvtier_put(engine, hung, 1, &raw const in_stuck, &raw mut receipt), Status::Ok);
        assert_eq!(kvtier_receipt_wait(receipt, 1, &raw mut n), Status::TimedOut);
        assert_eq!(kvtier_receipt_result(receipt, 0, 0, &raw mut result), Status::Failed);
        assert!(message().contains("not complete"), "{}", message());
        assert_eq!(kvtier_flush(engine, 1), Status::TimedOut);
        assert!(message().contains("1 chunks for `stuck`"), "{}", message());
        assert_eq!(n_now(&n_released), 2);
        // Only its put hangs: it is chance whether its `close` ends within the millisecond.
        match kvtier_close(engine) {
            Status::Ok => {}
            other => {
                assert!(other == Status::Failed && message().contains("`stuck`"), "{other:?}: {}", message());
            }
        }
        assert_eq!(kvtier_receipt_wait(receipt, KVTIER_NO_LIMIT, null_mut()), Status::Ok);
        assert_eq!(kvtier_receipt_result(receipt, 0, 0, &raw mut result), Status::Ok);
        assert_ne!(result.outcome, PutOutcome::Stored);
        assert_ne!(result.reason[0], 0);
        kvtier_receipt_release(receipt);
        kvtier_release(engine);
    }
    eventually("the memory comes back", || n_now(&n_released) == 3);
}

#[test]
fn what_is_released_may_be_null_and_texts_have_a_home() {
    // SAFETY: null is allowed.
    unsafe {
        kvtier_release(null_mut());
        kvtier_abandon(null_mut());
        kvtier_chunk_release(null_mut());
        kvtier_allocation_discard(null_mut());
        kvtier_receipt_release(null_mut());
        kvtier_string_free(null_mut());
        kvtier_string_free(CString::default().into_raw());
        kvtier_abandon(Opened::on_keys(KVTIER_WITHOUT_CPU_TIER).leak());
        assert_eq!(CStr::from_ptr(kvtier_version()).to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    }
}

impl Opened {
    fn leak(self) -> *mut EngineHandle {
        std::mem::ManuallyDrop::new(self).0
    }
}
