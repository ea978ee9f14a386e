//! The `fs` backend on directories that hold more chunks than its index, that are emptied while in use, and that
//! several processes share.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use kvtier::tier::{CapacityOwner, TRAILER_BYTES};
use kvtier::{
    BackendConfig, ChunkKey, Config, Engine, OnLoadError, Operation, StorageManager, Tiers, block_on,
};

use crate::support::{
    self, CHUNK_BYTES, config, counted, engine, eventually, get, health, in_tier, key, log, put_in, served,
};

/// Bytes of a chunk's file.
const FILE_BYTES: u64 = (CHUNK_BYTES + TRAILER_BYTES) as u64;

fn open(backend: BackendConfig) -> Engine {
    engine(Config { local_cpu: false, ..config(vec![backend]) })
}

/// Returns the backend with a capacity of this many chunks.
fn bounded(name: &str, directory: &Path, n_chunks: u64) -> BackendConfig {
    let mut backend = support::fs(name, directory);
    backend.config.push(("capacity".into(), (n_chunks * FILE_BYTES).to_string()));
    backend
}

fn range(keys: std::ops::Range<u64>) -> Vec<ChunkKey> {
    keys.map(key).collect()
}

/// Stores chunks, as many at a time as the pool has room for.
fn put_all(storage: &StorageManager, keys: &[ChunkKey], tier: &str) {
    for some in keys.chunks(32) {
        put_in(storage, some, tier);
    }
}

/// Returns how many of the chunks are delivered with the right bytes.
fn n_served(storage: &StorageManager, keys: &[ChunkKey]) -> usize {
    keys.iter().filter(|key| served(&get(storage, &[**key])) == [1]).count()
}

/// Returns the files in a folder; none if the folder is absent.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

fn owner(engine: &Engine, name: &str) -> Option<CapacityOwner> {
    health(engine.storage(), name).capacity_owner
}

