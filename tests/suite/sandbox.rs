//! What a backend may reach: nothing, unless the configuration grants it. And the cache of compiled code.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kvtier::config::{
    BackendConfig, CompileCache, Config, EnvGrant, FsAccess, FsGrant, NetGrant, NetHost, PortRange,
    SecretSource,
};
use kvtier::{Engine, EngineBuilder};

use crate::support;

/// Opens a `ProbeBackend` and returns what it logged.
fn probed(backend: BackendConfig) -> Vec<String> {
    let log = support::log();
    let name = backend.name.clone();
    let engine = support::engine(support::config(vec![backend]));
    engine.blocking().close().unwrap();
    log.heard(&name)
}

fn probe(name: &str, settings: &[(&str, &str)]) -> BackendConfig {
    let mut backend = support::backend(name, "probe", "ProbeBackend");
    backend.config = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    backend
}

fn find<'a>(heard: &'a [String], start: &str) -> &'a str {
    heard.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {heard:#?}"))
}

fn grant(directory: &Path, access: FsAccess) -> FsGrant {
    FsGrant { host_dir: directory.to_owned(), guest_path: "/data".into(), access }
}

#[test]
fn nothing_is_granted_by_default() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    fs::write(&file, "secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let written = directory.path().join("written");
    let settings = [
        ("read", file.to_str().unwrap()),
        ("write", written.to_str().unwrap()),
        ("connect", address.as_str()),
    ];
    let heard = probed(probe("ungranted", &settings));
    for what in ["read", "write", "connect"] {
        let line = find(&heard, &format!("{what}: "));
        assert!(line.starts_with(&format!("{what}: refused")), "{line}");
    }
    assert!(!written.exists());
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody has connected");
    let variables: Vec<_> = heard.iter().filter(|line| line.starts_with("variable ")).collect();
    assert!(variables.is_empty(), "{variables:?}");
    assert!(std::env::vars().next().is_some(), "there was something to see");
    assert_eq!(find(&heard, "arguments"), "arguments: 0");
}

#[test]
fn the_fs_backend_without_a_grant_says_which_one_it_needs() {
    let mut backend = support::backend("grantless", "fs", "FsBackend");
    let refused = |backend: &BackendConfig| {
        let config = support::config(vec![backend.clone()]);
        EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string()
    };
    insta::assert_snapshot!(refused(&backend), @r#"backend `grantless`: class `FsBackend` did not start: invalid configuration: config.root: no directory is granted; grant one with `allow.fs: ["/host/path:/data:rw"]`; denied: directories, of which none is granted; add allow.fs: ["HOST_DIR:GUEST_PATH:ro"]"#);
    backend.config.push(("root".into(), "/data".into()));
    insta::assert_snapshot!(refused(&backend), @r#"backend `grantless`: class `FsBackend` did not start: invalid configuration: config.root: `/data` is not granted by `allow.fs`, which grants nothing; denied: directories, of which none is granted; add allow.fs: ["HOST_DIR:GUEST_PATH:ro"]"#);
}

#[test]
fn a_granted_directory_is_reached_under_its_guest_path_and_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "text").unwrap();
    fs::write(directory.path().join("beside"), "text").unwrap();
    std::os::unix::fs::symlink(directory.path().join("beside"), data.join("link")).unwrap();
    let heard = |name: &str, read: &str| {
        let mut backend = probe(name, &[("read", read)]);
        backend.allow.fs.push(grant(&data, FsAccess::ReadOnly));
        find(&probed(backend), "read: ").to_owned()
    };
    assert_eq!(heard("fs-inside", "/data/file"), "read: granted");
    for (name, path) in [
        ("fs-parent", "/data/../beside"),
        ("fs-link", "/data/link"),
        ("fs-host-path", data.join("file").to_str().unwrap()),
        ("fs-passwd", "/etc/passwd"),
    ] {
        let line = heard(name, path);
        assert!(line.starts_with("read: refused"), "{path}: {line}");
    }
}

