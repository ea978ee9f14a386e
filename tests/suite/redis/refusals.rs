//! Servers that refuse some operations and serve the rest: the chunks that they have are still served.

use std::time::Duration;

use kvtier::{BreakerState, Config, OnLoadError, Operation, StorageManager, Tiers, block_on};
use kvtier_servers::redis::{Redis, RedisOptions, available, cmd};

use super::{backend, config, engine, needs_redis, put_sized, size, start};
use crate::support::{self, counted, get, in_tier, key, keys, put_in, served};

/// A way to refuse writes: its name, how it begins and ends, and the error of a put.
type Refusal = (&'static str, fn(&Redis), fn(&Redis), &'static str);

/// Makes it a replica of an absent master.
fn demote(redis: &Redis) {
    let mut client = redis.client().unwrap();
    let () = cmd("REPLICAOF").arg("127.0.0.1").arg(1).query(&mut client).unwrap();
}

/// Makes it a master again.
fn promote(redis: &Redis) {
    let mut client = redis.client().unwrap();
    let () = cmd("REPLICAOF").arg("NO").arg("ONE").query(&mut client).unwrap();
}

fn allow(redis: &Redis, rights: &str) {
    let mut client = redis.client().unwrap();
    let () = cmd("ACL").arg("SETUSER").arg("default").arg(rights).query(&mut client).unwrap();
}

/// Returns every error that was counted: operation, kind and number.
fn all_errors(storage: &StorageManager) -> Vec<(&'static str, &'static str, u64)> {
    let errors = counted(storage, "redis").errors;
    errors.iter().map(|error| (error.operation.name(), error.kind, error.n)).collect()
}

#[test]
fn a_server_that_refuses_writes_is_connected_to_and_read() {
    needs_redis!();
    let refusals: [Refusal; 4] = [
        ("READONLY", demote, promote, "unavailable"),
        (
            "MISCONF",
            |redis| redis.break_snapshots().unwrap(),
            |redis| redis.configure("stop-writes-on-bgsave-error", "no").unwrap(),
            "unavailable",
        ),
        (
            "NOREPLICAS",
            |redis| redis.configure("min-replicas-to-write", "1").unwrap(),
            |redis| redis.configure("min-replicas-to-write", "0").unwrap(),
            "unavailable",
        ),
        ("NOPERM", |redis| allow(redis, "-set"), |redis| allow(redis, "+set"), "invalid_config"),
    ];
    for (name, begin, end, reason) in refusals {
        let (redis, _) = start();
        let before = engine(backend("redis", &[redis.addr()], &[("reconnect_pause_max_ms", "1")]));
        put_in(before.storage(), &keys(3), "redis");
        begin(&redis);
        // Without a password, because its command is among those that are refused.
        let after = engine(backend("redis", &[redis.addr()], &[("reconnect_pause_max_ms", "1")]));
        for engine in [&before, &after] {
            let storage = engine.storage();
            put_in(storage, &[key(7)], "redis");
            assert_eq!(all_errors(storage), [("put", reason, 1)], "{name}");
            assert_eq!(in_tier(storage, &keys(3), "redis"), 3, "{name}");
            assert_eq!(served(&get(storage, &keys(3))), [1; 3], "{name}");
        }
        end(&redis);
        support::eventually("it takes puts again", || {
            put_in(after.storage(), &[key(8)], "redis");
            in_tier(after.storage(), &[key(8)], "redis") == 1
        });
    }
}

