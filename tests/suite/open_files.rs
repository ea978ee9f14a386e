//! Resources of the process that a backend may hold beside memory: file descriptors, threads that work on files, and
//! the paths and bytes that wait for these.

use kvtier::__internal::limits::{BLOCKING_THREADS_MAX, FILE_OPERATION_BYTES, PATH_BYTES_MAX};
use kvtier::__internal::wasm::hold_threads;
use kvtier::{
    BackendConfig, Config, Engine, FsAccess, FsGrant, NetGrant, NetHost, PortRange, StorageManager, Tiers,
};

use crate::lanes::{FOR_EVER, engine};
use crate::limits::{greedy, replaced, take};
use crate::support;

/// A folder with a file and a pipe, which a greedy class is granted.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "content").unwrap();
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
        assert!(made.unwrap().success());
        Self(folder)
    }

    pub(crate) fn granted(&self, name: &str, takes: &str) -> BackendConfig {
        let mut backend = greedy(name, takes);
        let (host_dir, access) = (self.0.path().to_owned(), FsAccess::ReadWrite);
        backend.allow.fs.push(FsGrant { host_dir, guest_path: "/data".into(), access });
        backend
    }
}

/// An engine over a greedy backend and one that keeps chunks in files.
fn beside_files(greedy: BackendConfig, folder: &tempfile::TempDir) -> Engine {
    let backends = vec![greedy, support::fs("files", folder.path())];
    support::engine(Config { local_cpu: false, ..support::config(backends) })
}

fn assert_files_work(storage: &StorageManager) {
    let keys = support::keys(4);
    support::put_in(storage, &keys, "files");
    assert_eq!(support::in_tier(storage, &keys, "files"), 4);
    assert_eq!(support::get(storage, &keys).chunks.len(), 4);
}

#[test]
fn directories_that_are_not_read_to_the_end_hold_up_nobody() {
    const STREAMS: u64 = 2 * BLOCKING_THREADS_MAX as u64;
    let (folder, files) = (Folder::new(), tempfile::tempdir().unwrap());
    for number in 0..8 {
        std::fs::write(folder.0.path().join(number.to_string()), "").unwrap();
    }
    let both = beside_files(folder.granted("lists", "listings-0.3"), &files);
    let storage = both.storage();
    assert_eq!(take(storage, "lists", STREAMS), None);
    assert_eq!(take(storage, "lists", 1), None, "itself neither");
    assert_files_work(storage);
    let again = engine(folder.granted("lists-again", "listings-0.3"));
    assert_eq!(take(again.storage(), "lists-again", 1), None);
}

#[test]
fn a_backend_whose_threads_all_wait_holds_up_no_other() {
    let (folder, files) = (Folder::new(), tempfile::tempdir().unwrap());
    let mut waits = folder.granted("waits", "files-0.3");
    waits.limits.call_timeout = support::EXPIRES;
    let both = beside_files(waits, &files);
    let storage = both.storage();
    let _held = hold_threads("waits").unwrap();
    assert_eq!(take(storage, "waits", 1), Some("timeout"));
    assert_files_work(storage);
    let again = engine(folder.granted("waits-again", "files-0.3"));
    assert_eq!(take(again.storage(), "waits-again", 1), None);
}

#[test]
fn opening_a_pipe_does_not_wait_for_its_other_end() {
    let folder = Folder::new();
    let engine = engine(folder.granted("pipes", "pipes"));
    assert_eq!(take(engine.storage(), "pipes", 40), None);
}

/// Takes `n` while all threads wait, then one more, which is refused. Does so again once the threads have reached all.
fn assert_pending_is_limited(takes: &str, n: u64, set: impl Fn(&mut BackendConfig)) {
    let (folder, name) = (Folder::new(), format!("pending-{takes}-{n}"));
    let mut backend = folder.granted(&name, takes);
    set(&mut backend);
    let engine = engine(backend);
    let storage = engine.storage();
    assert_eq!(take(storage, &name, 0), None, "{name}");
    let held = hold_threads(&name).unwrap();
    assert_eq!(take(storage, &name, n), None, "{name}");
    let refused = take(storage, &name, 1);
    let health = support::health(storage, &name);
    assert_eq!(refused, Some("unavailable"), "{name}: {health:?}");
    assert!(health.host_memory_bytes >= n * FILE_OPERATION_BYTES, "{health:?}");
    assert_eq!(health.lane_restarts, 0, "refused, not ended");
    drop(held);
    support::eventually("threads have reached all operations", || take(storage, &name, 1).is_none());
}

#[test]
fn operations_that_are_given_up_are_pending_until_a_thread_has_come_to_them() {
    for takes in ["stats-given-up", "opens-given-up", "syncs-given-up", "reads-given-up"] {
        assert_pending_is_limited(takes, 40, |backend| backend.limits.file_operations_max = 40);
    }
}

#[test]
fn names_in_pending_operations_are_limited() {
    // Of 4,000 bytes each.
    for takes in ["stats-given-up", "opens-given-up"] {
        assert_pending_is_limited(takes, 5, |backend| backend.limits.file_names_bytes = 20_000);
    }
}

#[test]
fn operations_by_path_are_limited_like_others() {
    assert_pending_is_limited("paths-given-up", 10, |backend| backend.limits.file_operations_max = 10);
    assert_pending_is_limited("paths-given-up", 5, |backend| backend.limits.file_names_bytes = 20_100);
}