#[test]
fn a_read_only_grant_refuses_writes_and_a_read_write_grant_allows_them() {
    let directory = tempfile::tempdir().unwrap();
    let heard = |name: &str, access: FsAccess| {
        let mut backend = probe(name, &[("write", "/data/written")]);
        backend.allow.fs.push(grant(directory.path(), access));
        find(&probed(backend), "write: ").to_owned()
    };
    let refused = heard("fs-ro", FsAccess::ReadOnly);
    assert!(refused.starts_with("write: refused"), "{refused}");
    assert!(!directory.path().join("written").exists());
    assert_eq!(heard("fs-rw", FsAccess::ReadWrite), "write: granted");
    assert_eq!(fs::read(directory.path().join("written")).unwrap(), b"probe");
}

#[test]
fn splices_do_not_write_through_a_read_only_grant() {
    let directory = tempfile::tempdir().unwrap();
    let keys = support::keys(2);
    {
        let engine = support::engine(support::config(vec![support::fs("fills", directory.path())]));
        support::put_in(engine.storage(), &keys, "fills");
        engine.blocking().close().unwrap();
    }
    let listed = || -> Vec<_> {
        let mut paths: Vec<_> = walk(directory.path());
        paths.sort();
        paths
    };
    let before = listed();
    let mut backend = support::fs("reads", directory.path());
    backend.allow.fs[0].access = FsAccess::ReadOnly;
    let config =
        Config { on_load_error: kvtier::config::OnLoadError::Continue, ..support::config(vec![backend]) };
    let engine = support::engine(config);
    support::put_in(engine.storage(), &[support::key(50)], "reads");
    assert_eq!(support::counted(engine.storage(), "reads").puts, 0);
    drop(engine);
    assert_eq!(listed(), before);
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn granted_variables_are_visible_and_no_others() {
    let mut backend = probe("env", &[]);
    backend.allow.env = vec![
        EnvGrant::Set { name: "COLOUR".into(), value: "red".into() },
        EnvGrant::Inherit("PATH".into()),
        EnvGrant::Inherit("KVTIER_TEST_NO_SUCH_VARIABLE".into()),
    ];
    let heard = probed(backend);
    let mut variables: Vec<_> = heard.iter().filter(|line| line.starts_with("variable ")).collect();
    variables.sort();
    let path = std::env::var("PATH").unwrap();
    assert_eq!(variables, ["variable COLOUR=red", &format!("variable PATH={path}")]);
}

#[test]
fn secrets_reach_the_constructor_and_are_never_logged() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "xyzzy-plugh").unwrap();
    let mut backend = probe("secretive", &[]);
    backend.secrets.push(("password".into(), SecretSource::File(file)));
    assert_eq!(find(&probed(backend), "password: "), "password: 11 bytes");
    let lines = support::log().lines_with("xyzzy-plugh");
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_granted_address_can_be_connected_to_and_its_neighbour_cannot() {
    let (granted, other) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = |listener: &TcpListener| listener.local_addr().unwrap();
    let heard = |name: &str, to: &TcpListener| {
        let mut backend = probe(name, &[("connect", &address(to).to_string())]);
        let port = address(&granted).port();
        backend.allow.net.push(NetGrant::Tcp {
            host: NetHost::Address(address(&granted).ip()),
            ports: PortRange { first: port, last: port },
        });
        find(&probed(backend), "connect: ").to_owned()
    };
    assert_eq!(heard("net-granted", &granted), "connect: granted");
    let refused = heard("net-other", &other);
    assert!(refused.starts_with("connect: refused"), "{refused}");
}

/// Starts an engine with its compiled code in `cache`, uses it, and returns what the status says of the code.
fn code_from(cache: &Path, name: &str) -> String {
    code_with(CompileCache::Directory(cache.to_owned()), name)
}