#[test]
fn writes_that_are_refused_for_long_close_no_way_to_what_is_stored() {
    needs_redis!();
    let (redis, _) = start();
    let mut backend = backend("redis", &[redis.addr()], &[("reconnect_pause_max_ms", "1")]);
    backend.breaker.pause = Duration::from_millis(20);
    backend.breaker.pause_max = Duration::from_millis(100);
    let engine = engine(backend);
    let storage = engine.storage();
    let status = || storage.status().backends.into_iter().find(|backend| backend.name == "redis").unwrap();
    put_in(storage, &keys(3), "redis");
    demote(&redis);
    let mut n = 100;
    support::eventually("the breaker of writing opens", || {
        n += 1;
        put_in(storage, &[key(n)], "redis");
        assert_eq!(in_tier(storage, &keys(3), "redis"), 3);
        assert_eq!(served(&get(storage, &keys(3))), [1; 3]);
        status().writing.state == BreakerState::Open
    });
    let cause = status().writing.last_cause.unwrap_or_default();
    assert!(cause.contains("READONLY"), "{cause}");
    assert_eq!((status().reading.state, status().reading.opened), (BreakerState::Closed, 0));
    promote(&redis);
    support::eventually("it stores again", || {
        n += 1;
        put_in(storage, &[key(n)], "redis");
        in_tier(storage, &[key(n)], "redis") == 1 && status().writing.state == BreakerState::Closed
    });
}

#[test]
fn puts_end_on_the_master_wherever_it_is_among_the_servers() {
    needs_redis!();
    let (replica, mut of_replica) = start();
    let (master, mut of_master) = start();
    demote(&replica);
    let engine = engine(backend("redis", &[replica.addr(), master.addr()], &[]));
    let storage = engine.storage();
    put_in(storage, &keys(6), "redis");
    assert_eq!((size(&mut of_replica), size(&mut of_master)), (0, 6));
    assert_eq!(served(&get(storage, &keys(6))), [1; 6]);
    assert_eq!(counted(storage, "redis").errors.len(), 0, "the chunks of the first put are on the master");

    // They swap roles.
    promote(&replica);
    demote(&master);
    put_in(storage, &[key(10)], "redis");
    assert_eq!((size(&mut of_replica), size(&mut of_master)), (1, 6));
    assert_eq!(block_on(storage.remove(&[key(10)], &Tiers::only(["redis"]))), Ok(1));
    assert_eq!(counted(storage, "redis").errors.len(), 0);
}

#[test]
fn a_master_that_is_down_leaves_the_replica_to_be_read() {
    needs_redis!();
    let (replica, _) = start();
    let (mut master, _) = start();
    let engine = engine(backend("redis", &[replica.addr(), master.addr()], &[]));
    let storage = engine.storage();
    put_in(storage, &keys(3), "redis");
    demote(&replica);
    master.kill();
    put_in(storage, &[key(7)], "redis");
    assert_eq!(counted(storage, "redis").n_errors(Operation::Put, "unavailable"), 1);
    assert_eq!(served(&get(storage, &keys(3))), [1; 3]);
}

#[test]
fn a_server_that_takes_no_more_clients_is_unavailable_in_its_own_words() {
    needs_redis!();
    let options = RedisOptions { password: Some("right".into()), ..RedisOptions::default() };
    let redis = Redis::start(options).unwrap();
    let _client = redis.client().unwrap();
    redis.configure("maxclients", "1").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "right").unwrap();
    let mut backend = backend("redis", &[redis.addr()], &[]);
    backend.secrets.push(("password".into(), kvtier::SecretSource::File(path)));
    let config = Config { on_load_error: OnLoadError::Continue, ..config(vec![backend]) };
    let engine = support::engine(config);
    let down = support::health(engine.storage(), "redis").down.expect("there is no room for it");
    assert!(down.contains("unavailable") && down.contains("max number of clients reached"), "{down}");
    assert!(!down.contains("secrets.password"), "{down}");
}

#[test]
fn a_value_that_is_too_large_for_the_server_is_refused_and_others_are_stored_and_served() {
    needs_redis!();
    let (redis, _) = start();
    redis.configure("proto-max-bulk-len", "1mb").unwrap();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    let storage = engine.storage();
    put_sized(storage, &keys(1), 3 << 20);
    assert_eq!(all_errors(storage), [("put", "other", 1)]);
    let status = storage.status().backends.into_iter().find(|backend| backend.name == "redis").unwrap();
    let cause = status.writing.last_cause.unwrap_or_default();
    for part in ["a chunk of 31457", "Protocol error", "proto-max-bulk-len", "chunk_size"] {
        assert!(cause.contains(part), "{part}: {cause}");
    }
    put_in(storage, &[key(1)], "redis");
    assert_eq!(served(&get(storage, &[key(1)])), [1]);
}
