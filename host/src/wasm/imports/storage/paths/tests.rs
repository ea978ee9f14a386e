//! Files by name, in a directory of the test's own.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::chunk::ChunkWriter;
use crate::config::Grants;
use crate::integrity::{Sealer, TRAILER_BYTES};
use crate::key::{ChunkKey, Namespace};
use crate::layout::{Dtype, EngineMetadata, KvShape};
use crate::limits::{DIRECT_PIECE_BYTES, PIECE_BYTES};
use crate::memory::{BufferMut, PAGE_BYTES, Pool, Provider};
use crate::wasm::policy::{Denials, Secrets};

const KEY: ChunkKey = ChunkKey { hi: 1, lo: 1 };

/// A granted directory, with a file outside of it.
struct Granted {
    whole: tempfile::TempDir,
    directory: Directory,
    denials: Arc<Denials>,
}

impl Granted {
    fn new() -> Self {
        let whole = tempfile::tempdir().unwrap();
        fs::create_dir_all(whole.path().join("granted/tmp")).unwrap();
        fs::write(whole.path().join("secret"), "a secret").unwrap();
        let denials = Denials::new("b", &Grants::default());
        let denial_log = DenialLog::new(&denials, &Secrets::default());
        let file = Arc::new(File::open(whole.path().join("granted")).unwrap());
        Self { whole, directory: Directory { file, is_read_only: false, denial_log }, denials }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.whole.path().join("granted").join(name)
    }

    fn store(&self, chunks: &Sources, temporary: &str, name: &str) -> Result<u64, Error> {
        self.directory.store(chunks, &to_store(temporary, name), Caching::Cached)
    }

    fn load(&self, sinks: &Sinks, name: &str) -> Result<Option<u64>, Error> {
        self.directory.load(sinks, &to_load(name), Caching::Cached)
    }

    fn n_unfinished(&self) -> usize {
        fs::read_dir(self.path("tmp")).unwrap().count()
    }
}

fn to_store(temporary: &str, name: &str) -> FileToStore {
    FileToStore { index: 0, temporary: temporary.into(), name: name.into() }
}

fn to_load(name: &str) -> FileToLoad {
    FileToLoad { index: 0, name: name.into() }
}

fn sealer() -> Sealer {
    let kv_shape = KvShape::new([1, 2, 1, 1, 1]).unwrap();
    let (model_name, kv_dtype) = ("m".into(), Dtype::UInt8);
    let metadata = EngineMetadata { model_name, world_size: 1, worker_id: 0, kv_dtype, kv_shape };
    Sealer::checksum(Namespace::new(&metadata))
}

fn writer(size: usize) -> ChunkWriter {
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(size.next_multiple_of(PAGE_BYTES)).unwrap());
    ChunkWriter::new(KEY, BufferMut::allocate(&pool, size).unwrap().unwrap())
}

fn chunk(size: usize) -> Sources {
    let mut writer = writer(size);
    for (byte, n) in writer.iter_mut().zip(0_u32..) {
        *byte = (n.wrapping_mul(2_654_435_761) >> 24) as u8;
    }
    Sources::new(vec![writer.freeze()], &sealer())
}

fn sinks(size: usize) -> Sinks {
    Sinks::new(vec![writer(size)], &sealer())
}

/// What a file must be: payload and trailer.
fn content(chunks: &Sources) -> Vec<u8> {
    let chunk = chunks.chunk(0).unwrap();
    let (payload, trailer) = chunk.parts();
    [payload, trailer].concat()
}