fn code_with(compile_cache: CompileCache, name: &str) -> String {
    let backend = support::backend(name, "plain", "AlphaBackend");
    let config = Config { compile_cache, ..support::config(vec![backend]) };
    let engine: Engine = support::engine(config);
    let storage = engine.storage();
    let keys = support::keys(2);
    support::put_in(storage, &keys, name);
    assert_eq!(support::served(&support::get(storage, &keys)), [1, 1]);
    let notes = support::health(storage, name).notes;
    let code = notes.iter().find(|(fact, _)| fact == "code").expect("a note");
    engine.blocking().close().unwrap();
    code.1.clone()
}

fn files_in(directory: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn compiled_code_is_kept_and_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("made").join("on demand");
    assert_eq!(code_from(&cache, "cache-first"), "compiled");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files = files_in(&cache);
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(code_from(&cache, "cache-second"), "cached");
    assert_eq!(files_in(&cache), files);
}

#[test]
fn damaged_compiled_code_is_ignored_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    assert_eq!(code_from(&cache, "damage-first"), "compiled");
    let file = files_in(&cache).remove(0);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (number, damaged) in
        [&flipped[..], &whole[..whole.len() / 2], b"", b"kvtierC1"].into_iter().enumerate()
    {
        fs::write(&file, damaged).unwrap();
        assert_eq!(code_from(&cache, &format!("damage-{number}")), "compiled");
        assert_eq!(fs::read(&file).unwrap().len(), whole.len(), "replaced");
        assert_eq!(code_from(&cache, &format!("damage-{number}-again")), "cached");
    }
}

#[test]
fn a_cache_that_others_can_write_to_is_not_used() {
    let log = support::log();
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("kvtier-shared-cache");
    assert_eq!(code_from(&cache, "shared-first"), "compiled");
    for mode in [0o770, 0o707] {
        fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(code_from(&cache, &format!("shared-{mode:o}")), "compiled");
    }
    let warnings = log.lines_with("kvtier-shared-cache");
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings.iter().all(|line| line.contains("WARN") && line.contains("chmod 700")), "{warnings:#?}");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(code_from(&cache, "shared-last"), "cached");
}

#[test]
fn a_cache_that_cannot_be_made_does_not_stop_the_engine() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a file");
    fs::write(&file, "").unwrap();
    assert_eq!(code_from(&file.join("below"), "no-cache"), "compiled");
}

#[test]
fn engines_that_start_at_the_same_time_share_one_cache() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    std::thread::scope(|scope| {
        for number in 0..3 {
            let cache = &cache;
            scope.spawn(move || code_from(cache, &format!("race-{number}")));
        }
    });
    let files = files_in(&cache);
    assert_eq!(files.len(), 1, "no temporary file is left: {files:?}");
    assert_eq!(code_from(&cache, "race-last"), "cached");
}

#[test]
fn no_compiled_code_is_kept_when_the_cache_is_off() {
    for name in ["cache-off", "cache-off-again"] {
        assert_eq!(code_with(CompileCache::Off, name), "compiled");
    }
}

#[test]
fn a_class_in_blocking_style_splices_between_chunks_and_granted_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut backend = support::backend("splicer", "probe", "SpliceBackend");
    backend.allow.fs.push(grant(directory.path(), FsAccess::ReadWrite));
    let engine = support::engine(Config { local_cpu: false, ..support::config(vec![backend]) });
    let (storage, keys) = (engine.storage(), support::keys(3));
    support::put_in(storage, &keys, "splicer");
    for key in &keys {
        let stored = fs::read(directory.path().join(key.to_string())).unwrap();
        assert_eq!(stored.len(), support::CHUNK_BYTES + kvtier::integrity::TRAILER_BYTES);
        kvtier_cli::content::verify(*key, &stored[..support::CHUNK_BYTES]).unwrap();
    }
    assert_eq!(support::served(&support::get(storage, &keys)), [1; 3]);
    // A file that ends early is a miss, not a chunk.
    fs::write(directory.path().join(keys[1].to_string()), b"torn").unwrap();
    let found = support::get(storage, &keys);
    assert_eq!(support::served(&found), [1]);
    assert_eq!(found.misses[0].2.reason(), "wrong_length");
}
