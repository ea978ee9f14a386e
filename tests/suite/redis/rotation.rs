//! Passwords that change while the backend runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kvtier::{BackendConfig, BackendStatus, BreakerState, Config, OnLoadError, SecretSource, StorageManager};
use kvtier_servers::redis::{Connection, Redis, RedisOptions, available, cmd};

use super::{backend, config, needs_redis};
use crate::support::{self, eventually, get, in_tier, key, keys, put_in, served};

const FIRST: &str = "the-first-password";
const SECOND: &str = "the-second-password";

fn start(password: Option<&str>) -> (Redis, Connection) {
    let password = password.map(str::to_owned);
    let redis = Redis::start(RedisOptions { password, ..RedisOptions::default() }).unwrap();
    let client = redis.client().unwrap();
    (redis, client)
}

/// The backend with its password in a file, and with short pauses.
fn with_password(name: &str, redis: &Redis, source: SecretSource) -> BackendConfig {
    let mut backend = backend(name, &[redis.addr()], &[]);
    backend.secrets.push(("password".into(), source));
    backend.breaker.pause = Duration::from_millis(20);
    backend.breaker.pause_max = Duration::from_millis(200);
    backend
}

/// Changes the server's password for new connections, and cuts all connections but this.
fn change_password(client: &mut Connection, password: &str) {
    let () = cmd("CONFIG").arg(&["SET", "requirepass", password]).query(client).unwrap();
    let _n_cut: i64 = cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).query(client).unwrap();
}

fn status(storage: &StorageManager) -> BackendStatus {
    storage.status().backends.swap_remove(0)
}

/// Checks that exactly one line says that the password of `name` has changed, and that no line contains the password.
fn assert_told_once(log: &support::Log, name: &str) {
    let lines = log.lines_with(name);
    let told = lines.iter().filter(|line| line.contains("secrets have changed") && line.contains(" INFO "));
    assert!(
        told.clone().count() == 1 && told.clone().all(|line| line.contains("secrets.password")),
        "{lines:#?}"
    );
    assert!(!lines.iter().any(|line| line.contains(FIRST) || line.contains(SECOND)), "{lines:#?}");
}

fn password_file(folder: &Path, password: &str) -> PathBuf {
    let path = folder.join("password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    path
}

#[test]
fn a_password_that_is_changed_while_the_backend_runs_is_read_again_and_makes_one_new_instance() {
    needs_redis!();
    let (log, folder) = (support::log(), tempfile::tempdir().unwrap());
    let (redis, mut client) = start(Some(FIRST));
    let path = password_file(folder.path(), FIRST);
    let name = "redis-rotated";
    let engine = support::engine(config(vec![with_password(name, &redis, SecretSource::File(path))]));
    let (storage, keys) = (engine.storage(), keys(4));
    put_in(storage, &keys, name);
    assert_eq!(served(&get(storage, &keys)), [1; 4]);

    change_password(&mut client, SECOND);
    eventually("reading is given up, and retries fail", || {
        in_tier(storage, &keys, name);
        status(storage).reading.opened >= 4
    });
    let cause = status(storage).reading.last_cause.unwrap();
    assert!(cause.contains("secrets.password"), "{cause}");
    assert_eq!(status(storage).health.lane_restarts, 0, "the file has not changed");

    password_file(folder.path(), SECOND);
    eventually("it serves again", || served(&get(storage, &keys)) == [1; 4]);
    put_in(storage, &[key(9)], name);
    let after = status(storage);
    assert_eq!((after.reading.state, after.writing.state), (BreakerState::Closed, BreakerState::Closed));
    assert_eq!(after.health.lane_restarts, 1);
    assert_eq!(after.health.last_restart.as_deref(), Some("secrets have changed"));
    assert_told_once(&log, name);
    support::assert_nothing_leaks(storage);
}

#[test]
fn a_wrong_password_at_the_start_is_read_again_until_it_is_right() {
    needs_redis!();
    let (log, folder) = (support::log(), tempfile::tempdir().unwrap());
    let (redis, _client) = start(Some(SECOND));
    let path = password_file(folder.path(), FIRST);
    let name = "redis-mended";
    let config = config(vec![with_password(name, &redis, SecretSource::File(path))]);
    let engine = support::engine(Config { on_load_error: OnLoadError::Continue, ..config });
    let storage = engine.storage();
    let down = status(storage).health.down.unwrap();
    assert!(down.contains("secrets.password") && !down.contains(FIRST), "{down}");
    password_file(folder.path(), SECOND);
    eventually("it starts", || status(storage).health.down.is_none());
    eventually("it serves", || {
        put_in(storage, &keys(2), name);
        served(&get(storage, &keys(2))) == [1; 2]
    });
    assert_told_once(&log, name);
}

#[test]
fn an_optional_password_is_none_until_its_file_appears() {
    needs_redis!();
    let (log, folder) = (support::log(), tempfile::tempdir().unwrap());
    let (redis, mut client) = start(None);
    let source = SecretSource::Optional(Box::new(SecretSource::File(folder.path().join("password"))));
    let name = "redis-optional";
    let engine = support::engine(config(vec![with_password(name, &redis, source)]));
    let (storage, keys) = (engine.storage(), keys(2));
    put_in(storage, &keys, name);
    assert_eq!(served(&get(storage, &keys)), [1; 2]);
    change_password(&mut client, SECOND);
    eventually("reading is given up", || {
        in_tier(storage, &keys, name);
        status(storage).reading.state == BreakerState::Open
    });
    password_file(folder.path(), SECOND);
    eventually("it serves again", || {
        in_tier(storage, &keys, name);
        served(&get(storage, &keys)) == [1; 2]
    });
    assert_told_once(&log, name);
}
