//! The `redis` backend on real servers: a single server, and a cluster.

mod cluster;
mod example;
mod faults;
mod refusals;
mod rotation;
mod shared;

use std::net::SocketAddr;
use std::time::Duration;

use kvtier::{
    BackendConfig, BuildError, ChunkKey, ChunkSpec, Config, Engine, EngineBuilder, Missing, NetGrant,
    NetHost, PortRange, SecretSource, StorageManager, Tiers, block_on,
};
use kvtier_check::Outcome;
use kvtier_servers::redis::{Commands, Connection, Redis, RedisOptions, available, cmd};

use crate::support::{self, counted, get, in_tier, key, keys, metadata, put, put_in, served};

/// Runs a test if Redis is available.
macro_rules! needs_redis {
    () => {
        if !available(std::thread::current().name().unwrap_or("a test of redis")) {
            return;
        }
    };
}
use needs_redis;

/// Payload of a chunk that is larger than the memory of a guest.
const LARGE_BYTES: usize = 32 << 20;

/// Returns the backend, granted every port of this machine.
fn backend(name: &str, servers: &[SocketAddr], settings: &[(&str, &str)]) -> BackendConfig {
    let mut backend = support::backend(name, "redis", "RedisBackend");
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    backend.config.push(("servers".into(), servers.join(",")));
    backend.config.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let host = NetHost::Address([127, 0, 0, 1].into());
    backend.allow.net.push(NetGrant::Tcp { host, ports: PortRange { first: 1, last: u16::MAX } });
    // Long enough for a busy machine: a server that should take long is paused altogether.
    backend.limits.call_timeout = Duration::from_secs(10);
    backend.limits.lane_stall = Duration::from_secs(10);
    backend
}

/// Returns a grant for a port of this machine.
fn granted(port: u16) -> NetGrant {
    NetGrant::Tcp {
        host: NetHost::Address([127, 0, 0, 1].into()),
        ports: PortRange { first: port, last: port },
    }
}

/// Builds a chain without a hot cache.
fn config(backends: Vec<BackendConfig>) -> Config {
    let blocking_timeout = Duration::from_mins(1);
    Config { local_cpu: false, pool_size_bytes: 64 << 20, blocking_timeout, ..support::config(backends) }
}

fn engine(backend: BackendConfig) -> Engine {
    support::engine(config(vec![backend]))
}

fn start() -> (Redis, Connection) {
    let redis = Redis::start(RedisOptions::default()).unwrap();
    let client = redis.client().unwrap();
    (redis, client)
}

/// Returns a chunk's key in Redis.
fn name_of(engine: &Engine, key: ChunkKey) -> String {
    format!("kvtier:{}:{key}", engine.namespace())
}

fn size(client: &mut Connection) -> usize {
    cmd("DBSIZE").query(client).unwrap()
}

/// Stores chunks of any size in all tiers, and waits until they have them.
fn put_sized(storage: &StorageManager, keys: &[ChunkKey], size_bytes: usize) {
    for key in keys {
        let mut allocation = block_on(storage.allocate(&[ChunkSpec { key: *key, size_bytes }])).unwrap();
        for Missing { key, bytes, .. } in allocation.missing() {
            kvtier_cli::content::fill(key, bytes);
        }
        block_on(storage.put(allocation, &Tiers::All));
        block_on(storage.flush()).unwrap();
    }
}

/// Retrieves chunks of any size, checks every byte, and returns the places of the tiers that served.
fn get_sized(storage: &StorageManager, keys: &[ChunkKey], size_bytes: usize) -> Vec<usize> {
    let specs: Vec<_> = keys.iter().map(|&key| ChunkSpec { key, size_bytes }).collect();
    let found = block_on(storage.get(&specs, &Tiers::All, None));
    for (chunk, key) in found.chunks.iter().zip(keys) {
        kvtier_cli::content::verify(*key, chunk).unwrap();
    }
    served(&found)
}

