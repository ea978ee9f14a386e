//! Servers that are down, dead, silent, slow, full or cut off. The next tier then serves the requests, nothing wrong is
//! ever served, and the backend comes back without help.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use kvtier::{
    BackendConfig, BreakerState, Config, Engine, OnLoadError, Operation, StorageManager, Tiers, block_on,
};
use kvtier_servers::proxy::Proxy;
use kvtier_servers::redis::{Commands, Redis, RedisOptions, available, cmd};

use super::{backend, config, get_sized, name_of, needs_redis, put_sized, size, start};
use crate::support::{self, counted, eventually, get, in_tier, key, keys, put, put_in, served};

/// Payload of a chunk that takes many packets.
const LARGE_BYTES: usize = 1 << 20;

/// Builds a chain of Redis and, behind it, a backend that always works.
fn chain(redis: BackendConfig) -> Config {
    config(vec![redis, support::backend("memory", "memory", "MemoryBackend")])
}

fn put_everywhere(storage: &StorageManager, first: u64) -> Vec<kvtier::ChunkKey> {
    let keys: Vec<_> = (first..first + 4).map(key).collect();
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    keys
}

fn breaker(storage: &StorageManager) -> BreakerState {
    let backends = storage.status().backends;
    backends.into_iter().find(|backend| backend.name == "redis").unwrap().reading.state
}

/// Waits until Redis stores and serves.
fn assert_comes_back(engine: &Engine, first: u64) {
    let storage = engine.storage();
    let mut first = first;
    eventually("redis serves again", || {
        let keys = put_everywhere(storage, first);
        first += 4;
        served(&get(storage, &keys)) == [1; 4]
    });
    assert_eq!(breaker(storage), BreakerState::Closed);
}

/// Retrieves until the breaker opens; `memory` serves every time.
fn assert_passed_over(storage: &StorageManager, keys: &[kvtier::ChunkKey]) {
    eventually("the breaker opens", || {
        assert_eq!(served(&get(storage, keys)), vec![2; keys.len()]);
        breaker(storage) == BreakerState::Open
    });
}

#[test]
fn a_server_that_is_down_at_the_start_is_used_when_it_comes() {
    needs_redis!();
    let (mut redis, _) = start();
    redis.kill();
    let config = chain(backend("redis", &[redis.addr()], &[]));
    let engine = support::engine(Config { on_load_error: OnLoadError::Continue, ..config });
    let keys = put_everywhere(engine.storage(), 0);
    assert_eq!(served(&get(engine.storage(), &keys)), [2; 4]);
    let down = support::health(engine.storage(), "redis").down.unwrap_or_default();
    assert!(down.contains(&redis.addr().to_string()) && down.contains("refused"), "{down}");
    redis.restart().unwrap();
    assert_comes_back(&engine, 10);
}

#[test]
fn a_server_that_is_killed_is_passed_over_and_used_again_when_it_is_back() {
    needs_redis!();
    let (mut redis, _) = start();
    let engine = support::engine(chain(backend("redis", &[redis.addr()], &[])));
    let keys = put_everywhere(engine.storage(), 0);
    assert_eq!(served(&get(engine.storage(), &keys)), [1; 4]);
    redis.kill();
    assert_passed_over(engine.storage(), &keys);
    let errors = counted(engine.storage(), "redis").errors;
    assert!(errors.iter().all(|error| error.kind == "unavailable") && !errors.is_empty(), "{errors:?}");
    redis.restart().unwrap();
    assert_comes_back(&engine, 10);
}

#[test]
fn a_server_that_was_restarted_empty_misses_and_its_old_connections_cost_nobody_a_call() {
    needs_redis!();
    let (mut redis, _) = start();
    let engine = support::engine(chain(backend("redis", &[redis.addr()], &[])));
    let keys = put_everywhere(engine.storage(), 0);
    redis.restart().unwrap();
    let plan = support::promise(1, 4);
    let found = block_on(engine.storage().get(&support::specs(&keys), &Tiers::All, Some(&plan)));
    assert_eq!(served(&found), [2; 4]);
    let reasons: Vec<_> = found.misses.iter().map(|missed| missed.miss.reason()).collect();
    assert_eq!(reasons, ["not_found"; 4]);
    let new = put_everywhere(engine.storage(), 10);
    assert_eq!(served(&get(engine.storage(), &new)), [1; 4]);
    assert_eq!(counted(engine.storage(), "redis").errors.len(), 0);
}