#[test]
fn bytes_that_wait_to_be_written_are_limited() {
    let folder = Folder::new();
    let mut backend = folder.granted("writes", "writes-given-up");
    backend.limits.file_names_bytes = 20_000;
    let engine = engine(backend);
    let storage = engine.storage();
    let held = hold_threads("writes").unwrap();
    assert_eq!(take(storage, "writes", 10_000), None);
    assert_eq!(take(storage, "writes", 10_000), Some("unavailable"), "with two names");
    assert_eq!(take(storage, "writes", 9_900), None);
    drop(held);
    support::eventually("threads have reached all operations", || take(storage, "writes", 10_000).is_none());
}

#[test]
fn threads_that_wait_for_a_disk_are_counted_when_the_engine_is_closed() {
    let folder = Folder::new();
    let mut backend = folder.granted("hangs", "files-0.3");
    backend.limits.call_timeout = support::EXPIRES;
    backend.limits.close_timeout = support::EXPIRES;
    let engine = engine(backend);
    let held = hold_threads("hangs").unwrap();
    assert_eq!(take(engine.storage(), "hangs", 1), Some("timeout"));
    let error = engine.blocking().close().unwrap_err().to_string();
    let told = format!("{BLOCKING_THREADS_MAX} of its threads still wait for a file system");
    assert!(error.contains("`hangs`") && error.contains(&told), "{error}");
    drop(held);
}

#[test]
fn a_path_that_is_too_long_is_refused_before_it_waits_for_anything() {
    for (name, length, expected) in
        [("path-at", PATH_BYTES_MAX, "timeout"), ("path-beyond", PATH_BYTES_MAX + 1, "invalid_argument")]
    {
        let folder = Folder::new();
        let mut backend = folder.granted(name, "path");
        // All threads are busy, so a call that needs one is not answered.
        backend.limits.call_timeout = if expected == "timeout" { support::EXPIRES } else { FOR_EVER };
        let engine = engine(backend);
        let _held = hold_threads(name).unwrap();
        assert_eq!(take(engine.storage(), name, length as u64), Some(expected), "{name}");
    }
}

#[test]
fn a_name_for_direct_io_is_measured_when_the_call_is_made() {
    let folder = Folder::new();
    let engine = engine(folder.granted("direct-names", "direct-names"));
    let _held = hold_threads("direct-names").unwrap();
    assert_eq!(take(engine.storage(), "direct-names", PATH_BYTES_MAX as u64), None, "it waits");
    for n_bytes in [PATH_BYTES_MAX as u64 + 1, 10 << 20] {
        assert_eq!(take(engine.storage(), "direct-names", n_bytes), Some("invalid_argument"));
    }
}

#[test]
fn a_stream_into_a_file_takes_no_more_than_it_says() {
    const ROOM: u64 = 64 << 10;
    let folder = Folder::new();
    let at = engine(folder.granted("write-at", "unread-write"));
    assert_eq!(take(at.storage(), "write-at", ROOM), None);
    let beyond = engine(folder.granted("write-beyond", "unread-write"));
    assert_eq!(take(beyond.storage(), "write-beyond", ROOM + 1), Some("trap"));
    let reason = replaced(beyond.storage(), "write-beyond", 1);
    assert!(reason.contains("wrote 65537 bytes to a stream that takes 65536"), "{reason}");
}

#[test]
fn open_files_are_limited() {
    const LIMIT: u64 = 16;
    // A listing keeps its directory open until it is read.
    for (takes, n_max) in [
        ("files-0.2", LIMIT),
        ("files-0.3", LIMIT),
        ("file-streams", LIMIT),
        ("file-streams-0.2", LIMIT),
        ("listings-0.2", LIMIT / 2),
        ("listings-0.3", LIMIT / 2),
        ("sockets-0.2", LIMIT),
        ("sockets-0.3", LIMIT),
    ] {
        let folder = Folder::new();
        let set = |name: &str| {
            let mut backend = folder.granted(name, takes);
            backend.limits.open_files_max = LIMIT as usize;
            let host = NetHost::Address("127.0.0.1".parse().unwrap());
            backend.allow.net.push(NetGrant::Tcp { host, ports: PortRange { first: 1, last: 1 } });
            backend
        };
        let name = takes.replace('.', "-");
        let (at, beyond) = (format!("{name}-at"), format!("{name}-beyond"));
        let (working, refusing) = (engine(set(&at)), engine(set(&beyond)));
        assert_eq!(take(working.storage(), &at, n_max), None, "{takes}");
        assert_eq!(take(refusing.storage(), &beyond, n_max + 1), Some("no_space"), "{takes}");
        assert_eq!(support::health(refusing.storage(), &beyond).lane_restarts, 0, "refused, not ended");
    }
}

#[test]
fn files_that_are_closed_do_not_count() {
    let folder = Folder::new();
    let mut backend = folder.granted("closes", "files-closed");
    backend.limits.open_files_max = 1;
    let engine = engine(backend);
    assert_eq!(take(engine.storage(), "closes", 100), None);
}

#[test]
fn the_file_backend_keeps_to_a_few_open_files_however_many_calls_there_are() {
    const CALLS: usize = 16;
    let files = tempfile::tempdir().unwrap();
    let mut backend = support::fs("files", files.path());
    backend.limits.open_files_max = 64;
    let config = support::config(vec![backend]);
    let engine = support::engine(Config { pool_size_bytes: 32 << 20, local_cpu: false, ..config });
    let storage = engine.storage();
    let keys = support::keys(16);
    support::put_in(storage, &keys, "files");
    let specs = support::specs(&keys);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let calls = (0..CALLS).map(|_| storage.get(&specs, &Tiers::All, None));
    for retrieved in runtime.block_on(futures::future::join_all(calls)) {
        assert_eq!(retrieved.chunks.len(), keys.len(), "{:?}", retrieved.misses);
    }
}