#[test]
fn chunks_are_stored_under_prefix_namespace_and_key_and_come_back() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    let (storage, keys) = (engine.storage(), keys(10));
    put_in(storage, &keys, "redis");
    let mut names: Vec<String> = client.keys("*").unwrap();
    names.sort();
    assert_eq!(names, keys.iter().map(|&key| name_of(&engine, key)).collect::<Vec<_>>());
    assert_eq!(served(&get(storage, &keys)), vec![1; 10]);
    let counts = counted(storage, "redis");
    assert_eq!((counts.hits, counts.puts, counts.errors.len()), (10, 10, 0));
    support::assert_nothing_leaks(storage);
}

#[test]
fn it_keeps_the_contract_sentence_by_sentence() {
    needs_redis!();
    let (redis, _) = start();
    let report = crate::check::quickly(backend("check", &[redis.addr()], &[]));
    assert!(report.is_kept(), "{report}");
    let kept = |id: &str| {
        report.verdicts.iter().any(|verdict| verdict.sentence.id == id && verdict.outcome == Outcome::Kept)
    };
    assert!(kept("removed-stays-removed") && kept("missing-grant") && kept("sizes"), "{:?}", report.verdicts);
}

#[test]
fn presence_is_reported_for_each_key() {
    needs_redis!();
    let (redis, _client) = start();
    crate::single::check_presence_key_by_key(backend("redis", &[redis.addr()], &[]));
}

#[test]
fn a_lookup_counts_from_the_first_key_to_the_first_gap() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    let (storage, keys) = (engine.storage(), keys(1_300));
    for keys in keys.chunks(20) {
        put_in(storage, keys, "redis");
    }
    assert_eq!(in_tier(storage, &keys, "redis"), 1_300);
    for gap in [1_299, 600, 512, 511, 3, 0] {
        let () = client.del(name_of(&engine, keys[gap])).unwrap();
        assert_eq!(in_tier(storage, &keys, "redis"), gap);
    }
}

#[test]
fn what_is_removed_is_gone_and_counted_once() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    let (storage, keys) = (engine.storage(), keys(5));
    put_in(storage, &keys, "redis");
    let redis_only = Tiers::only(["redis"]);
    let asked = [keys[0], keys[3], key(77)];
    assert_eq!(block_on(storage.remove(&asked, &redis_only)), Ok(2));
    assert_eq!((size(&mut client), in_tier(storage, &keys[1..], "redis")), (3, 2));
    assert_eq!(block_on(storage.remove(&keys, &redis_only)), Ok(3));
    assert_eq!(size(&mut client), 0);
}

#[test]
fn a_value_of_another_size_or_with_other_bytes_is_never_served_and_the_others_are() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    let (storage, keys) = (engine.storage(), keys(6));
    put_in(storage, &keys, "redis");
    let names: Vec<_> = keys.iter().map(|&key| name_of(&engine, key)).collect();
    let good: Vec<u8> = client.get(&names[0]).unwrap();
    let () = client.set(&names[1], &good[1..]).unwrap();
    let () = client.set(&names[2], vec![7_u8; 3 << 20]).unwrap();
    let () = client.set(&names[3], "").unwrap();
    let () = client.set(&names[4], &good).unwrap();
    for (index, reason) in
        [(1, "wrong_length"), (2, "larger_than_buffer"), (3, "wrong_length"), (4, "other_key")]
    {
        let found = get(storage, &keys[index..=index]);
        assert_eq!(found.chunks.len(), 0, "{index}");
        assert_eq!(found.misses[0].miss.reason(), reason, "{index}: {:?}", found.misses);
    }
    for index in [0, 5] {
        assert_eq!(served(&get(storage, &keys[index..=index])), [1]);
    }
    let clients: String = cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
    assert!(clients.lines().count() >= 2, "the connection that skipped them is still in use: {clients}");
}

