//! Backends that cannot be loaded: the error names the cause, the file or class and the remedy, and the others run
//! unless the configuration says otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvtier::__internal::limits::RESTART_PAUSE_MIN;
use kvtier::{
    BackendConfig, BuildError, Config, Engine, EngineBuilder, HotCache, OnLoadError, SecretSource,
    Sha256Digest, Tiers, block_on,
};
use kvtier_cli::commands::inspect::Class;
use tempfile::TempDir;

use crate::support;

/// Returns the error of an engine with this backend under `on_load_error: fail`, without folders.
fn refused(backend: BackendConfig) -> String {
    let folder = backend.module_path.parent().unwrap().to_path_buf();
    let error = EngineBuilder::new(support::config(vec![backend]), support::metadata())
        .build_blocking()
        .expect_err("a backend that cannot be loaded");
    assert!(matches!(error, BuildError::Load { .. }), "{error:?}");
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

/// Returns a backend whose file the test writes.
fn of_file(folder: &TempDir, name: &str, bytes: &[u8]) -> BackendConfig {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    support::patient(BackendConfig::new("store", path, "ThingBackend"))
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_module_path_that_does_not_exist_is_named() {
    let folder = folder();
    let backend = BackendConfig::new("store", folder.path().join("absent.wasm"), "ThingBackend");
    insta::assert_snapshot!(refused(backend), @"backend `store`: component `absent.wasm` does not exist; give module_path relative to the configuration file");
}

#[test]
fn a_module_path_that_is_a_directory_is_named() {
    let folder = folder();
    fs::create_dir(folder.path().join("backends")).unwrap();
    let backend = BackendConfig::new("store", folder.path().join("backends"), "ThingBackend");
    insta::assert_snapshot!(refused(backend), @"backend `store`: component `backends` is a directory; give the path of a .wasm file");
}

#[test]
fn a_file_that_is_not_webassembly_is_refused() {
    let folder = folder();
    insta::assert_snapshot!(refused(of_file(&folder, "notes.wasm", b"dear diary, today")), @"backend `store`: `notes.wasm` is not WebAssembly; build the backend with `cargo build --target wasm32-wasip2`");
    let library = refused(of_file(&folder, "libcache.rlib", b"!<arch>\n/               0"));
    insta::assert_snapshot!(library, @r#"backend `store`: `libcache.rlib` is a library for Rust, not a component; give the backend's crate `crate-type = ["cdylib"]` under `[lib]`, build it with `cargo build --target wasm32-wasip2`, and give the path of the .wasm file"#);
    insta::assert_snapshot!(refused(of_file(&folder, "empty.wasm", b"")), @"backend `store`: `empty.wasm` is not WebAssembly; build the backend with `cargo build --target wasm32-wasip2`");
}

#[test]
fn a_truncated_or_garbled_component_is_refused() {
    let folder = folder();
    let mut bytes = fs::read(support::component("log")).unwrap();
    let truncated = refused(of_file(&folder, "truncated.wasm", &bytes[..bytes.len() / 2]));
    assert!(
        truncated.starts_with("backend `store`: component `truncated.wasm` does not compile: "),
        "{truncated}"
    );
    for byte in &mut bytes[8..200] {
        *byte = 0xee;
    }
    let garbled = refused(of_file(&folder, "garbled.wasm", &bytes));
    assert!(garbled.starts_with("backend `store`: component `garbled.wasm` does not compile: "), "{garbled}");
}

#[test]
fn a_core_module_is_refused_with_the_target_to_build_for() {
    let folder = folder();
    insta::assert_snapshot!(refused(of_file(&folder, "core.wasm", &wat("(module)"))), @"backend `store`: `core.wasm` is a core WebAssembly module, not a component; in Rust, build it for wasm32-wasip2, not for wasm32-wasip1 or wasm32-unknown-unknown; in C, make a component of it with `kvtier componentize`");
}

#[test]
fn a_component_of_another_contract_version_is_refused_with_both_versions() {
    let folder = folder();
    let component = wat(r#"(component (import "kvtier:storage/types@0.2.0" (instance)))"#);
    insta::assert_snapshot!(refused(of_file(&folder, "newer.wasm", &component)), @"backend `store`: component `newer.wasm` was built against kvtier:storage@0.2.0; this host serves 0.1.0; rebuild it with a matching SDK");
}

#[test]
fn a_component_that_imports_what_the_host_does_not_offer_is_refused() {
    let folder = folder();
    // A real component in which one import of WASI has another name.
    let bytes = renamed("plain", b"wasi:cli/environment", b"wasi:cli/environmint");
    let mut backend = of_file(&folder, "needy.wasm", &bytes);
    backend.class_name = "AlphaBackend".into();
    let error = refused(backend);
    assert!(error.starts_with("backend `store`: component `needy.wasm` cannot be linked: "), "{error}");
    assert!(error.contains("wasi:cli/environmint"), "{error}");
}

#[test]
fn a_component_that_wraps_another_backend_must_be_composed_first() {
    let folder = folder();
    let text = r#"(component (import "kvtier:storage/backend@0.1.0" (instance)))"#;
    insta::assert_snapshot!(refused(of_file(&folder, "cipher.wasm", &wat(text))), @"backend `store`: component `cipher.wasm` imports `kvtier:storage/backend@0.1.0`: it wraps another backend, so compose it with that backend's component first, for instance with `kvtier compose cipher.wasm BACKEND.wasm --out COMPOSED.wasm`");
}

#[test]
fn a_component_that_imports_what_is_not_offered_is_told_what_is() {
    let folder = folder();
    let bytes = renamed("plain", b"wasi:cli/environment", b"wasi:tls/environment");
    let mut backend = of_file(&folder, "web.wasm", &bytes);
    backend.class_name = "AlphaBackend".into();
    let error = refused(backend);
    assert!(
        error.starts_with("backend `store`: component `web.wasm` imports `wasi:tls/environment@0.2."),
        "{error}"
    );
    let why = "`, which this host does not offer: it offers WASI 0.2 and 0.3, and \
               kvtier:storage@0.1.0; build the component without the code that needs it";
    assert!(error.ends_with(why), "{error}");
}

/// Returns one of our components with one name replaced by another of the same length.
fn renamed(component: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = fs::read(support::component(component)).unwrap();
    let mut n_renamed = 0;
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|bytes| bytes == from) {
        at += found;
        bytes[at..at + to.len()].copy_from_slice(to);
        n_renamed += 1;
    }
    assert!(n_renamed > 0);
    bytes
}

#[test]
fn a_component_of_too_many_items_in_all_its_instances_is_refused() {
    let folder = folder();
    // Each instance weighs 16 beside its globals, and the component 8.
    let component = |n_instances: usize| {
        let globals = "(global i32 i32.const 1)".repeat(5_024);
        let instances = "(core instance (instantiate $many))".repeat(n_instances);
        wat(&format!("(component (core module $many {globals}) {instances})"))
    };
    insta::assert_snapshot!(refused(of_file(&folder, "many.wasm", &component(105))), @"backend `store`: component `many.wasm` has 529208 functions, globals and other items in all its instances together, more than the 524288 that are accepted; build it of fewer or smaller modules");
    let error = refused(of_file(&folder, "fewer.wasm", &component(104)));
    assert!(error.contains("it exports no class at all"), "{error}");
}

#[test]
fn more_lanes_than_a_class_states_are_refused() {
    let with_lanes = |mut backend: BackendConfig, lanes: usize| {
        backend.lanes = lanes;
        backend
    };
    let memory = || support::backend("store", "memory", "MemoryBackend");
    insta::assert_snapshot!(refused(with_lanes(memory(), 2)), @"backend `store`: lanes is 2, and class `MemoryBackend` states that it may have 1 at most; set lanes to 1");
    let folder = folder();
    let error = refused(with_lanes(support::fs("store", folder.path()), 3));
    assert!(error.contains("lanes is 3, and class `FsBackend` states that it may have 1"), "{error}");
    // A class that states nothing may have any number.
    let log = with_lanes(support::backend("store", "log", "ExternalLogBackend"), 3);
    let engine = support::engine(support::config(vec![log]));
    assert_eq!(support::health(engine.storage(), "store").down, None);
}

/// Returns when a backend that does not start is tried again.
fn retry_in(backend: BackendConfig) -> Duration {
    let config = Config { on_load_error: OnLoadError::Continue, ..support::config(vec![backend]) };
    let engine = support::engine(config);
    let status = engine.storage().status();
    status.backends[0].reading.retry_in.expect("it does not run")
}

#[test]
fn a_start_that_computes_is_waited_for_ten_times_as_long_and_one_that_waits_is_not() {
    let waits = retry_in(failing("HangBackend", "open"));
    for method in ["constructor", "open"] {
        let computes = retry_in(failing("SpinBackend", method));
        assert!(computes > 2 * RESTART_PAUSE_MIN && computes > waits, "{computes:?}, {waits:?}");
    }
}

/// Imports a name that clears the screen and makes a false claim on a separate line.
const HOSTILE: &str = "(component (import \"url=<https://x/\\1b[2J\\nclass Good (a:b/c): fulfils the contract\\e2\\80\\ae>\" (instance)))";

fn assert_harmless(shown: &str) {
    assert!(shown.contains(r"url=<https://x/\u{1b}[2J"), "{shown}");
    assert!(!shown.contains(['\u{1b}', '\u{202e}']) && !shown.contains("\nclass Good"), "{shown}");
}

#[test]
fn names_in_a_hostile_component_reach_no_terminal_as_they_are() {
    let folder = folder();
    let backend = of_file(&folder, "hostile.wasm", &wat(HOSTILE));
    let inspection = kvtier_cli::commands::inspect::look(&backend.module_path).unwrap();
    assert_harmless(&kvtier_cli::commands::inspect::render(&inspection));
    let mut usable = inspection;
    usable.classes = vec![Class { name: "Good".into(), interface: "a:b/c".into(), methods: Vec::new() }];
    assert_harmless(&kvtier_cli::commands::inspect::ensure_usable(&usable).unwrap_err().to_string());
    let text = "external_backends: store\nextra_config:\n  kvtier.compile_cache: cache\n  \
                external_backend.store.module_path: hostile.wasm\n  external_backend.store.class_name: Good\n";
    fs::write(folder.path().join("kvtier.yaml"), text).unwrap();
    let program = support::kvtier_program();
    let reviewed = kvtier_cli::commands::config::look(
        Some(&folder.path().join("kvtier.yaml")),
        &support::compiled_by(&program),
    )
    .unwrap();
    assert_harmless(&kvtier_cli::commands::config::render(&reviewed));
    assert_harmless(&refused(backend));
}

#[test]
fn a_component_without_classes_is_refused() {
    let folder = folder();
    insta::assert_snapshot!(refused(of_file(&folder, "empty.wasm", &wat("(component)"))), @"backend `store`: component `empty.wasm`: the component exports no class `ThingBackend`; it exports no class at all; in Rust, `kvtier_guest::export!(ThingBackend)` exports one");
}

#[test]
fn a_class_that_is_not_exported_is_refused_with_those_that_are() {
    insta::assert_snapshot!(refused(support::backend("store", "plain", "GammaBackend")), @"backend `store`: component `plain.wasm`: the component exports no class `GammaBackend`; it exports AlphaBackend, BetaStore2; give one of these as class_name");
}

/// Exports resource `thing-backend` with a constructor and a `contains` of other signatures, and nothing else.
const THING: &str = r#"(component
    (core module $code
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 8)
        (func (export "new") (result i32) i32.const 0)
        (func (export "contains") (param i32 i32 i32) (result i64) i64.const 0))
    (core instance $code (instantiate $code))
    (alias core export $code "memory" (core memory $memory))
    (type $thing (resource (rep i32)))
    (func $new (result (own $thing)) (canon lift (core func $code "new")))
    (func $contains (param "self" (borrow $thing)) (param "keys" (list u64)) (result u64)
        (canon lift (core func $code "contains") (memory $memory) (realloc (core func $code "realloc"))))
    (component $named
        (import "thing" (type $thing (sub resource)))
        (import "new" (func $new (result (own $thing))))
        (import "contains" (func $contains
            (param "self" (borrow $thing)) (param "keys" (list u64)) (result u64)))
        (export $exported "thing-backend" (type $thing))
        (export "[constructor]thing-backend" (func $new) (func (result (own $exported))))
        (export "[method]thing-backend.contains" (func $contains)
            (func (param "self" (borrow $exported)) (param "keys" (list u64)) (result u64))))
    (instance $exported (instantiate $named
        (with "thing" (type $thing)) (with "new" (func $new)) (with "contains" (func $contains))))
    (export "test:thing/api" (instance $exported)))"#;

#[test]
fn methods_that_are_missing_or_have_another_signature_are_listed_one_by_one() {
    let folder = folder();
    let error = refused(of_file(&folder, "thing.wasm", &wat(THING)));
    insta::assert_snapshot!(error.replace("; ", ";\n"), @r"
    backend `store`: component `thing.wasm`: class `ThingBackend` does not fulfil contract kvtier:storage@0.1.0: `constructor` has another signature;
    expected (init: init) -> result<own<self>, error>, found () -> own<self>;
    `open` is missing;
    expected () -> result<_, error>;
    `contains` has another signature;
    expected (keys: list<chunk-key>, pinning: pinning) -> result<u32, error>, found (keys: list<u64>) -> u64;
    `put` is missing;
    expected (keys: list<chunk-key>, data: own<sources>) -> list<result<_, error>>;
    `get` is missing;
    expected (keys: list<chunk-key>, into: own<sinks>) -> list<result<option<u64>, error>>;
    `pin` is missing;
    expected (keys: list<chunk-key>) -> result<u32, error>;
    `unpin` is missing;
    expected (keys: list<chunk-key>) -> result<u32, error>;
    `remove` is missing;
    expected (keys: list<chunk-key>) -> result<u32, error>;
    `close` is missing;
    expected () -> result<_, error>;
    build it against this version of the contract
    ");
}

#[test]
fn one_missing_method_is_the_only_flaw() {
    let folder = folder();
    let bytes = renamed("plain", b"[method]alpha-backend.unpin", b"[method]alpha-backend.unpen");
    let mut backend = of_file(&folder, "renamed.wasm", &bytes);
    backend.class_name = "AlphaBackend".into();
    insta::assert_snapshot!(refused(backend), @"backend `store`: component `renamed.wasm`: class `AlphaBackend` does not fulfil contract kvtier:storage@0.1.0: `unpin` is missing; expected (keys: list<chunk-key>) -> result<u32, error>; build it against this version of the contract");
}

fn failing(class_name: &str, method: &str) -> BackendConfig {
    let mut backend = support::misbehaving("store", class_name, &[("in", method)]);
    backend.limits.open_timeout = support::EXPIRES;
    backend
}

#[test]
fn a_constructor_or_open_that_answers_an_error_is_named_with_it() {
    insta::assert_snapshot!(refused(failing("FailBackend", "constructor")), @"backend `store`: class `FailBackend` did not start: failed on purpose in constructor");
    insta::assert_snapshot!(refused(failing("FailBackend", "open")), @"backend `store`: class `FailBackend` did not start: failed on purpose in open");
    let mut backend = support::backend("store", "plain", "BetaStore2");
    backend.config.push(("colour".into(), "red".into()));
    insta::assert_snapshot!(refused(backend), @"backend `store`: class `BetaStore2` did not start: invalid configuration: config.colour: unknown key");
}

#[test]
fn a_constructor_or_open_that_traps_is_named_with_the_trap() {
    insta::assert_snapshot!(refused(failing("TrapBackend", "constructor")), @"backend `store`: class `TrapBackend` did not start: trapped: wasm trap: wasm `unreachable` instruction executed");
    insta::assert_snapshot!(refused(failing("TrapBackend", "open")), @"backend `store`: class `TrapBackend` did not start: trapped: wasm trap: wasm `unreachable` instruction executed");
}

#[test]
fn a_constructor_or_open_that_does_not_return_is_named_when_its_time_is_over() {
    insta::assert_snapshot!(refused(failing("SpinBackend", "constructor")), @"backend `store`: class `SpinBackend` did not start: constructor or open gave no answer within 4s; raise limits.open_timeout_ms if it needs longer");
    insta::assert_snapshot!(refused(failing("SpinBackend", "open")), @"backend `store`: class `SpinBackend` did not start: constructor or open gave no answer within 4s; raise limits.open_timeout_ms if it needs longer");
    insta::assert_snapshot!(refused(failing("HangBackend", "open")), @"backend `store`: class `HangBackend` did not start: constructor or open gave no answer within 4s; raise limits.open_timeout_ms if it needs longer");
    insta::assert_snapshot!(refused(failing("BlockBackend", "open")), @"backend `store`: class `BlockBackend` did not start: constructor or open gave no answer within 4s; raise limits.open_timeout_ms if it needs longer");
}

#[test]
fn a_component_with_another_digest_than_the_pinned_one_is_refused() {
    let folder = folder();
    let mut backend = of_file(&folder, "pinned.wasm", &wat("(component)"));
    backend.digest = Some(Sha256Digest([0xab; 32]));
    insta::assert_snapshot!(refused(backend), @"backend `store`: component `pinned.wasm` has digest sha256:24eaf3439a60c96764c4f2c92a0a81b52bd4fe5d5b91f090184a0f6486b1bf29, but the configuration pins sha256:abababababababababababababababababababababababababababababababab; the file was replaced, or the pin is out of date");
}

#[test]
fn a_secret_that_is_missing_is_named_and_its_value_never_shown() {
    let folder = folder();
    let mut backend = support::backend("store", "log", "ExternalLogBackend");
    backend.secrets.push(("password".into(), SecretSource::Env("KVTIER_TEST_NO_SUCH_VARIABLE".into())));
    insta::assert_snapshot!(refused(backend.clone()), @"backend `store`: secrets.password: the environment variable `KVTIER_TEST_NO_SUCH_VARIABLE` is not set; set it or name another source");
    let file = folder.path().join("password");
    backend.secrets = vec![("password".into(), SecretSource::File(file.clone()))];
    let error = refused(backend.clone());
    assert!(error.contains(&file.display().to_string()), "{error}");
    fs::write(&file, b"\xff\xfehidden").unwrap();
    let error = refused(backend);
    assert!(error.contains("secrets.password is not UTF-8") && !error.contains("hidden"), "{error}");
}

#[test]
fn a_granted_directory_that_does_not_exist_is_named() {
    let folder = folder();
    let absent = folder.path().join("absent");
    let error = refused(support::fs("store", &absent));
    insta::assert_snapshot!(error.replace(&absent.display().to_string(), "[DIRECTORY]"), @"backend `store`: class `FsBackend` did not start: allow.fs grants `[DIRECTORY]`, which cannot be opened: No such file or directory (os error 2); create the directory or correct the grant");
}

/// Starts an engine with a backend that cannot be loaded beside one that can, and checks that it serves.
fn engine_without(backend: BackendConfig) -> Engine {
    let good = support::backend("beside", "memory", "MemoryBackend");
    let config = Config { on_load_error: OnLoadError::Continue, ..support::config(vec![backend, good]) };
    let engine = support::engine(config);
    let keys = support::keys(2);
    support::put_in(engine.storage(), &keys, "beside");
    assert_eq!(support::served(&support::get(engine.storage(), &keys)), [2, 2]);
    engine.storage().set_hot_cache(HotCache::Off);
    engine
}

/// Checks that a backend is down for `cause`, and that calls report it at once.
fn assert_down(engine: &Engine, cause: &str) {
    let down = support::health(engine.storage(), "store").down.expect("down");
    assert!(down.contains(cause), "{down}");
    let keys = support::keys(1);
    let error = block_on(engine.storage().remove(&keys, &Tiers::only(["store"]))).unwrap_err();
    assert!(error.to_string().contains(cause), "{error}");
}

/// Waits until the backend has come up, and uses it.
fn assert_comes_up(engine: &Engine) {
    let storage = engine.storage();
    support::eventually("the backend comes up", || support::health(storage, "store").down.is_none());
    let keys = support::keys(3);
    support::put_in(storage, &keys, "store");
    assert_eq!(support::served(&support::get(storage, &keys)), [1, 1, 1]);
    engine.blocking().close().unwrap();
}

#[test]
fn a_missing_component_is_loaded_once_it_appears() {
    let folder = folder();
    let path = folder.path().join("late.wasm");
    let engine = engine_without(BackendConfig::new("store", &path, "MemoryBackend"));
    assert_down(&engine, "does not exist");
    // In one step, as a deployment would: a half-written file would be refused and tried again.
    fs::copy(support::component("memory"), folder.path().join("new")).unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    assert_comes_up(&engine);
}

#[test]
fn a_backend_is_opened_once_its_granted_directory_appears() {
    let folder = folder();
    let data = folder.path().join("data");
    let engine = engine_without(support::fs("store", &data));
    assert_down(&engine, "allow.fs grants");
    fs::create_dir(&data).unwrap();
    assert_comes_up(&engine);
}

#[test]
fn a_backend_is_loaded_once_its_secret_appears() {
    let folder = folder();
    let file = folder.path().join("root");
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut backend = support::fs("store", &data);
    backend.config.clear();
    backend.secrets.push(("root".into(), SecretSource::File(file.clone())));
    let engine = engine_without(backend);
    assert_down(&engine, "cannot be read");
    fs::write(folder.path().join("new"), "/data\n").unwrap();
    fs::rename(folder.path().join("new"), &file).unwrap();
    assert_comes_up(&engine);
}

#[test]
fn whatever_the_cause_the_others_run_and_the_status_says_it() {
    let directory = folder();
    let causes: [(BackendConfig, &str); 6] = [
        (of_file(&directory, "text.wasm", b"text"), "is not WebAssembly"),
        (of_file(&directory, "core.wasm", &wat("(module)")), "core WebAssembly module"),
        (support::backend("store", "plain", "GammaBackend"), "exports no class `GammaBackend`"),
        (failing("FailBackend", "open"), "failed on purpose in open"),
        (failing("TrapBackend", "constructor"), "trapped: "),
        (failing("HangBackend", "open"), "no answer within 4s"),
    ];
    std::thread::scope(|scope| {
        for (backend, cause) in causes {
            scope.spawn(move || {
                let engine = engine_without(backend);
                assert_down(&engine, cause);
                support::assert_nothing_leaks(engine.storage());
                engine.blocking().close().unwrap();
            });
        }
    });
}

#[test]
fn a_failed_backend_is_named_in_the_log_as_an_error() {
    let log = support::log();
    let path: PathBuf = Path::new("/nonexistent").join("kvtier-logged-backend.wasm");
    let engine = engine_without(BackendConfig::new("store", &path, "LogBackend"));
    let lines = log.lines_with("kvtier-logged-backend.wasm");
    assert!(lines.iter().any(|line| line.contains("ERROR") && line.contains("does not exist")), "{lines:#?}");
    drop(engine);
}