#[test]
fn a_chunk_goes_to_its_file_and_comes_back_verified_in_both_ways() {
    // Around the borders of blocks and pieces, with the trailer on either side of one and across it.
    let sizes = [1, 4032, 4090, 4096, 5000, PIECE_BYTES, PIECE_BYTES + 7, DIRECT_PIECE_BYTES - 30];
    for size in sizes.into_iter().chain([DIRECT_PIECE_BYTES, 2 * DIRECT_PIECE_BYTES + 4096]) {
        for caching in [Caching::Cached, Caching::Direct] {
            let granted = Granted::new();
            let (chunks, expected) = (chunk(size), size + TRAILER_BYTES);
            let stored = granted.directory.store(&chunks, &to_store("tmp/a", "01/a.kv"), caching);
            if caching == Caching::Direct && stored == Err(Error::Unsupported) {
                return eprintln!("NOT TESTED: no direct I/O in {}", granted.whole.path().display());
            }
            assert_eq!(stored, Ok(expected as u64), "{size} {caching:?}");
            assert!(fs::read(granted.path("01/a.kv")).unwrap() == content(&chunks), "{size} {caching:?}");
            assert_eq!(granted.n_unfinished(), 0);

            let into = sinks(size);
            let loaded = granted.directory.load(&into, &to_load("01/a.kv"), caching);
            assert_eq!(loaded, Ok(Some(expected as u64)), "{size} {caching:?}");
            let mut sink = into.revoke().pop().unwrap().unwrap();
            assert!(sink.is_full());
            assert_eq!(sink.n_unhashed_bytes(), 0, "hashed as it came");
            assert_eq!(sink.check(), Ok(()), "{size} {caching:?}");
        }
    }
}

#[test]
fn a_short_file_is_read_as_far_as_it_goes_and_nothing_of_one_larger_than_the_buffer() {
    for caching in [Caching::Cached, Caching::Direct] {
        for size in [0, 100, 4096, 10_000, 20_063, 20_064, 20_065, 40_000] {
            let granted = Granted::new();
            fs::write(granted.path("a"), vec![7; size]).unwrap();
            let into = sinks(20_000);
            let n = granted.directory.load(&into, &to_load("a"), caching);
            if n == Err(Error::Unsupported) {
                return eprintln!("NOT TESTED: no direct I/O in {}", granted.whole.path().display());
            }
            assert_eq!(n, Ok(Some(size as u64)), "{size} {caching:?}");
            let sink = into.revoke().pop().unwrap().unwrap();
            assert_eq!(sink.is_full(), size == 20_064, "{size} {caching:?}");
            assert_eq!(fs::metadata(granted.path("a")).unwrap().len(), size as u64, "it stays stored");
        }
    }
}

#[test]
fn a_missing_file_is_none_and_a_directory_or_pipe_is_an_error() {
    let granted = Granted::new();
    let made = std::process::Command::new("mkfifo").arg(granted.path("pipe")).status();
    assert!(made.unwrap().success());
    let into = sinks(100);
    assert_eq!(granted.load(&into, "01/a.kv"), Ok(None));
    for caching in [Caching::Cached, Caching::Direct] {
        for name in ["tmp", "pipe", "a\0b", "."] {
            let loaded = granted.directory.load(&into, &to_load(name), caching);
            assert!(matches!(loaded, Err(Error::InvalidArgument(_))), "{name:?} {caching:?}: {loaded:?}");
        }
    }
    assert_eq!(granted.denials.count(), 0);
}

#[test]
fn a_name_that_no_file_can_have_is_an_argument_that_is_wrong() {
    let granted = Granted::new();
    for caching in [Caching::Cached, Caching::Direct] {
        for (temporary, name) in [("tmp/a\0", "a"), ("tmp/a", "\0"), ("tmp/a", "a\0b")] {
            let stored = granted.directory.store(&chunk(10), &to_store(temporary, name), caching);
            assert!(matches!(stored, Err(Error::InvalidArgument(_))), "{name:?} {caching:?}: {stored:?}");
        }
    }
    assert!(matches!(granted.directory.try_direct("tmp/a\0"), Err(Error::InvalidArgument(_))));
    assert_eq!(granted.n_unfinished(), 0);
}

