//! Disks that are full or read-only: errors say so, and stored chunks stay readable. A test that needs a separate file
//! system, other rights or other limits starts itself again with them, as a process that runs only this test. If that
//! is not permitted, it says so on standard error.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use kvtier::tier::TRAILER_BYTES;
use kvtier::{
    BackendConfig, BuildError, ChunkKey, ChunkSpec, Config, Engine, EngineBuilder, FsAccess, Missing,
    Operation, StorageManager, Tiers, block_on,
};

use crate::support::{self, counts_at, health, in_tier, key, log, metadata};

/// Payload of a chunk here: many pages, so that half of it can be written.
const LARGE_BYTES: usize = 300_000;

/// Names the directory to the test that was started again.
const DIRECTORY: &str = "KVTIER_TEST_DIRECTORY";

/// Ways into a private mount namespace, for any user and for root where users may not.
const NAMESPACES: [&str; 2] = ["unshare --user --map-root-user --mount", "unshare --mount"];

/// Starts the test of this name again, in a shell that first runs `before` with the directory as `$1`, behind a command
/// that sets its rights.
///
/// # Errors
/// If that is not permitted; the error is the output of `before`.
fn again(test: &str, directory: &Path, wrapper: &str, before: &str) -> Result<(), String> {
    let run = |script: String| {
        let mut words = wrapper.split_whitespace().chain(["sh", "-c", &script, "sh"]);
        let mut command = Command::new(words.next().unwrap_or("sh"));
        command.args(words).arg(directory).arg(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("disk::{test}"), "--nocapture"]);
        command.env(DIRECTORY, directory).stdin(Stdio::null()).output()
    };
    match run(before.to_owned()) {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(format!("`{wrapper}`: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => return Err(format!("`{wrapper}`: {error}")),
    }
    let output = run(format!("{before} && shift && exec \"$@\"")).unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "in a separate process:\n{said}");
    Ok(())
}

