//! The effects of a configuration on an engine: one file for all ranks, nothing stored, no hot cache, secrets in
//! `config.*`, and paths that do not lead to a regular file.

use std::fs;
use std::path::{Path, PathBuf};

use kvtier::{
    BackendConfig, Config, EngineBuilder, EngineMetadata, FsAccess, FsGrant, Salt, SecretSource, Tiers,
    block_on,
};

use crate::grants::{CLASSES, intruder};
use crate::scripted::{Scripted, engine_over};
use crate::support::{self, CHUNK_SIZE, config, counts_at, get, keys, log, metadata, put, served};

#[test]
fn one_configuration_gives_each_rank_a_directory_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = support::fs("disk", Path::new(""));
    let host_dir = folder.path().join("{model}/{worker_id}-of-{world_size}");
    backend.allow.fs = vec![FsGrant { host_dir, guest_path: "/data".into(), access: FsAccess::ReadWrite }];
    backend.config = vec![("root".into(), "/data/{namespace}".into())];
    for worker_id in [0, 1] {
        let metadata = EngineMetadata { world_size: 2, worker_id, ..metadata() };
        let engine = EngineBuilder::new(config(vec![backend.clone()]), metadata).build_blocking().unwrap();
        put(engine.storage(), &keys(1), &Tiers::All);
        block_on(engine.storage().flush()).unwrap();
        let root = format!("test-model/{worker_id}-of-2/{}", engine.namespace());
        assert!(folder.path().join(&root).is_dir(), "{root}");
        engine.blocking().close().unwrap();
    }
    assert_eq!(fs::read_dir(folder.path().join("test-model")).unwrap().count(), 2);
}

#[test]
fn nothing_is_stored_where_the_environment_forbids_it_and_all_is_found() {
    let store = Scripted::new();
    let engine = engine_over(config(vec![]), metadata(), &[("a", &store)]);
    put(engine.storage(), &keys(2), &Tiers::only(["a"]));
    block_on(engine.storage().flush()).unwrap();

    let engine = engine_over(Config { skip_save: true, ..config(vec![]) }, metadata(), &[("a", &store)]);
    let storage = engine.storage();
    let found = get(storage, &keys(2));
    assert_eq!(served(&found), [1, 1]);
    assert_eq!(store.put_keys().len(), 2, "by the first engine");
    block_on(async {
        storage.put_chunks(&found.chunks, &Tiers::All).await;
        let tokens = vec![7; 4 * CHUNK_SIZE];
        let mut allocation = engine.allocate(&engine.prompt(&tokens, &Salt::none())).await.unwrap();
        assert_eq!((allocation.n_missing(), allocation.n_covered()), (0, 0), "no copy is made in vain");
        assert_eq!(allocation.missing().count(), 0);
        assert_eq!(engine.store(allocation, &Tiers::All).await.n_new, 0);
        storage.flush().await.unwrap();
    });
    assert!(store.put_keys().is_empty());
    assert_eq!(counts_at(storage, 0).drops.get("skip_save"), Some(&6));
}

#[test]
fn without_a_pool_of_its_own_size_a_retrieval_is_served_and_nothing_stays() {
    let store = Scripted::new();
    let zero = Config { pool_size_bytes: 0, ..config(vec![]) };
    let engine = engine_over(zero, metadata(), &[("a", &store)]);
    assert_eq!(engine.pool().unwrap().region_bytes() >> 20, 144);
    put(engine.storage(), &keys(3), &Tiers::All);
    block_on(engine.storage().flush()).unwrap();
    let found = get(engine.storage(), &keys(3));
    assert_eq!(served(&found), [1, 1, 1], "by the backend, since the CPU tier keeps nothing");
}

#[test]
fn a_password_in_the_configuration_is_shown_by_no_error_log_or_status() {
    let log = log();
    for class in CLASSES {
        for said in ["say error", "say log", "say panic"] {
            let mut backend = intruder(class, said);
            backend.config.push(("key".into(), "redis://bob:swordfish@host:6379".into()));
            let name = backend.name.clone();
            assert!(!format!("{backend:?}").contains("swordfish"));
            let engine = support::engine(config(vec![backend]));
            let found = get(engine.storage(), &keys(1));
            let shown = format!("{:?} {:?}", found.misses, engine.storage().status());
            let told = [shown].into_iter().chain(log.lines_with(&name)).collect::<Vec<_>>().join("\n");
            assert!(told.contains("the key is redis://[secret]@host:6379"), "{said}: {told}");
            assert!(!told.contains("swordfish"), "{said}: {told}");
        }
    }
}

/// Makes a pipe without a writer: opening it would wait forever.
fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = pipe(folder.path());
    for path in [pipe.as_path(), Path::new("/dev/zero")] {
        let shown = path.display().to_string();
        let refused = |backend: BackendConfig| {
            EngineBuilder::new(config(vec![backend]), metadata()).build_blocking().unwrap_err().to_string()
        };
        let component = refused(BackendConfig::new("a", path, "A"));
        assert!(component.contains(&format!("component `{shown}` is not a regular file")), "{component}");
        let mut backend = support::misbehaving("b", "GoodBackend", &[]);
        backend.secrets.push(("password".into(), SecretSource::File(path.into())));
        let secret = refused(backend);
        assert!(secret.contains(&format!("the secret file `{shown}` cannot be read: it is a ")), "{secret}");
        let mut backend = support::misbehaving("c", "GoodBackend", &[]);
        backend.ca_file = Some(path.into());
        let ca_file = refused(backend);
        assert!(ca_file.contains(&format!("tls.ca_file: `{shown}` cannot be read: it is a ")), "{ca_file}");
        let error = Config::from_file_with_env(path, []).unwrap_err().to_string();
        assert!(error.contains(&format!("`{shown}`: cannot be read: it is a ")), "{error}");
        let text = format!("extra_config: {{kvtier.integrity_key: 'file:{shown}'}}");
        let error = Config::from_yaml(&text, "", []).unwrap_err().to_string();
        assert!(error.contains("cannot be read: it is a "), "{error}");
    }
    for words in [
        ["replay", "/dev/zero", "--"],
        ["config", "pipe", "--"],
        ["inspect", "--config", "pipe"],
        ["compile", "--config", "pipe"],
        ["inspect", "pipe", "--"],
        ["compile", "pipe", "--cache-dir=cache"],
    ] {
        let output = support::kvtier().current_dir(folder.path()).args(words).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(text.contains("it is a ") || text.contains("is not a regular file"), "{words:?}: {text}");
    }
}

#[test]
fn tiers_that_are_asked_for_in_vain_are_named_by_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lmcache.yaml");
    fs::write(&path, "local_disk: file:///data\nmax_local_cpu_size: 0\n").unwrap();
    let output = support::kvtier().arg("config").arg(&path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("`local_disk` is ignored: kvtier has no such tier"), "{text}");
    assert!(text.contains("`max_local_cpu_size` is 0: the CPU tier keeps no chunks"), "{text}");
    // The environment counts as much as the file.
    let mut command = support::kvtier();
    command.env("LMCACHE_REMOTE_URL", "lm://user:hunter2@host:65432");
    let output = command.arg("config").arg(&path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("`LMCACHE_REMOTE_URL`: it is ignored") && !text.contains("hunter2"), "{text}");
}