#[test]
fn opening_asks_the_host_as_often_for_a_hundred_thousand_files_as_for_ten() {
    let log = log();
    let calls = |name: &str, n_files: u64| {
        let directory = tempfile::tempdir().unwrap();
        for folder in ["tmp", "00"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        for n in 0..n_files {
            fs::File::create(directory.path().join(format!("00/{}.kv", key(n)))).unwrap();
        }
        let engine = open(support::fs(name, directory.path()));
        // Also before the scan.
        assert_eq!(in_tier(engine.storage(), &range(0..10), name), 10);
        assert_eq!(in_tier(engine.storage(), &[key(n_files - 1), key(n_files)], name), 1);
        engine.blocking().close().unwrap();
        let opened = log.heard(name).into_iter().find(|line| line.starts_with("open: after ")).unwrap();
        opened.split(' ').nth(2).unwrap().parse::<u64>().unwrap()
    };
    let few = calls("directory_of_ten", 10);
    assert_eq!(few, calls("directory_of_many", 100_000));
    assert!(few < 10, "{few}");
}

#[test]
fn what_is_found_is_evicted_in_the_order_of_its_age_and_before_what_is_new() {
    let log = log();
    let directory = tempfile::tempdir().unwrap();
    let first = open(support::fs("directory_age", directory.path()));
    put_all(first.storage(), &range(0..20), "directory_age");
    log.scanned("directory_age", 1);
    first.blocking().close().unwrap();
    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_hours(hours);
    // The first chunks are the youngest.
    for n in 0..20 {
        let file = fs::File::options().write(true).open(directory.path().join(format!("00/{}.kv", key(n))));
        file.unwrap().set_modified(hours_ago(1 + n)).unwrap();
    }
    let second = open(bounded("directory_age", directory.path(), 15));
    let scanned = log.scanned("directory_age", 2);
    assert!(scanned.starts_with("scan: 20 chunks, ") && scanned.contains(" 5 evicted"), "{scanned}");
    assert_eq!(in_tier(second.storage(), &range(0..20), "directory_age"), 15);
    put_all(second.storage(), &range(100..103), "directory_age");
    assert_eq!(in_tier(second.storage(), &range(0..20), "directory_age"), 12);
    assert_eq!(n_served(second.storage(), &range(100..103)), 3);
    assert_eq!(files(&directory.path().join("00")).len(), 15);
}

#[test]
fn files_beyond_the_memory_of_the_index_are_kept_and_found_and_new_chunks_replace_others() {
    const N: u64 = 1_200;
    let log = log();
    let name = "directory_full";
    let directory = tempfile::tempdir().unwrap();
    let first = open(support::fs(name, directory.path()));
    put_all(first.storage(), &range(0..N), name);
    log.scanned(name, 1);
    first.blocking().close().unwrap();

    let mut backend = support::fs(name, directory.path());
    // Room for the first entries of an index only.
    backend.limits.memory_bytes = 4 << 20;
    let second = open(backend);
    let storage = second.storage();
    let scanned = log.scanned(name, 2);
    assert!(
        scanned.starts_with(&format!("scan: {N} chunks, ")) && scanned.contains(" 0 evicted"),
        "{scanned}"
    );
    assert_eq!(in_tier(storage, &range(0..N), name), N as usize);
    let some: Vec<ChunkKey> = (0..N).step_by(7).map(key).collect();
    assert_eq!(n_served(storage, &some), some.len());
    put_all(storage, &range(5000..5100), name);
    assert_eq!(n_served(storage, &range(5000..5100)), 100);
    let n_files = files(&directory.path().join("00")).len();
    assert_eq!(n_files, N as usize, "a hundred were evicted");
    put_all(storage, &range(5000..5100), name);
    let warnings = log.heard(name).iter().filter(|line| line.contains("the index is full")).count();
    assert_eq!(warnings, 1, "{:?}", log.heard(name));
    assert_eq!(health(storage, name).lane_restarts, 0);
    // Removed chunks are gone, whether the index knew them or not.
    block_on(storage.remove(&some, &Tiers::All)).unwrap();
    assert_eq!(n_served(storage, &some), 0);
}

#[test]
fn a_directory_that_is_emptied_while_it_is_used_is_used_on() {
    let log = log();
    for (name, root) in [("directory_emptied", "/data"), ("directory_root_emptied", "/data/a/b")] {
        let directory = tempfile::tempdir().unwrap();
        let mut backend = support::fs(name, directory.path());
        backend.config[0].1 = root.into();
        let engine = open(backend);
        let storage = engine.storage();
        put_all(storage, &range(0..300), name);
        let empty = || {
            for path in files(directory.path()) {
                fs::remove_dir_all(path).unwrap();
            }
        };
        empty();
        // The first to notice is a put.
        put_all(storage, &range(1000..1010), name);
        assert_eq!(n_served(storage, &range(1000..1010)), 10);
        assert_eq!(in_tier(storage, &range(0..300), name), 0);
        assert_eq!(n_served(storage, &range(0..300)), 0);
        put_all(storage, &range(0..50), name);
        empty();
        // Now it is a get.
        assert_eq!(n_served(storage, &range(0..50)), 0);
        put_all(storage, &range(0..50), name);
        assert_eq!(n_served(storage, &range(0..50)), 50);
        let heard = log.heard(name);
        let n_warnings = heard.iter().filter(|line| line.contains("directory was emptied")).count();
        let n_missing = heard.iter().filter(|line| line.contains("the file is gone")).count();
        assert!(n_warnings == 1 && n_missing <= 1, "{heard:?}");
        let counts = support::counts_at(storage, 1);
        assert!(counts.errors.is_empty() && health(storage, name).lane_restarts == 0, "{counts:?}");
        engine.blocking().close().unwrap();
    }
}

#[test]
fn two_on_one_directory_find_what_the_other_has_stored_and_one_of_them_evicts() {
    let log = log();
    let directory = tempfile::tempdir().unwrap();
    let first = open(bounded("directory_first", directory.path(), 40));
    log.scanned("directory_first", 1);
    let second = open(bounded("directory_second", directory.path(), 40));
    let (one, two) = (first.storage(), second.storage());
    assert_eq!(owner(&first, "directory_first"), Some(CapacityOwner::ThisProcess));
    // Some systems do not show the owners of locks.
    let another = owner(&second, "directory_second");
    assert!(
        matches!(another, Some(CapacityOwner::Another { process }) if process.is_none_or(|id| id == std::process::id())),
        "{another:?}"
    );

    put_all(one, &range(0..10), "directory_first");
    put_all(two, &range(10..20), "directory_second");
    for (storage, name) in [(one, "directory_first"), (two, "directory_second")] {
        assert_eq!(in_tier(storage, &range(0..20), name), 20, "{name}");
        assert_eq!(n_served(storage, &range(0..20)), 20, "{name}");
    }
    // The owner neither evicts nor forgets chunks stored by the other, and a chunk that it removes is gone for both.
    block_on(one.remove(&[key(12)], &Tiers::All)).unwrap();
    block_on(two.remove(&[key(3)], &Tiers::All)).unwrap();
    assert_eq!(in_tier(two, &[key(12)], "directory_second"), 0);
    eventually("the owner learns of it", || in_tier(one, &[key(3)], "directory_first") == 0);

    // Chunks that the second has pinned stay, whichever evicts; chunks that it stores are counted.
    let pinned = range(13..17);
    let lookup = block_on(two.contains_pinned(&pinned, &Tiers::All, "pin"));
    assert_eq!(lookup.n_chunks, 4);
    put_all(two, &range(100..160), "directory_second");
    let n_files = || files(&directory.path().join("00")).len();
    eventually("the owner evicts", || n_files() <= 40);
    put_all(one, &range(200..260), "directory_first");
    assert_eq!(n_files(), 40);
    assert_eq!(n_served(two, &pinned), 4);
    assert_eq!(files(&directory.path().join("tmp")).len(), 0);

    first.blocking().close().unwrap();
    drop(first);
    eventually("the other takes over", || {
        owner(&second, "directory_second") == Some(CapacityOwner::ThisProcess)
    });
    log.scanned("directory_second", 1);
    put_all(two, &range(300..320), "directory_second");
    assert_eq!((n_files(), n_served(two, &range(300..320))), (40, 20));
}

#[test]
fn any_number_of_lookups_may_ask_the_file_system_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(support::fs("directory_owner", directory.path()));
    put_all(first.storage(), &range(0..128), "directory_owner");
    let mut backend = support::fs("directory_asked", directory.path());
    backend.limits.call_timeout = support::FOR_EVER;
    let second = open(backend);
    // Each call is for another chunk and asks for 16 files at a time; the host allows 1,024 operations.
    let questions: Vec<Vec<ChunkKey>> = (0..128).map(|n| [range(n..128), range(0..n)].concat()).collect();
    let lookups = questions.iter().map(|keys| second.storage().contains(keys, &Tiers::All));
    let found = block_on(futures::future::join_all(lookups));
    let n_found: Vec<usize> = found.iter().map(|lookup| lookup.n_chunks).collect();
    assert_eq!(n_found, [128; 128]);
    assert!(support::counts_at(second.storage(), 1).errors.is_empty());
}

