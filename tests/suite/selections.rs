//! Selections of a call's chunks, and backends in front of others that are made of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use kvtier::__internal::limits::SELECTED_CHUNKS_MAX;
use kvtier::__internal::wasm::inspect;
use kvtier::memory::{BufferMut, ChunkWriter, Pool, Provider};
use kvtier::tier::{Sealer, Sinks, Sources};
use kvtier::{BackendConfig, ChunkKey, Engine, HotCache, Namespace, Operation, Tiers, block_on};

use crate::single::{later, start};
use crate::support;

fn selecting(name: &str, does: &str) -> BackendConfig {
    let mut backend = support::backend(name, "selecting", "SelectingBackend");
    backend.config.push(("does".into(), does.into()));
    // More than the selections that a test makes.
    backend.limits.handles_max = 1 << 17;
    backend
}

fn open(backend: BackendConfig) -> Engine {
    let engine = support::engine(support::config(vec![backend]));
    engine.storage().set_hot_cache(HotCache::Off);
    engine
}

/// Puts four chunks in each of `n_puts` calls and gets four in one, with a class that does something with selections.
/// Returns its log, and the cause of the lane's last replacement.
fn doing(does: &str, n_puts: usize) -> (Vec<String>, Option<String>) {
    let (log, name) = (support::log(), format!("select-{does}"));
    let tier = start(selecting(&name, does));
    let pool: Arc<dyn Provider> = Arc::new(Pool::new(16 * 4096).unwrap());
    let sealer = Sealer::checksum(Namespace::new(&support::metadata()));
    let writer = |key: &ChunkKey| ChunkWriter::new(*key, BufferMut::allocate(&pool, 100).unwrap().unwrap());
    let keys = support::keys(4 * n_puts as u64);
    // What becomes of the calls is in the log.
    for some in keys.chunks(4) {
        let chunk = |key: &ChunkKey| {
            let mut writer = writer(key);
            writer.fill(key.lo as u8);
            writer.freeze()
        };
        let data = Sources::new(some.iter().map(chunk).collect(), &sealer);
        drop(block_on(tier.put(some.into(), data.clone(), later())));
        data.revoke();
    }
    let into = Sinks::new(keys[..4].iter().map(writer).collect(), &sealer);
    drop(block_on(tier.get(keys[..4].into(), into.clone(), later())));
    drop(into.revoke());
    let reason = tier.health().last_restart;
    block_on(tier.close(later())).unwrap();
    support::eventually("all memory is back", || pool.allocated_bytes() == 0);
    (log.heard(&name), reason)
}

#[test]
fn both_halves_of_a_store_get_their_part_of_each_call() {
    let engine = open(selecting("select-halves", ""));
    let storage = engine.storage();
    let keys = support::keys(12);
    support::put_in(storage, &keys[..11], "select-halves");
    assert_eq!(support::counted(storage, "select-halves").puts, 11);
    assert_eq!(support::served(&support::get(storage, &keys[..11])), [1; 11]);
    assert_eq!(support::in_tier(storage, &keys, "select-halves"), 11);
    assert_eq!(support::counted(storage, "select-halves").errors.len(), 0);
    support::assert_nothing_leaks(storage);
}

#[test]
fn indices_beyond_the_call_and_more_indices_than_chunks_are_traps() {
    for (does, expected) in [
        ("source-beyond", "index 4 is out of range: the call has 4 chunks"),
        ("source-nested-beyond", "index 2 is out of range: the call has 2 chunks"),
        ("source-more", "5 indices for a call of 4 chunks"),
        ("sink-beyond", "index 4 is out of range: the call has 4 chunks"),
        ("sink-more", "5 indices for a call of 4 chunks"),
    ] {
        let (_, reason) = doing(does, 1);
        let reason = reason.unwrap_or_else(|| panic!("{does}: no trap"));
        assert!(reason.contains(expected), "{does}: {reason}");
    }
}

#[test]
fn sources_may_repeat_and_be_selected_again() {
    let (heard, reason) = doing("source-repeated", 1);
    assert!(heard.iter().any(|line| line == "repeated and nested: right"), "{heard:?} {reason:?}");
}