#[test]
fn paths_lead_nowhere_else() {
    let granted = Granted::new();
    let outside = granted.whole.path().join("secret");
    symlink(&outside, granted.path("link")).unwrap();
    symlink("..", granted.path("up")).unwrap();
    fs::write(granted.path("a"), "a").unwrap();
    symlink("a", granted.path("inside")).unwrap();
    let (chunks, into) = (chunk(100), sinks(100));
    let paths = ["../secret", "link", "up/secret", "tmp/../../secret", outside.to_str().unwrap()];
    for path in paths {
        assert!(granted.load(&into, path).is_err(), "{path} is read");
        assert!(granted.store(&chunks, path, "b").is_err(), "{path} is a temporary file");
        if path != "link" {
            assert!(granted.store(&chunks, "tmp/a", path).is_err(), "{path} is written");
        }
        assert_eq!(granted.n_unfinished(), 0, "{path}");
    }
    assert!(granted.load(&into, "inside").is_err(), "a link is not followed");
    // Renaming replaces a link, and does not follow it.
    granted.store(&chunks, "tmp/a", "link").unwrap();
    assert!(fs::symlink_metadata(granted.path("link")).unwrap().is_file());
    assert_eq!(fs::read_to_string(&outside).unwrap(), "a secret");
    assert!(granted.denials.count() >= 10, "{}", granted.denials.count());
    assert!(granted.denials.last().unwrap().contains("leads out of the granted directories"));
    assert_eq!(fs::read_dir(granted.whole.path()).unwrap().count(), 2);
}

#[test]
fn paths_that_are_too_long_are_refused() {
    let granted = Granted::new();
    let long = "a/".repeat(PATH_BYTES_MAX / 2) + "a";
    let results = [
        granted.store(&chunk(10), &long, "a").err(),
        granted.store(&chunk(10), "tmp/a", &long).err(),
        granted.load(&sinks(10), &long).err(),
    ];
    assert!(results.iter().all(|error| matches!(error, Some(Error::InvalidArgument(_)))), "{results:?}");
    assert_eq!(granted.n_unfinished(), 0);
}

#[test]
fn a_directory_granted_for_reading_is_read_and_not_written() {
    let mut granted = Granted::new();
    granted.store(&chunk(10), "tmp/a", "a").unwrap();
    granted.directory.is_read_only = true;
    let Err(Error::Other(words)) = granted.store(&chunk(10), "tmp/b", "b") else { panic!("it is stored") };
    assert!(words.contains("`allow.fs`"), "{words}");
    assert!(granted.directory.try_direct("tmp/b").is_err());
    assert!(granted.denials.last().unwrap().contains("granted for reading"));
    assert_eq!(granted.load(&sinks(10), "a"), Ok(Some(74)));
    assert!(!granted.path("b").exists() && granted.n_unfinished() == 0);
}

#[test]
fn a_temporary_name_that_is_taken_is_left_alone() {
    let granted = Granted::new();
    fs::write(granted.path("tmp/a"), "of somebody else").unwrap();
    assert!(granted.store(&chunk(10), "tmp/a", "a").is_err());
    assert_eq!(fs::read_to_string(granted.path("tmp/a")).unwrap(), "of somebody else");
}

#[test]
fn what_cannot_be_renamed_is_removed() {
    let granted = Granted::new();
    fs::create_dir_all(granted.path("taken/by/a/directory")).unwrap();
    // A directory that is not empty; a path of which more than the last directory is missing.
    for name in ["taken", "no/such/directories/a"] {
        assert!(granted.store(&chunk(10), "tmp/a", name).is_err(), "{name}");
        assert_eq!(granted.n_unfinished(), 0, "{name}");
    }
}

#[test]
fn a_call_that_has_ended_names_no_file_any_more() {
    let granted = Granted::new();
    let chunks = chunk(10);
    chunks.revoke();
    assert!(matches!(granted.store(&chunks, "tmp/a", "a"), Err(Error::InvalidArgument(_))));
    // While it is written.
    let chunks = chunk(PIECE_BYTES);
    let revoking = chunks.clone();
    let stored =
        granted.directory.store_then(&chunks, &to_store("tmp/a", "a"), Caching::Cached, || revoking.revoke());
    assert!(matches!(stored, Err(Error::InvalidArgument(_))), "{stored:?}");
    assert!(!granted.path("a").exists() && granted.n_unfinished() == 0);
}

#[test]
fn direct_io_is_tried_without_a_trace() {
    let granted = Granted::new();
    if granted.directory.try_direct("tmp/a") == Err(Error::Unsupported) {
        return eprintln!("NOT TESTED: no direct I/O in {}", granted.whole.path().display());
    }
    assert_eq!(granted.directory.try_direct("tmp/a"), Ok(()));
    assert_eq!(granted.n_unfinished(), 0);
}