#[test]
fn the_capacity_of_a_process_that_is_killed_is_taken_over() {
    log();
    let directory = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_kvtier-crash"));
    program.args(["load", "--backend", "fs", "--directory"]).arg(directory.path());
    let mut child =
        program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // It logs endlessly, and blocks if its output is not read.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "open");
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).count());

    let name = "directory_killed";
    let engine = open(bounded(name, directory.path(), 10));
    let shown = owner(&engine, name);
    assert!(
        matches!(shown, Some(CapacityOwner::Another { process }) if process.is_none_or(|id| id == child.id())),
        "{shown:?}"
    );
    put_all(engine.storage(), &range(0..32), name);
    assert_eq!(n_served(engine.storage(), &range(0..32)), 32, "it does not evict");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reader.join().unwrap() > 0);
    eventually("it takes over", || owner(&engine, name) == Some(CapacityOwner::ThisProcess));
    eventually("it evicts", || {
        let sizes = (0..=255).flat_map(|n| files(&directory.path().join(format!("{n:02x}"))));
        sizes.map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>() <= 10 * FILE_BYTES
    });
    assert_eq!(health(engine.storage(), name).lane_restarts, 0);
}

#[test]
fn unfinished_files_of_another_process_stay_until_they_are_old() {
    let log = log();
    let directory = tempfile::tempdir().unwrap();
    let temporary = directory.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let file = |n: u64, hours: u64| {
        let path = temporary.join(format!("{}-{n:016x}-7", key(n)));
        fs::write(&path, "half").unwrap();
        let age = Duration::from_hours(hours);
        fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        path
    };
    let (old, young) = (file(1, 1), file(2, 0));
    let engine = open(support::fs("directory_unfinished", directory.path()));
    let scanned = log.scanned("directory_unfinished", 1);
    assert!(scanned.ends_with(" 1 unfinished files removed"), "{scanned}");
    assert!(!old.exists() && young.exists());
    drop(engine);
}