#[test]
fn prefix_database_user_and_time_to_live_are_those_configured() {
    needs_redis!();
    let users = vec![
        "alice on >wonderland resetkeys ~team:* -@all +get +set +exists +strlen +unlink +pexpire +select"
            .into(),
    ];
    let redis = Redis::start(RedisOptions { users, ..RedisOptions::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "wonderland\n").unwrap();
    let settings = [("prefix", "team:"), ("database", "3"), ("username", "alice"), ("ttl_s", "1000")];
    let mut backend = backend("redis", &[redis.addr()], &settings);
    backend.secrets.push(("password".into(), SecretSource::File(password)));
    let engine = engine(backend.clone());
    let storage = engine.storage();
    put_in(storage, &keys(1), "redis");
    assert_eq!(served(&get(storage, &keys(1))), [1]);
    let mut client = redis.client().unwrap();
    assert_eq!(size(&mut client), 0, "in another database");
    let () = cmd("SELECT").arg(3).query(&mut client).unwrap();
    let name = name_of(&engine, key(0)).replacen("kvtier:", "team:", 1);
    assert!((990..=1_000).contains(&client.ttl::<_, i64>(&name).unwrap()));
    // A put of a chunk that is present counts as a use: another engine does not know that it is stored.
    let () = client.expire(&name, 100).unwrap();
    let other = support::engine(config(vec![backend]));
    put_in(other.storage(), &keys(1), "redis");
    assert!((990..=1_000).contains(&client.ttl::<_, i64>(&name).unwrap()));
    assert_eq!(block_on(storage.remove(&keys(1), &Tiers::All)), Ok(1));
}

#[test]
fn values_of_32_mib_come_back_and_are_never_whole_in_guest_memory() {
    needs_redis!();
    let (redis, _client) = start();
    let backend = backend("redis", &[redis.addr()], &[]);
    let engine = support::engine(Config { pool_size_bytes: 320 << 20, ..config(vec![backend]) });
    let (storage, keys) = (engine.storage(), keys(3));
    put_sized(storage, &keys, LARGE_BYTES);
    for _ in 0..2 {
        assert_eq!(get_sized(storage, &keys, LARGE_BYTES), [1, 1, 1]);
    }
    let held = support::health(storage, "redis").guest_memory_bytes;
    assert!(held < 24 << 20, "{held} bytes of guest memory");
}

#[test]
fn sizes_around_every_boundary_come_back() {
    needs_redis!();
    let (redis, _client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    // Sizes around those of a single write, of the read buffer, and of the pieces of a large value.
    let boundaries = [64 << 10, 192 << 10, 256 << 10, 384 << 10, (256 << 10) + (1 << 20), 3 << 20];
    let sizes =
        boundaries.iter().flat_map(|&size: &usize| [size - 100, size - 1, size, size + 1]).chain([1, 2]);
    for (n, size_bytes) in (0..).zip(sizes) {
        put_sized(engine.storage(), &[key(n)], size_bytes);
        assert_eq!(get_sized(engine.storage(), &[key(n)], size_bytes), [1], "{size_bytes}");
    }
}

#[test]
fn many_calls_in_flight_share_a_few_connections() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[("connections", "4")]));
    let (storage, keys) = (engine.storage(), keys(64));
    put_in(storage, &keys, "redis");
    assert_eq!(served(&get(storage, &keys)), vec![1; 64], "in one batch");
    let specs = support::specs(&keys);
    let gets = (0..200).map(|n| storage.get(&specs[n % 64..=n % 64], &Tiers::All, None));
    let found = block_on(futures::future::join_all(gets));
    for (n, found) in found.iter().enumerate() {
        assert_eq!(served(found), [1], "{n}: {:?}", found.misses);
        kvtier_cli::content::verify(keys[n % 64], &found.chunks[0]).unwrap();
    }
    let clients: String = cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
    assert!(clients.lines().count() <= 4 + 1, "{clients}");
}