#[test]
fn a_buffer_has_one_writer_among_all_selections() {
    let (heard, _) = doing("sink-repeated", 1);
    assert!(
        heard.iter().any(|line| line.contains("InvalidArgument") && line.contains("selected twice")),
        "{heard:?}"
    );
    let (heard, reason) = doing("sink-writers", 1);
    let told = |start: &str| {
        heard.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{reason:?}"))
    };
    assert!(told("beside a stream: ").contains("another transfer into the same buffer"), "{heard:?}");
    assert_eq!(told("elsewhere: "), "elsewhere: done");
}

#[test]
fn a_selection_is_revoked_with_the_call() {
    let (heard, reason) = doing("source-kept", 2);
    for what in ["read: ", "select: "] {
        let line = heard
            .iter()
            .find(|line| line.starts_with(what))
            .unwrap_or_else(|| panic!("{heard:?} {reason:?}"));
        assert!(line.contains("InvalidArgument") && line.contains("the call has ended"), "{line}");
    }
    assert_eq!(reason, None);
}

#[test]
fn selections_are_limited_and_given_back() {
    let (heard, _) = doing("source-many", 1);
    let line = heard.iter().find(|line| line.starts_with("refused after ")).unwrap();
    // Of four chunks each, and handles for no more.
    let (n, error) = line.trim_start_matches("refused after ").split_once(" chunks: ").unwrap();
    assert_eq!(
        (n.parse::<usize>().unwrap(), error.contains("would-block")),
        (SELECTED_CHUNKS_MAX, true),
        "{line}"
    );
    assert!(heard.iter().any(|line| line == "then: done"), "{heard:?}");
}

#[test]
fn handles_of_selections_count_towards_the_limit() {
    let mut backend = selecting("select-handles", "source-handles");
    backend.limits.handles_max = 64;
    let engine = open(backend);
    support::put_in(engine.storage(), &support::keys(4), "select-handles");
    let reason = support::health(engine.storage(), "select-handles").last_restart.unwrap();
    assert!(reason.contains("limits.handles_max is reached"), "{reason}");
}

fn compose(outer: &Path, inner: &Path, out: &Path) -> Output {
    support::kvtier().arg("compose").args([outer, inner]).arg("-o").arg(out).output().unwrap()
}

/// Joins two components, or more, of which the last is the store.
fn composed(names: &[&str], folder: &Path) -> PathBuf {
    let mut paths = names.iter().rev().map(|name| support::component(name));
    let mut path = paths.next().unwrap();
    for (number, outer) in paths.enumerate() {
        let out = folder.join(format!("composed-{number}.wasm"));
        let output = compose(&outer, &path, &out);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let digest = inspect(&out).unwrap().digest.to_string();
        assert!(String::from_utf8_lossy(&output.stdout).contains(&digest));
        path = out;
    }
    path
}

fn admitting(name: &str, path: PathBuf, puts: u32) -> BackendConfig {
    let mut backend = support::patient(BackendConfig::new(name, path, "Backend"));
    backend.config.push(("admission.puts".into(), puts.to_string()));
    backend
}

#[test]
fn a_composed_backend_admits_chunks_of_a_call_one_by_one() {
    // One without the SDK and one with it.
    for inner in ["template", "inner"] {
        admits_chunks_of_a_call_one_by_one(inner);
    }
}

fn admits_chunks_of_a_call_one_by_one(inner: &str) {
    let folder = tempfile::tempdir().unwrap();
    let name = "admission";
    let engine = open(admitting(name, composed(&["middleware", inner], folder.path()), 2));
    let storage = engine.storage();
    let keys = support::keys(6);
    let (even, odd): (Vec<_>, Vec<_>) = keys.iter().copied().partition(|key| key.lo % 2 == 0);
    support::put_in(storage, &even, name);
    assert_eq!(support::counted(storage, name).puts, 0, "for the first time");
    assert!(support::counted(storage, name).n_errors(Operation::Put, "no_space") > 0);
    // The even ones come for the second time, between others that are new.
    support::put_in(storage, &keys, name);
    assert_eq!(support::counted(storage, name).puts, 3);
    for key in &even {
        assert_eq!(support::served(&support::get(storage, &[*key])), [1]);
    }
    assert_eq!(support::in_tier(storage, &odd[..1], name), 0);
    support::put_in(storage, &odd, name);
    assert_eq!(support::served(&support::get(storage, &keys)), [1; 6]);
    assert_eq!(block_on(storage.remove(&keys[..2], &Tiers::only([name]))), Ok(2));
    let only_full = support::counted(storage, name).errors.iter().all(|error| error.kind == "no_space");
    assert!(only_full, "{:?}", support::counted(storage, name).errors);
    assert_eq!(support::health(storage, name).lane_restarts, 0);
    support::assert_nothing_leaks(storage);
    engine.blocking().close().unwrap();
}

