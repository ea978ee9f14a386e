//! A backend may reach nothing that the configuration does not grant.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use kvtier::{
    BackendConfig, Config, EngineBuilder, EnvGrant, FsAccess, FsGrant, NetGrant, NetHost, PortRange,
    SecretSource,
};

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
    assert!(listener.accept().is_err(), "no connection arrived");
    let variables: Vec<_> = heard.iter().filter(|line| line.starts_with("variable ")).collect();
    assert!(variables.is_empty(), "{variables:?}");
    assert!(std::env::vars().next().is_some(), "there are variables to see");
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
    insta::assert_snapshot!(refused(&backend), @r#"backend `grantless`: class `FsBackend` did not start: invalid configuration: config.root: its 5 bytes name no directory that `allow.fs` grants; it grants nothing; denied: directories, of which none is granted; add allow.fs: ["HOST_DIR:GUEST_PATH:ro"]"#);
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
    let config = Config { on_load_error: kvtier::OnLoadError::Continue, ..support::config(vec![backend]) };
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

#[test]
fn a_class_in_blocking_style_splices_between_chunks_and_granted_files() {
    check_splices(support::backend("splicer", "probe", "SpliceBackend"));
    let mut by_name = support::backend("splicer", "probe", "SpliceBackend");
    by_name.config.push(("by_name".into(), "true".into()));
    check_splices(by_name);
}

fn check_splices(mut backend: BackendConfig) {
    let directory = tempfile::tempdir().unwrap();
    backend.allow.fs.push(grant(directory.path(), FsAccess::ReadWrite));
    let engine = support::engine(Config { local_cpu: false, ..support::config(vec![backend]) });
    let (storage, keys) = (engine.storage(), support::keys(3));
    support::put_in(storage, &keys, "splicer");
    for key in &keys {
        let stored = fs::read(directory.path().join(key.to_string())).unwrap();
        assert_eq!(stored.len(), support::CHUNK_BYTES + kvtier::tier::TRAILER_BYTES);
        kvtier_cli::content::verify(*key, &stored[..support::CHUNK_BYTES]).unwrap();
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), keys.len());
    assert_eq!(support::served(&support::get(storage, &keys)), [1; 3]);
    // A file that ends early is a miss, not a chunk.
    fs::write(directory.path().join(keys[1].to_string()), b"torn").unwrap();
    let found = support::get(storage, &keys);
    assert_eq!(support::served(&found), [1]);
    assert_eq!(found.misses[0].miss.reason(), "wrong_length");
}

#[test]
fn an_async_class_that_reads_files_by_blocking_functions_is_noticed() {
    let log = support::log();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("note"), "a note").unwrap();
    let blocking = |name: &str, class: &str| {
        let mut backend = support::misbehaving(name, class, &[("in", "put")]);
        backend.allow.fs.push(grant(directory.path(), FsAccess::ReadOnly));
        backend
    };
    let backends = vec![blocking("by-std-fs", "StdFsBackend"), blocking("without-files", "GoodBackend")];
    let engine = support::engine(support::config(backends));
    for name in ["by-std-fs", "without-files"] {
        support::put_in(engine.storage(), &support::keys(3), name);
        assert_eq!(support::in_tier(engine.storage(), &support::keys(3), name), 3);
    }
    engine.blocking().close().unwrap();
    let noticed = |name: &str| {
        let lines = log.lines_with("has blocked its instance 64 times to read or write a file");
        lines.iter().filter(|line| line.ends_with(&format!("backend={name}"))).count()
    };
    assert_eq!((noticed("by-std-fs"), noticed("without-files")), (1, 0));
}