#[test]
fn a_file_from_far_in_the_future_is_no_lease_and_is_evicted() {
    let log = log();
    let directory = tempfile::tempdir().unwrap();
    let first = open(bounded("directory_of_today", directory.path(), 4));
    put_all(first.storage(), &range(0..4), "directory_of_today");
    first.blocking().close().unwrap();
    drop(first);
    // As if the clock had been wrong when they were stored.
    let later = SystemTime::now() + Duration::from_hours(24);
    for key in range(0..4) {
        let path = directory.path().join(format!("{}/{key}.kv", &key.to_string()[..2]));
        fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
    }
    let name = "directory_of_tomorrow";
    let engine = open(bounded(name, directory.path(), 4));
    log.scanned(name, 1);
    put_all(engine.storage(), &range(10..14), name);
    assert_eq!(n_served(engine.storage(), &range(10..14)), 4);
    assert_eq!(n_served(engine.storage(), &range(0..4)), 0);
    assert!(counted(engine.storage(), name).errors.is_empty());
}

#[test]
fn something_else_in_the_place_of_a_directory_is_named_and_a_link_to_one_will_do() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tmp"), "").unwrap();
    let name = "directory_blocked";
    let config = |backend| Config { on_load_error: OnLoadError::Continue, ..config(vec![backend]) };
    let blocked = engine(config(support::fs(name, directory.path())));
    let down = health(blocked.storage(), name).down.unwrap_or_default();
    assert!(down.contains("`tmp` is not a directory"), "{down}");
    drop(blocked);
    fs::remove_file(directory.path().join("tmp")).unwrap();
    fs::create_dir(directory.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", directory.path().join("tmp")).unwrap();
    let linked = open(support::fs(name, directory.path()));
    put_all(linked.storage(), &range(0..4), name);
    assert_eq!(n_served(linked.storage(), &range(0..4)), 4);
}

/// Returns the path of a chunk's file in the directory of a backend.
fn file_of(directory: &Path, key: ChunkKey) -> PathBuf {
    directory.join(format!("{}/{key}.kv", &key.to_string()[..2]))
}

#[test]
fn a_file_that_is_too_large_for_a_chunk_is_named_and_costs_no_room() {
    let log = log();
    let name = "directory_oversized";
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("00")).unwrap();
    // In total more bytes than 64 bits can count, if the file system supports such files.
    for n in 0..4 {
        let file = fs::File::create(file_of(directory.path(), key(n))).unwrap();
        let sizes = [i64::MAX as u64, 15 << 40, 5 << 30];
        assert!(sizes.iter().any(|&size| file.set_len(size).is_ok()));
    }
    let engine = open(bounded(name, directory.path(), 10));
    let scanned = log.scanned(name, 1);
    assert!(scanned.starts_with("scan: 0 chunks, 0 bytes found, 0 evicted"), "{scanned}");
    assert_eq!(in_tier(engine.storage(), &range(0..4), name), 0);
    put_all(engine.storage(), &range(2..12), name);
    assert_eq!(n_served(engine.storage(), &range(2..12)), 10);
    let heard = log.heard(name);
    let named = |line: &&String| line.contains("more than a chunk can have") && line.contains(".kv` has ");
    assert!(heard.iter().filter(named).count() >= 1, "{heard:?}");
    assert!(!heard.iter().any(|line| line.contains("limits.memory")), "{heard:?}");
    assert!(counted(engine.storage(), name).errors.is_empty());
}

