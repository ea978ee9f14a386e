//! The interface `directory`: files by the guest's paths of granted directories, in both styles.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvtier::__internal::limits::{LISTED_ENTRIES_MAX, PATH_BYTES_MAX, SMALL_FILE_BYTES_MAX};
use kvtier::tier::TRAILER_BYTES;
use kvtier::{
    BackendConfig, ChunkSpec, Config, FsAccess, FsGrant, HotCache, Missing, StorageManager, Tiers, block_on,
};

use crate::support::{self, CHUNK_BYTES};

const CLASSES: [&str; 2] = ["PathsBackend", "BlockingPathsBackend"];

/// Two granted directories, one of them for reading, beside a file that is not granted.
struct Granted(tempfile::TempDir);

impl Granted {
    fn new() -> Self {
        let whole = tempfile::tempdir().unwrap();
        fs::create_dir(whole.path().join("data")).unwrap();
        fs::create_dir(whole.path().join("ro")).unwrap();
        fs::write(whole.path().join("secret"), "a secret").unwrap();
        Self(whole)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn backend(&self, class: &str) -> BackendConfig {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("paths-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut backend = support::backend(&name, "paths", class);
        for (guest_path, access) in [("/data", FsAccess::ReadWrite), ("/ro", FsAccess::ReadOnly)] {
            let host_dir = self.path(guest_path.trim_start_matches('/'));
            backend.allow.fs.push(FsGrant { host_dir, guest_path: guest_path.into(), access });
        }
        backend
    }

    /// Returns what a class reports about each step.
    fn outcomes(&self, class: &str, steps: &[&str]) -> Vec<String> {
        outcomes(self.backend(class), steps)
    }

    /// Checks what both classes report about each step.
    fn check(&self, steps: &[(&str, &str)]) {
        for class in CLASSES {
            let lines: Vec<&str> = steps.iter().map(|(step, _)| *step).collect();
            let outcomes = self.outcomes(class, &lines);
            for ((step, expected), outcome) in steps.iter().zip(outcomes) {
                assert!(outcome.starts_with(expected), "{class}: {step}\n  {outcome}\n  {expected}");
            }
        }
    }
}

fn outcomes(mut backend: BackendConfig, steps: &[&str]) -> Vec<String> {
    let log = support::log();
    let name = backend.name.clone();
    backend.config.push(("steps".into(), steps.join("\n")));
    let engine = support::engine(support::config(vec![backend]));
    engine.blocking().close().unwrap();
    let heard = log.heard(&name);
    let outcome = |step: &&str| {
        let start = format!("{step}: ");
        let line = heard.iter().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{step}: {heard:?}")).to_owned()
    };
    steps.iter().map(outcome).collect()
}

/// Returns all files and links below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    entries
        .flat_map(
            |entry| {
                if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { vec![entry.path()] }
            },
        )
        .collect()
}

#[test]
fn chunks_go_to_files_by_their_paths_and_come_back() {
    for class in CLASSES {
        let granted = Granted::new();
        let backend = granted.backend(class);
        let name = backend.name.clone();
        let keys = support::keys(20);
        for n_stored in [20, 0] {
            // The second engine finds what the first has stored.
            let engine = support::engine(support::config(vec![backend.clone()]));
            let storage = engine.storage();
            storage.set_hot_cache(HotCache::Off);
            if n_stored > 0 {
                assert_eq!(support::in_tier(storage, &keys, &name), 0);
                support::put_in(storage, &keys, &name);
            }
            assert_eq!(support::served(&support::get(storage, &keys)), [1; 20], "{class}");
            assert_eq!(support::in_tier(storage, &keys, &name), 20);
            assert_eq!(support::counted(storage, &name).errors.len(), 0, "{class}");
            support::assert_nothing_leaks(storage);
            engine.blocking().close().unwrap();
        }
        let stored = files(&granted.path("data/chunks"));
        assert_eq!(stored.len(), 20, "no temporary file stays");
        for file in stored {
            assert_eq!(file.metadata().unwrap().len(), (CHUNK_BYTES + TRAILER_BYTES) as u64);
        }
        let engine = support::engine(support::config(vec![backend]));
        assert_eq!(block_on(engine.storage().remove(&keys[..3], &Tiers::only([name.as_str()]))), Ok(3));
        assert_eq!(files(&granted.path("data")).len(), 17);
    }
}

#[test]
fn small_files_are_written_read_listed_and_removed() {
    let granted = Granted::new();
    fs::create_dir_all(granted.path("data/l/b-directory")).unwrap();
    fs::write(granted.path("data/l/a-file"), "four").unwrap();
    symlink("a-file", granted.path("data/l/c-link")).unwrap();
    granted.check(&[
        ("read /data/none", "none"),
        ("read /data/no/such/file", "none"),
        ("write /data/a 5", "written"),
        ("write /data/a 9", "written"),
        ("read /data/a", "9 bytes, alike"),
        ("write /data/made/on/the/way/b 0", "written"),
        ("read /data/made/on/the/way/b", "0 bytes, alike"),
        ("remove /data/a", "true"),
        ("remove /data/none", "false"),
        ("remove /data/a/b", "false"),
        ("list /data/none", ""),
        ("list /data/l", "a-file: file of 4, b-directory: directory of 0, c-link: link of 0"),
        ("list /data/l a-file", "b-directory: directory of 0, c-link: link of 0"),
        ("list /data/l/ c", "c-link: link of 0"),
        ("list /data/l d", ""),
        ("list /data", "l: directory of 0, made: directory of 0"),
    ]);
    assert_eq!(files(&granted.path("data")).len(), 3, "no temporary file stays");
}

#[test]
fn what_is_not_a_file_or_a_directory_is_an_argument_that_is_wrong() {
    let granted = Granted::new();
    fs::create_dir_all(granted.path("data/folder/full")).unwrap();
    fs::write(granted.path("data/file"), "x").unwrap();
    let made = std::process::Command::new("mkfifo").arg(granted.path("data/pipe")).status();
    assert!(made.unwrap().success());
    let wrong = "Error::InvalidArgument(";
    granted.check(&[
        ("read /data", wrong),
        ("read /data/folder", wrong),
        ("read /data/folder/", wrong),
        ("read /data/pipe", wrong),
        ("write /data 1", wrong),
        ("write /data/ 1", wrong),
        ("write /data/folder 1", wrong),
        ("write /data/folder/.. 1", wrong),
        ("remove /data", wrong),
        ("remove /data/folder", wrong),
        ("list /data/file", wrong),
        ("list /data/pipe", wrong),
    ]);
    assert_eq!(files(&granted.path("data")).len(), 2, "no temporary file stays");
}

#[test]
fn no_path_leads_out_of_its_grant_and_the_last_link_is_not_followed() {
    let granted = Granted::new();
    let secret = granted.path("secret");
    for (target, link) in
        [(secret.to_str().unwrap(), "out"), ("..", "up"), ("inside", "in"), ("folder", "to")]
    {
        symlink(target, granted.path("data").join(link)).unwrap();
    }
    fs::write(granted.path("data/inside"), "inside").unwrap();
    fs::create_dir(granted.path("data/folder")).unwrap();
    fs::write(granted.path("data/folder/file"), "in a folder").unwrap();
    let refused = "Error::Other(";
    granted.check(&[
        ("read /data/../secret", refused),
        ("read /data/folder/../../secret", refused),
        ("read /data/out", "Error::InvalidArgument("),
        ("read /data/up/secret", refused),
        ("read /data/in", "Error::InvalidArgument("),
        ("read /data/to/file", "11 bytes, different"),
        ("list /data/..", refused),
        ("list /data/up", "Error::InvalidArgument("),
        ("list /data/to", "Error::InvalidArgument("),
        ("write /data/../secret 1", refused),
        ("write /data/up/secret 1", refused),
        ("remove /data/../secret", refused),
        ("remove /data/up/secret", refused),
    ]);
    // A link is replaced or removed, and what it leads to stays.
    granted.check(&[
        ("write /data/out 3", "written"),
        ("read /data/out", "3 bytes"),
        ("remove /data/in", ""),
    ]);
    assert!(fs::symlink_metadata(granted.path("data/out")).unwrap().is_file());
    assert!(!granted.path("data/in").exists() && granted.path("data/inside").exists());
    assert_eq!(fs::read_to_string(&secret).unwrap(), "a secret");
    assert_eq!(fs::read_dir(granted.0.path()).unwrap().count(), 3, "nothing is made outside");
}

#[test]
fn a_path_in_no_grant_is_an_error_that_names_it_and_the_grants() {
    let granted = Granted::new();
    let start = |path: &str| {
        format!(
            // Quotes are escaped in the log.
            "Error::InvalidConfig(\"the path \\\\\"{path}\\\\\" lies in no directory that allow.fs grants; it grants /data, /ro"
        )
    };
    for (step, path) in [
        ("read /database/a", "/database/a"),
        ("write /etc/passwd 1", "/etc/passwd"),
        ("remove data/a", "data/a"),
        ("list /", "/"),
        ("pages ../data", "../data"),
    ] {
        granted.check(&[(step, &start(path))]);
    }
    for class in CLASSES {
        let mut backend = granted.backend(class);
        backend.config.push(("root".into(), "/elsewhere".into()));
        let (log, name) = (support::log(), backend.name.clone());
        let engine = support::engine(support::config(vec![backend]));
        support::put_in(engine.storage(), &support::keys(2), &name);
        assert_eq!(support::counted(engine.storage(), &name).puts, 0);
        engine.blocking().close().unwrap();
        let denied = log.lines_with(&format!("backend=\"{name}\""));
        let remedy = format!("add external_backend.{name}.allow.fs");
        assert!(
            denied.iter().any(|line| line.contains("/elsewhere") && line.contains(&remedy)),
            "{denied:?}"
        );
    }
}

#[test]
fn a_directory_granted_for_reading_is_read_and_not_changed() {
    let granted = Granted::new();
    fs::write(granted.path("ro/file"), "four").unwrap();
    let refused = "Error::Other(\"not permitted; `allow.fs` grants the directory for reading\")";
    granted.check(&[
        ("read /ro/file", "4 bytes"),
        ("list /ro", "file: file of 4"),
        ("write /ro/file 1", refused),
        ("write /ro/new/file 1", refused),
        ("remove /ro/file", refused),
        ("remove /ro/none", refused),
    ]);
    for (class, root) in CLASSES.into_iter().flat_map(|class| [(class, "/ro"), (class, "/ro/chunks")]) {
        let mut backend = granted.backend(class);
        backend.config.push(("root".into(), root.into()));
        let name = backend.name.clone();
        let engine = support::engine(support::config(vec![backend]));
        support::put_in(engine.storage(), &support::keys(2), &name);
        let counts = support::counted(engine.storage(), &name);
        assert_eq!((counts.puts, counts.errors.len()), (0, 1), "{class} {root}: {:?}", counts.errors);
        engine.storage().set_hot_cache(HotCache::Off);
        let found = support::get(engine.storage(), &support::keys(2));
        assert!(found.misses.iter().all(|missed| missed.miss.reason() == "not_found"), "{found:?}");
        assert_eq!(files(&granted.path("ro")), [granted.path("ro/file")]);
    }
}

#[test]
fn sizes_and_paths_are_bounded() {
    let granted = Granted::new();
    fs::write(granted.path("data/largest"), vec![7; SMALL_FILE_BYTES_MAX as usize]).unwrap();
    fs::write(granted.path("data/larger"), vec![7; SMALL_FILE_BYTES_MAX as usize + 1]).unwrap();
    let long = format!("/data/{}a", "a/".repeat(PATH_BYTES_MAX / 2));
    let largest = format!("{SMALL_FILE_BYTES_MAX} bytes, alike");
    granted.check(&[
        ("read /data/largest", &largest),
        ("read /data/larger", "Error::InvalidArgument(\"the file has 1048577 bytes; at most 1048576"),
        ("write /data/w 1048576", "written"),
        ("write /data/v 1048577", "Error::InvalidArgument(\"the file has 1048577 bytes; at most 1048576"),
        ("read /data/w", &largest),
        ("read /data/v", "none"),
        (&format!("read {long}"), "Error::InvalidArgument("),
        (&format!("write {long} 1"), "Error::InvalidArgument("),
        (&format!("remove {long}"), "Error::InvalidArgument("),
        (&format!("list {long}"), "Error::InvalidArgument("),
        (&format!("list /data {long}"), "Error::InvalidArgument("),
        (&format!("write /data/{} 1", "n".repeat(300)), "Error::InvalidArgument("),
    ]);
}

#[test]
fn a_large_directory_is_listed_page_by_page() {
    let granted = Granted::new();
    let n_files = 2 * LISTED_ENTRIES_MAX;
    for n in 0..n_files {
        fs::File::create(granted.path("data").join(format!("{n:x}"))).unwrap();
    }
    granted.check(&[("pages /data", "8192 entries in 2 pages, in order")]);
    fs::File::create(granted.path("data/one-more")).unwrap();
    granted.check(&[("pages /data", "8193 entries in 3 pages, in order")]);
}

#[test]
fn names_that_no_guest_can_use_are_left_out() {
    use std::os::unix::ffi::OsStrExt as _;
    let granted = Granted::new();
    fs::write(granted.path("data").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
    fs::write(granted.path("data/good"), "x").unwrap();
    granted.check(&[("list /data", "good: file of 1")]);
}

#[test]
fn a_guest_reads_and_writes_bytes_of_its_own_by_descriptors() {
    let granted = Granted::new();
    fs::create_dir(granted.path("data/inner")).unwrap();
    let wrong = "Error::InvalidConfig(";
    let steps = [
        ("at /data/inner write log 0 10", "written"),
        // Several pieces of a stream.
        ("at /data/inner write log 10 300000", "written"),
        ("at /data write other 5 0", "written"),
        ("at /data/inner read log 5 200000", "200000 bytes, alike"),
        ("at /data/inner read log 300000 100", "10 bytes, alike"),
        ("at /data/inner read log 999999 100", "0 bytes, alike"),
        ("at /data/inner read none 0 1", "Error::Other("),
        ("at /data entries", "inner other"),
        ("at /data/inner entries", "log"),
        ("at /data/none entries", "Error::Other("),
        ("at /database entries", wrong),
        ("at /ro write x 0 1", "Error::Other("),
    ];
    let outcomes = granted.outcomes("PathsBackend", &steps.map(|(step, _)| step));
    for ((step, expected), outcome) in steps.iter().zip(outcomes) {
        assert!(outcome.starts_with(expected), "{step}: {outcome}");
    }
    assert_eq!(fs::metadata(granted.path("data/inner/log")).unwrap().len(), 300_010);
}

fn put(storage: &StorageManager, spec: ChunkSpec, tier: &str) {
    let mut allocation = block_on(storage.allocate(&[spec])).unwrap();
    for Missing { key, bytes, .. } in allocation.missing() {
        kvtier_cli::content::fill(key, bytes);
    }
    block_on(storage.put(allocation, &Tiers::only([tier])));
    block_on(storage.flush()).unwrap();
}

#[test]
fn a_call_that_expires_leaves_a_whole_file_or_none() {
    const LARGE: usize = 16 << 20;
    let granted = Granted::new();
    let mut timeouts = [1, 2, 3, 5, 8, 13, 21, 34].map(Duration::from_millis).into_iter().cycle();
    let mut n = 0;
    support::eventually("a deadline passes while a file is written, and it is given up", || {
        n += 1;
        let mut backend = granted.backend("PathsBackend");
        backend.limits.call_timeout = timeouts.next().expect("the iterator cycles");
        backend.limits.min_bytes_per_s = 1 << 46;
        let name = backend.name.clone();
        let pool_size_bytes = 2 * LARGE as u64;
        let engine =
            support::engine(Config { pool_size_bytes, local_cpu: false, ..support::config(vec![backend]) });
        let spec = ChunkSpec { key: support::key(n), size_bytes: LARGE };
        put(engine.storage(), spec, &name);
        let has_expired = support::counted(engine.storage(), &name).puts == 0;
        support::assert_nothing_leaks(engine.storage());
        engine.blocking().close().unwrap();
        let stored = files(&granted.path("data"));
        for file in &stored {
            assert_eq!(file.metadata().unwrap().len(), (LARGE + TRAILER_BYTES) as u64, "{}", file.display());
            assert!(file.extension().unwrap() == "kv", "{}", file.display());
        }
        // The next deadline finds a new disk.
        for file in &stored {
            fs::remove_file(file).unwrap();
        }
        has_expired && stored.is_empty()
    });
}

#[test]
fn chunks_are_not_stored_in_a_directory_that_is_a_link() {
    for class in CLASSES {
        let granted = Granted::new();
        let folder = granted.path("data/folder");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink("folder", granted.path("data/link")).unwrap();
        let mut backend = granted.backend(class);
        backend.config.retain(|(key, _)| key != "root");
        backend.config.push(("root".into(), "/data/link".into()));
        let name = backend.name.clone();
        let engine = support::engine(support::config(vec![backend]));
        support::put_in(engine.storage(), &support::keys(3), &name);
        assert_eq!(files(&folder), Vec::<PathBuf>::new(), "{class}");
        engine.blocking().close().unwrap();
    }
}