#[test]
fn a_server_that_stands_still_costs_a_deadline_and_no_connection_for_ever() {
    needs_redis!();
    let (redis, mut client) = start();
    let mut backend = backend("redis", &[redis.addr()], &[("io_timeout_ms", "300"), ("connections", "2")]);
    backend.limits.call_timeout = Duration::from_millis(200);
    let engine = support::engine(chain(backend));
    let storage = engine.storage();
    // On a busy machine a call may exceed this although nothing is wrong.
    let mut keys = Vec::new();
    eventually("redis has them", || {
        keys = put_everywhere(storage, 4 * keys.len() as u64);
        served(&get(storage, &keys)) == [1; 4]
    });
    redis.pause();
    assert_passed_over(storage, &keys);
    // Its probes find that the connections are stuck, and close them.
    eventually("nothing is left waiting", || {
        assert_eq!(served(&get(storage, &keys)), [2; 4]);
        support::health(storage, "redis").abandoned_calls == 0
            && counted(storage, "redis").errors.iter().any(|error| error.kind == "timeout")
    });
    redis.resume();
    assert_comes_back(&engine, 100);
    assert_eq!(counted(storage, "redis").lane_restarts, 0);
    let clients: String = cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
    assert!(clients.lines().count() <= 3, "{clients}");
}

#[test]
fn a_slow_link_costs_a_deadline_and_serves_again_when_it_is_fast() {
    needs_redis!();
    let (redis, _) = start();
    let proxy = Proxy::start(redis.addr()).unwrap();
    let mut backend = backend("redis", &[proxy.addr()], &[]);
    backend.limits.call_timeout = Duration::from_secs(1);
    let engine = support::engine(chain(backend));
    let storage = engine.storage();
    // On a busy machine a put may exceed this although nothing is wrong.
    eventually("redis has them", || {
        put_sized(storage, &keys(3), LARGE_BYTES);
        get_sized(storage, &keys(3), LARGE_BYTES) == [1; 3]
    });
    // A minute for each of them.
    proxy.slow(20_000);
    assert_eq!(get_sized(storage, &keys(3), LARGE_BYTES), [2; 3]);
    assert!(counted(storage, "redis").n_errors(Operation::Get, "timeout") > 0);
    proxy.pass();
    eventually("redis serves again", || get_sized(storage, &keys(3), LARGE_BYTES) == [1; 3]);
    assert_eq!(counted(storage, "redis").lane_restarts, 0);
}

#[test]
fn a_black_hole_at_the_start_is_an_error_in_time() {
    needs_redis!();
    let (redis, _) = start();
    let proxy = Proxy::start(redis.addr()).unwrap();
    proxy.black_hole();
    let backend = backend("redis", &[proxy.addr()], &[("io_timeout_ms", "200")]);
    let engine = support::engine(Config { on_load_error: OnLoadError::Continue, ..chain(backend) });
    let down = support::health(engine.storage(), "redis").down.unwrap_or_default();
    assert!(down.contains("no answer within 200 ms"), "{down}");
    proxy.pass();
    assert_comes_back(&engine, 0);
}

/// Greets, and answers the first command with a list that never ends.
fn never_ends() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 4096];
            for answer in ["+PONG\r\n", "*1000000\r\n:1\r\n"] {
                if stream.read(&mut bytes).is_ok_and(|n| n > 0) {
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
            kept.push(stream);
        }
    });
    address
}