#[test]
fn what_is_in_the_place_of_chunks_is_named_and_puts_nothing_else_out() {
    const N: u64 = 12;
    let log = log();
    let directory = tempfile::tempdir().unwrap();
    // In place of some files, and of the directory of all files.
    for (name, in_the_way) in [("directory_for_file", false), ("directory_for_directory", true)] {
        let root = directory.path().join(name);
        fs::create_dir(&root).unwrap();
        if in_the_way {
            fs::write(root.join("00"), "").unwrap();
        } else {
            (0..N).for_each(|n| fs::create_dir_all(file_of(&root, key(n)).join("x")).unwrap());
        }
        let engine = open(support::fs(name, &root));
        let storage = engine.storage();
        log.scanned(name, 1);
        for n in 0..N {
            put_in(storage, &[key(n)], name);
        }
        let errors = counted(storage, name).errors;
        assert_eq!(in_tier(storage, &range(0..N), name), 0);
        assert_eq!(block_on(storage.remove(&range(0..N), &Tiers::All)).unwrap(), 0);
        let kinds: Vec<_> = errors.iter().map(|error| (error.operation, error.kind)).collect();
        assert_eq!(kinds, [(Operation::Put, "invalid_argument")]);
        let what = if in_the_way { "`00` is not a directory" } else { ".kv` is not a file; remove it" };
        let heard = log.heard(name);
        assert!(heard.iter().any(|line| line.contains(what)), "{heard:?}");
        let other = if in_the_way { ChunkKey { hi: 1 << 56, lo: 1 } } else { key(N) };
        put_in(storage, &[other], name);
        assert_eq!(n_served(storage, &[other]), 1, "the breakers are closed");
        assert_eq!(files(&root.join("tmp")).len(), 0);
    }
}

#[test]
fn links_to_directories_are_looked_through_and_cleaned_as_directories_are() {
    let log = log();
    let name = "directory_links";
    let directory = tempfile::tempdir().unwrap();
    for (link, target) in [("tmp", "elsewhere"), ("00", "chunks")] {
        fs::create_dir(directory.path().join(target)).unwrap();
        std::os::unix::fs::symlink(target, directory.path().join(link)).unwrap();
    }
    let old = directory.path().join(format!("elsewhere/{}-7-7", key(1)));
    fs::write(&old, "half").unwrap();
    let file = fs::File::options().write(true).open(&old).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
    let first = open(support::fs(name, directory.path()));
    let scanned = log.scanned(name, 1);
    assert!(scanned.ends_with(" 1 unfinished files removed") && !old.exists(), "{scanned}");
    put_all(first.storage(), &range(0..20), name);
    first.blocking().close().unwrap();
    drop(first);
    let _second = open(bounded(name, directory.path(), 15));
    let scanned = log.scanned(name, 2);
    assert!(scanned.starts_with("scan: 20 chunks, ") && scanned.contains(" 5 evicted"), "{scanned}");
    let heard = log.heard(name);
    assert!(!heard.iter().any(|line| line.contains("unfinished files stay")), "{heard:?}");
}

#[test]
fn a_link_out_of_the_grant_in_the_place_of_a_directory_is_named() {
    let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(outside.path(), directory.path().join("tmp")).unwrap();
    let name = "directory_linked_out";
    let config =
        Config { on_load_error: OnLoadError::Continue, ..config(vec![support::fs(name, directory.path())]) };
    let engine = engine(config);
    let down = health(engine.storage(), name).down.unwrap_or_default();
    assert!(down.contains("`tmp` is not a directory"), "{down}");
    assert_eq!(files(outside.path()).len(), 0);
}