#[test]
fn what_one_engine_stores_another_finds_behind_its_own_cpu_tier() {
    needs_redis!();
    let (redis, _client) = start();
    let node = || {
        let shared = backend("redis", &[redis.addr()], &[]);
        support::engine(Config { local_cpu: true, ..config(vec![shared]) })
    };
    let (a, b) = (node(), node());
    put(a.storage(), &keys(8), &Tiers::All);
    block_on(a.storage().flush()).unwrap();
    assert_eq!(support::runs(&block_on(b.storage().contains(&keys(8), &Tiers::All))), [(1, 8)]);
    assert_eq!(served(&get(b.storage(), &keys(8))), vec![1; 8]);
    assert_eq!(served(&get(b.storage(), &keys(8))), vec![0; 8], "from now on its CPU tier has them");
}

#[test]
fn a_second_server_serves_where_the_first_does_not_answer() {
    needs_redis!();
    let (redis, mut client) = start();
    let (mut dead, _) = start();
    dead.kill();
    let engine = engine(backend("redis", &[dead.addr(), redis.addr()], &[]));
    put_in(engine.storage(), &keys(2), "redis");
    assert_eq!((served(&get(engine.storage(), &keys(2))), size(&mut client)), (vec![1, 1], 2));
}

/// Returns why an engine with this backend does not start.
fn refusal(backend: BackendConfig) -> String {
    match EngineBuilder::new(config(vec![backend]), metadata()).build_blocking() {
        Err(error @ BuildError::Load { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_with_the_configuration_is_named() {
    needs_redis!();
    let users = vec!["reader on >secret-of-reader ~* +get".into()];
    let redis =
        Redis::start(RedisOptions { password: Some("right".into()), users, ..RedisOptions::default() });
    let redis = redis.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let with_password = |password: &str, settings: &[(&str, &str)]| {
        let path = folder.path().join(password);
        std::fs::write(&path, password).unwrap();
        let mut backend = backend("redis", &[redis.addr()], settings);
        backend.secrets.push(("password".into(), SecretSource::File(path)));
        refusal(backend)
    };
    let wrong = with_password("not-the-password", &[]);
    assert!(wrong.contains("secrets.password") && wrong.contains("WRONGPASS"), "{wrong}");
    assert!(!wrong.contains("not-the-password"), "{wrong}");
    let none = refusal(backend("redis", &[redis.addr()], &[]));
    assert!(none.contains("secrets.password") && none.contains("NOAUTH"), "{none}");
    let right = with_password("secret-of-reader", &[("username", "reader")]);
    assert!(right.contains("config.username") && right.contains("NOPERM"), "{right}");
    let database = with_password("right", &[("database", "99")]);
    assert!(database.contains("config.database") && database.contains("out of range"), "{database}");
    let cluster = with_password("right", &[("cluster", "true")]);
    assert!(cluster.contains("config.cluster"), "{cluster}");
    for (setting, value) in [
        ("prefix", "a{b}"),
        ("servers", "redis://a"),
        ("connections", "0"),
        ("ttl_s", "-1"),
        ("username", "alice"),
        ("server", "a:1"),
    ] {
        let mut backend = backend("redis", &[redis.addr()], &[]);
        backend.config.retain(|(key, _)| key != setting);
        backend.config.push((setting.into(), value.into()));
        let error = refusal(backend);
        assert!(error.contains(&format!("config.{setting}: ")), "{error}");
    }
    let mut ungranted = backend("redis", &[redis.addr()], &[]);
    ungranted.allow.net.clear();
    ungranted.allow.net.push(NetGrant::Tcp {
        host: NetHost::Address([127, 0, 0, 2].into()),
        ports: PortRange { first: 1, last: u16::MAX },
    });
    let error = refusal(ungranted);
    assert!(error.contains(&format!("add allow.net: [\"tcp://{}\"]", redis.addr())), "{error}");
}