/// Runs `scenario` in a separate process, in the first of the ways that is permitted.
fn in_own_process(test: &str, wrappers: &[&str], before: &str, scenario: impl FnOnce(&Path)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return scenario(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut refused = Vec::new();
    for wrapper in wrappers {
        match again(test, directory.path(), wrapper, before) {
            Ok(()) => return,
            Err(why) => refused.push(why),
        }
    }
    // Bypasses the capture of the test's output, so that this does not look like a success.
    let notice = format!("NOT TESTED: disk::{test}: not permitted here: {}\n", refused.join("; "));
    std::io::stderr().write_all(notice.as_bytes()).unwrap();
}

fn config(backend: BackendConfig) -> Config {
    Config { local_cpu: false, pool_size_bytes: 128 << 20, ..support::config(vec![backend]) }
}

fn open(backend: &BackendConfig) -> Engine {
    support::engine(config(backend.clone()))
}

fn refusal(backend: &BackendConfig) -> String {
    match EngineBuilder::new(config(backend.clone()), metadata()).build_blocking() {
        Err(error @ BuildError::Load { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn put(storage: &StorageManager, key: ChunkKey, size_bytes: usize) {
    let mut allocation = block_on(storage.allocate(&[ChunkSpec { key, size_bytes }])).unwrap();
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    block_on(storage.put(allocation, &Tiers::All));
    block_on(storage.flush()).unwrap();
}

/// Reports whether a chunk is served with the right bytes. The lookup must agree.
fn holds(storage: &StorageManager, key: ChunkKey, size_bytes: usize) -> bool {
    let found = block_on(storage.get(&[ChunkSpec { key, size_bytes }], &Tiers::All, None));
    let served = found.chunks.len() == 1;
    if served {
        kvtier_cli::content::verify(key, &found.chunks[0]).unwrap();
    } else {
        assert!(found.misses.iter().all(|missed| missed.miss.reason() == "not_found"), "{found:?}");
    }
    let name = storage.tier_names()[1].to_owned();
    assert_eq!(in_tier(storage, &[key], &name) == 1, served, "a lookup disagrees");
    served
}

/// Returns the chunks' files, and the number of unfinished files.
fn files(directory: &Path) -> (Vec<PathBuf>, usize) {
    let list = |directory: PathBuf| {
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    (list(directory.join("00")), list(directory.join("tmp")).len())
}

fn has_errors(storage: &StorageManager, operation: Operation, kind: &str) -> bool {
    counts_at(storage, 1).n_errors(operation, kind) > 0
}

#[test]
fn a_full_disk_is_no_space_and_keeps_what_it_has() {
    let before = "mount -t tmpfs -o size=8m,mode=755 none \"$1\"";
    in_own_process("a_full_disk_is_no_space_and_keeps_what_it_has", &NAMESPACES, before, |disk| {
        let log = log();
        let data = disk.join("data");
        fs::create_dir(&data).unwrap();
        let mut backend = support::fs("disk_full", &data);
        // More than the disk has room for at first.
        let stored_bytes = (LARGE_BYTES + TRAILER_BYTES) as u64;
        backend.config.push(("capacity".into(), (10 * stored_bytes).to_string()));

        let ballast = fs::File::create(disk.join("ballast")).unwrap();
        ballast.set_len(0).unwrap();
        let page = vec![1; 1 << 16];
        while (&ballast).write_all(&page).is_ok() {}
        let full = ballast.metadata().unwrap().len();
        // Room for three chunks and a half.
        ballast.set_len(full - stored_bytes * 7 / 2).unwrap();

        let engine = open(&backend);
        let storage = engine.storage();
        log.scanned("disk_full", 1);
        for n in 0..8 {
            put(storage, key(n), LARGE_BYTES);
        }
        assert!(has_errors(storage, Operation::Put, "no_space"), "{:?}", counts_at(storage, 1));
        assert_eq!(counts_at(storage, 1).puts, 3);
        for n in 0..8 {
            assert_eq!(holds(storage, key(n), LARGE_BYTES), n < 3, "chunk {n}");
        }
        assert_eq!((files(&data).0.len(), files(&data).1), (3, 0), "half a file stays");
        let warnings =
            || log.heard("disk_full").iter().filter(|line| line.contains("cannot be stored")).count();
        assert_eq!(warnings(), 1, "{:?}", log.heard("disk_full"));

        // There is room again: the failed puts used up none of the capacity.
        ballast.set_len(0).unwrap();
        for n in 0..12 {
            put(storage, key(n), LARGE_BYTES);
        }
        assert_eq!((files(&data).0.len(), files(&data).1), (10, 0));
        let held = (0..12).filter(|&n| holds(storage, key(n), LARGE_BYTES)).count();
        assert_eq!(held, 10);
        assert!(log.heard("disk_full").iter().any(|line| line.contains("stored again")));
        assert_eq!(health(storage, "disk_full").lane_restarts, 0);
        engine.blocking().close().unwrap();

        let engine = open(&backend);
        let found = format!("scan: 10 chunks, {} bytes found, 0 evicted", 10 * stored_bytes);
        let scanned = log.scanned("disk_full", 2);
        assert!(scanned.starts_with(&found), "{scanned}");
        let held = (0..12).filter(|&n| holds(engine.storage(), key(n), LARGE_BYTES)).count();
        assert_eq!(held, 10);
    });
}

#[test]
fn a_chunk_beyond_the_limit_of_a_file_is_no_space_and_leaves_nothing() {
    // In shells the unit is 512 or 1024 bytes. The signal would end the process.
    let before = "trap '' XFSZ && ulimit -f 16384";
    in_own_process(
        "a_chunk_beyond_the_limit_of_a_file_is_no_space_and_leaves_nothing",
        &[""],
        before,
        |data| {
            let too_large = 20 << 20;
            let mut backend = support::fs("disk_limit", data);
            let capacity = too_large + TRAILER_BYTES;
            backend.config.push(("capacity".into(), capacity.to_string()));
            let engine = open(&backend);
            let storage = engine.storage();
            for n in 0..3 {
                put(storage, key(n), too_large);
                assert!(!holds(storage, key(n), too_large));
                assert_eq!((files(data).0.len(), files(data).1), (0, 0), "half a file stays");
            }
            assert_eq!(counts_at(storage, 1).n_errors(Operation::Put, "no_space"), 3);
            // The room of the failed puts is free again: as many chunks fit as in an empty directory.
            let n_fit = (capacity / (LARGE_BYTES + TRAILER_BYTES)) as u64;
            for n in 10..12 + n_fit {
                put(storage, key(n), LARGE_BYTES);
            }
            assert_eq!(files(data).0.len() as u64, n_fit);
            assert!(holds(storage, key(11 + n_fit), LARGE_BYTES));
            assert_eq!(health(storage, "disk_limit").lane_restarts, 0);
        },
    );
}

/// Checks a backend over chunks 0 to 2 that may not write: it still reads, and each refusal names the directory.
fn check_reads_only(storage: &StorageManager, name: &str, cause: &str) {
    put(storage, key(7), LARGE_BYTES);
    assert!(has_errors(storage, Operation::Put, "other"), "{:?}", counts_at(storage, 1));
    let refused = log().lines_with("put failed");
    assert!(refused.iter().any(|line| line.contains("/data: ") && line.contains(cause)), "{refused:?}");
    let error = block_on(storage.remove(&[key(0)], &Tiers::All)).unwrap_err().to_string();
    assert!(error.contains("/data: ") && error.contains(cause), "{error}");
    for n in 0..3 {
        assert!(holds(storage, key(n), LARGE_BYTES), "chunk {n}");
    }
    assert!(!holds(storage, key(7), LARGE_BYTES));
    assert_eq!(health(storage, name).lane_restarts, 0);
}

fn put_three(storage: &StorageManager) {
    for n in 0..3 {
        put(storage, key(n), LARGE_BYTES);
    }
}

#[test]
fn a_file_system_that_becomes_read_only_is_read_and_written_again_later() {
    let before = "mount -t tmpfs -o size=8m,mode=755 none \"$1\"";
    let test = "a_file_system_that_becomes_read_only_is_read_and_written_again_later";
    in_own_process(test, &NAMESPACES, before, |disk| {
        log();
        // Of the mount, not of the file system, whose options name users that the namespace may not know.
        let remount = |how: &str| {
            let mut mount = Command::new("mount");
            assert!(mount.args(["-o", &format!("remount,bind,{how}")]).arg(disk).status().unwrap().success());
        };
        let backend = support::fs("disk_ro", disk);
        let engine = open(&backend);
        put_three(engine.storage());
        let unfinished = disk.join(format!("tmp/{}-0", key(1)));
        fs::write(&unfinished, "half").unwrap();
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        fs::File::options().write(true).open(&unfinished).unwrap().set_modified(long_ago).unwrap();

        remount("ro");
        check_reads_only(engine.storage(), "disk_ro", "read-only");
        engine.blocking().close().unwrap();

        // A new instance also reads the chunks, even if it would have to evict or clean and cannot.
        let mut small = backend.clone();
        small.config.push(("capacity".into(), (2 * (LARGE_BYTES + TRAILER_BYTES)).to_string()));
        let engine = open(&small);
        check_reads_only(engine.storage(), "disk_ro", "read-only");
        assert!(unfinished.exists());
        engine.blocking().close().unwrap();
        let engine = open(&backend);
        check_reads_only(engine.storage(), "disk_ro", "read-only");

        remount("rw");
        put(engine.storage(), key(7), LARGE_BYTES);
        assert!(holds(engine.storage(), key(7), LARGE_BYTES));
        engine.blocking().close().unwrap();
        let engine = open(&backend);
        support::eventually("the old unfinished file is removed", || !unfinished.exists());
        engine.blocking().close().unwrap();

        // Nothing to read, and nothing can be stored: no backend.
        fs::remove_dir_all(disk.join("tmp")).unwrap();
        remount("ro");
        let error = refusal(&backend);
        assert!(error.contains("/data: ") && error.contains("read-only"), "{error}");
    });
}

#[test]
fn a_directory_without_the_right_to_write_is_read() {
    // Root may write everywhere, except in a user namespace without it.
    let before =
        "probe=$(mktemp -d \"$1/probe.XXXX\") && chmod 555 \"$probe\" && ! touch \"$probe/x\" 2>/dev/null";
    let wrappers = ["", "unshare --user"];
    in_own_process("a_directory_without_the_right_to_write_is_read", &wrappers, before, |data| {
        log();
        let backend = support::fs("disk_denied", data);
        let engine = open(&backend);
        put_three(engine.storage());
        let allow = |mode: u32| {
            for folder in ["tmp", "00", ""] {
                fs::set_permissions(data.join(folder), fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        allow(0o555);
        assert!(fs::write(data.join("tmp/test"), "").is_err(), "this user may write everywhere");
        check_reads_only(engine.storage(), "disk_denied", "not permitted");
        engine.blocking().close().unwrap();
        let engine = open(&backend);
        check_reads_only(engine.storage(), "disk_denied", "not permitted");

        allow(0o755);
        put(engine.storage(), key(7), LARGE_BYTES);
        assert!(holds(engine.storage(), key(7), LARGE_BYTES));
        engine.blocking().close().unwrap();

        fs::remove_dir_all(data.join("tmp")).unwrap();
        fs::set_permissions(data, fs::Permissions::from_mode(0o555)).unwrap();
        let error = refusal(&backend);
        fs::set_permissions(data, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(error.contains("/data: not permitted"), "{error}");
    });
}

#[test]
fn a_directory_granted_for_reading_is_read() {
    log();
    let data = tempfile::tempdir().unwrap();
    let writable = support::fs("disk_granted", data.path());
    let engine = open(&writable);
    put_three(engine.storage());
    engine.blocking().close().unwrap();

    let mut backend = writable;
    backend.allow.fs[0].access = FsAccess::ReadOnly;
    let engine = open(&backend);
    check_reads_only(engine.storage(), "disk_granted", "not permitted");
    for n in 100..180 {
        put(engine.storage(), key(n), 100);
    }
    // A refusal that is known beforehand is not attempted.
    assert_eq!(health(engine.storage(), "disk_granted").denials, 0);
    engine.blocking().close().unwrap();

    let empty = tempfile::tempdir().unwrap();
    backend.allow.fs[0].host_dir = empty.path().to_owned();
    let error = refusal(&backend);
    assert!(error.contains("/data: not permitted") && error.contains("`allow.fs`"), "{error}");
}

fn direct(name: &str, data: &Path) -> BackendConfig {
    let mut backend = support::fs(name, data);
    backend.config.push(("direct".into(), "true".into()));
    backend
}

#[test]
fn what_goes_past_the_page_cache_is_the_same_file() {
    log();
    let data = tempfile::tempdir().unwrap();
    let backend = direct("disk_direct", data.path());
    let engine = match EngineBuilder::new(config(backend.clone()), metadata()).build_blocking() {
        Err(error) if error.to_string().contains("no direct I/O") => {
            let notice = format!("NOT TESTED: {} does no direct I/O\n", data.path().display());
            return std::io::stderr().write_all(notice.as_bytes()).unwrap();
        }
        engine => engine.unwrap(),
    };
    // The trailer fills the last block, crosses two blocks, or has a separate one; several blocks and pieces.
    let sizes = [100, 4096 - TRAILER_BYTES, 4090, 4096, LARGE_BYTES, 4 << 20, (8 << 20) + 4096 + 5];
    for (n, size_bytes) in (0..).zip(sizes) {
        put(engine.storage(), key(n), size_bytes);
        assert!(holds(engine.storage(), key(n), size_bytes), "{size_bytes}");
        let file = data.path().join(format!("00/{}.kv", key(n)));
        assert_eq!(fs::metadata(file).unwrap().len(), (size_bytes + TRAILER_BYTES) as u64);
    }
    assert_eq!((files(data.path()).0.len(), files(data.path()).1), (sizes.len(), 0));
    engine.blocking().close().unwrap();
    let cached = open(&support::fs("disk_direct", data.path()));
    for (n, size_bytes) in (0..).zip(sizes) {
        assert!(holds(cached.storage(), key(n), size_bytes), "{size_bytes}");
    }
}

#[test]
fn a_file_system_without_direct_io_is_refused_where_it_is_asked_for() {
    let name = "a_file_system_without_direct_io_is_refused_where_it_is_asked_for";
    in_own_process(name, &NAMESPACES, "mount -t ramfs none \"$1\"", |disk| {
        log();
        let data = disk.join("data");
        fs::create_dir(&data).unwrap();
        let error = refusal(&direct("disk_ram", &data));
        assert!(error.contains("config.direct: the file system of /data does no direct I/O"), "{error}");
        assert_eq!(files(&data).1, 0, "the attempt left a file");
        let engine = open(&support::fs("disk_ram", &data));
        put(engine.storage(), key(1), LARGE_BYTES);
        assert!(holds(engine.storage(), key(1), LARGE_BYTES));
    });
}