#[test]
fn calls_of_a_composed_backend_leave_nothing_if_the_inner_class_is_one_of_the_sdk() {
    let folder = tempfile::tempdir().unwrap();
    let n_restarts = |inner: &str| {
        let mut backend = admitting("many", composed(&["middleware", inner], folder.path()), 1);
        backend.limits.handles_max = 1024;
        let engine = open(backend);
        let storage = engine.storage();
        // More than the limit and what the calls in flight may hold.
        for key in support::keys(12_000) {
            block_on(storage.contains(&[key], &Tiers::only(["many"])));
        }
        let n_restarts = support::health(storage, "many").lane_restarts;
        engine.blocking().close().unwrap();
        n_restarts
    };
    assert_eq!(n_restarts("inner"), 0);
    // wasmtime keeps each call. When that is mended, docs/authors/middleware.md has one paragraph too many.
    assert!(n_restarts("template") > 0);
}

#[test]
fn a_middleware_around_another_one_still_needs_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let (middleware, both) = (support::component("middleware"), folder.path().join("both.wasm"));
    let output = compose(&middleware, &middleware, &both);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("with a backend that stores chunks"), "{told}");
    let whole = folder.path().join("whole.wasm");
    let output = compose(&both, &support::component("inner"), &whole);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("that stores chunks"));
    assert_two_in_a_row_admit(whole);
}

#[test]
fn two_middlewares_stand_in_a_row() {
    let folder = tempfile::tempdir().unwrap();
    assert_two_in_a_row_admit(composed(&["middleware", "middleware", "template"], folder.path()));
}

fn assert_two_in_a_row_admit(path: PathBuf) {
    // The outer one takes the settings, the inner one has its own.
    let engine = open(admitting("row", path, 1));
    let storage = engine.storage();
    let keys = support::keys(4);
    support::put_in(storage, &keys, "row");
    assert_eq!(support::counted(storage, "row").puts, 0, "new to the inner one");
    support::put_in(storage, &keys, "row");
    assert_eq!(support::served(&support::get(storage, &keys)), [1; 4]);
}

#[test]
fn the_settings_of_the_backend_behind_arrive_and_its_errors_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = composed(&["middleware", "template"], folder.path());
    for (key, expected) in
        [("capasity", "config.capasity: unknown key"), ("admission.puts", "config.admission.puts")]
    {
        let mut backend = admitting("settings", path.clone(), 2);
        backend.config = vec![(key.into(), "0".into())];
        let config = support::config(vec![backend]);
        let error =
            kvtier::EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn components_that_do_not_fit_are_refused_with_what_they_lack() {
    let folder = tempfile::tempdir().unwrap();
    let (middleware, template) = (support::component("middleware"), support::component("template"));
    let text = folder.path().join("text.wasm");
    fs::write(&text, "no component").unwrap();
    let core = folder.path().join("core.wasm");
    fs::write(&core, b"\0asm\x01\0\0\0").unwrap();
    let out = folder.path().join("out.wasm");
    for (outer, inner, expected) in [
        (&template, &middleware, "middleware.wasm does, so give it first"),
        (&template, &template, "does not import kvtier:storage/backend, so no backend fits behind it"),
        (&middleware, &support::component("map"), "map.wasm does not export kvtier:storage/backend"),
        (&middleware, &folder.path().join("none.wasm"), "cannot open the component "),
        (&middleware, &text, "text.wasm"),
        (&core, &template, "core WebAssembly module"),
    ] {
        let output = compose(outer, inner, &out);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(expected), "{told}");
        assert!(!out.exists(), "{told}");
    }
    let copy = folder.path().join("copy.wasm");
    fs::copy(&template, &copy).unwrap();
    let output = compose(&middleware, &copy, &copy);
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("would be replaced; name another file for the component")
    );
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&template).unwrap());
    let output = compose(&middleware, &template, &folder.path().join("no/such/folder.wasm"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot create "));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "no other file is left");
}