#[test]
fn a_server_whose_first_answer_never_ends_is_an_error_in_time() {
    for cluster in ["false", "true"] {
        let settings = [("io_timeout_ms", "200"), ("cluster", cluster)];
        let backend = backend("redis", &[never_ends()], &settings);
        assert_eq!(backend.limits.open_timeout, support::FOR_EVER);
        let engine = support::engine(Config { on_load_error: OnLoadError::Continue, ..chain(backend) });
        let down = support::health(engine.storage(), "redis").down.unwrap_or_default();
        assert!(down.contains("no byte moved for too long"), "{down}");
    }
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_value_serves_no_half_of_it() {
    needs_redis!();
    let (redis, _) = start();
    let proxy = Proxy::start(redis.addr()).unwrap();
    let engine = support::engine(chain(backend("redis", &[proxy.addr()], &[("connections", "1")])));
    let storage = engine.storage();
    put_sized(storage, &keys(3), LARGE_BYTES);
    assert_eq!((get_sized(storage, &keys(3), LARGE_BYTES), proxy.n_connections()), (vec![1; 3], 1));
    // In the first value: as after the death of an idle connection, everything is requested again.
    proxy.cut_after(500_000);
    assert_eq!((get_sized(storage, &keys(3), LARGE_BYTES), proxy.n_connections()), (vec![1; 3], 2));
    // In the second: the values before the cut have arrived.
    proxy.cut_after(1_500_000);
    assert_eq!(get_sized(storage, &keys(3), LARGE_BYTES), [1, 2, 2]);
    assert_eq!((get_sized(storage, &keys(3), LARGE_BYTES), proxy.n_connections()), (vec![1; 3], 3));
}

#[test]
fn a_full_server_refuses_and_serves_what_it_has() {
    needs_redis!();
    let memory = Some((8 << 20, "noeviction"));
    let redis = Redis::start(RedisOptions { memory, ..RedisOptions::default() }).unwrap();
    let engine = support::engine(config(vec![backend("redis", &[redis.addr()], &[])]));
    let (storage, keys) = (engine.storage(), keys(20));
    for key in &keys {
        put_sized(storage, &[*key], LARGE_BYTES);
    }
    let n_stored = size(&mut redis.client().unwrap());
    assert!((3..=12).contains(&n_stored), "{n_stored}");
    let counts = counted(storage, "redis");
    assert_eq!(counts.n_errors(Operation::Put, "no_space") as usize, 20 - n_stored, "{counts:?}");
    assert_eq!(in_tier(storage, &keys, "redis"), n_stored);
    assert_eq!(get_sized(storage, &keys[..n_stored], LARGE_BYTES), vec![1; n_stored]);
}

#[test]
fn a_server_that_evicts_misses_what_it_evicted() {
    needs_redis!();
    let memory = Some((8 << 20, "allkeys-lru"));
    let redis = Redis::start(RedisOptions { memory, ..RedisOptions::default() }).unwrap();
    let engine = support::engine(config(vec![backend("redis", &[redis.addr()], &[])]));
    let (storage, keys) = (engine.storage(), keys(20));
    put_sized(storage, &keys, LARGE_BYTES);
    let n_kept = size(&mut redis.client().unwrap());
    assert!(n_kept < 20, "{n_kept}");
    let n_served = keys.iter().filter(|&&key| get_sized(storage, &[key], LARGE_BYTES) == [1]).count();
    assert_eq!((n_served, counted(storage, "redis").errors.len()), (n_kept, 0));
    // Promised but gone: misses.
    let specs: Vec<_> = keys.iter().map(|&key| kvtier::ChunkSpec { key, size_bytes: LARGE_BYTES }).collect();
    let found = block_on(storage.get(&specs[..8], &Tiers::All, Some(&support::promise(1, 8))));
    assert!(found.misses.iter().all(|missed| missed.miss.reason() == "not_found"), "{:?}", found.misses);
}

#[test]
fn a_chunk_that_expires_between_lookup_and_retrieval_is_a_miss() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = support::engine(chain(backend("redis", &[redis.addr()], &[])));
    let storage = engine.storage();
    let keys = put_everywhere(storage, 0);
    let plan = block_on(storage.contains(&keys, &Tiers::All));
    assert_eq!(support::runs(&plan), [(1, 4)]);
    let () = client.pexpire(name_of(&engine, keys[1]), 1).unwrap();
    eventually("it expires", || size(&mut client) == 3);
    let found = block_on(storage.get(&support::specs(&keys), &Tiers::All, Some(&plan)));
    assert_eq!(served(&found), [1, 2, 1, 1]);
    assert_eq!(found.misses[0].miss.reason(), "not_found");
    put_in(storage, &[key(9)], "redis");
}
