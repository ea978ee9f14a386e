//! The connection that small commands of all calls share: a call's failure does not affect the others.

use std::time::Duration;

use futures::future::{Either, join_all, select};
use kvtier::{ChunkKey, ChunkSpec, StorageManager, Tiers, block_on};
use kvtier_servers::proxy::Proxy;
use kvtier_servers::redis::{Commands, Connection, available, cmd};

use super::{backend, engine, name_of, needs_redis, put_sized, start};
use crate::support::{self, counted, eventually, get, in_tier, key, keys, put_in, served};

fn n_clients(client: &mut Connection) -> usize {
    let clients: String = cmd("CLIENT").arg("LIST").query(client).unwrap();
    clients.lines().count()
}

/// Looks each key up in a separate call, all at once.
fn contains_each(storage: &StorageManager, keys: &[ChunkKey]) -> Vec<usize> {
    let tiers = Tiers::only(["redis"]);
    let lookups = keys.iter().map(|key| storage.contains(std::slice::from_ref(key), &tiers));
    block_on(join_all(lookups)).iter().map(|lookup| lookup.n_chunks).collect()
}

#[test]
fn small_calls_of_all_kinds_share_one_connection_and_each_gets_its_own_answer() {
    needs_redis!();
    let (redis, mut client) = start();
    let proxy = Proxy::start(redis.addr()).unwrap();
    let engine = engine(backend("redis", &[proxy.addr()], &[]));
    let (storage, keys) = (engine.storage(), keys(256));
    for keys in keys.chunks(32) {
        put_in(storage, keys, "redis");
    }
    for key in keys.iter().step_by(3) {
        let () = client.del(name_of(&engine, *key)).unwrap();
    }
    let is_there = |n: usize| !n.is_multiple_of(3);
    for _ in 0..4 {
        let expected: Vec<_> = (0..256).map(|n| usize::from(is_there(n))).collect();
        assert_eq!(contains_each(storage, &keys), expected);
        let specs = support::specs(&keys);
        let gets = specs.iter().map(|spec| storage.get(std::slice::from_ref(spec), &Tiers::All, None));
        for (n, found) in block_on(join_all(gets)).iter().enumerate() {
            assert_eq!(found.chunks.len(), usize::from(is_there(n)), "{n}: {:?}", found.misses);
            found.chunks.iter().for_each(|chunk| kvtier_cli::content::verify(keys[n], chunk).unwrap());
        }
    }
    assert_eq!(proxy.n_connections(), 1);
    assert_eq!(counted(storage, "redis").errors.len(), 0);
}

#[test]
fn calls_in_flight_write_together() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    let (storage, keys) = (engine.storage(), keys(64));
    put_in(storage, &keys, "redis");
    let mut stat = |name: &str| {
        let info: String = cmd("INFO").arg("stats").query(&mut client).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let (commands, reads) = (stat("total_commands_processed"), stat("total_reads_processed"));
    for _ in 0..20 {
        assert_eq!(contains_each(storage, &keys), [1; 64]);
    }
    let commands = stat("total_commands_processed") - commands;
    let reads = stat("total_reads_processed") - reads;
    assert!(commands >= 20 * 64 && reads * 2 < commands, "{commands} commands in {reads} reads");
}

#[test]
fn a_call_whose_deadline_has_passed_leaves_its_reply_to_nobody_else() {
    needs_redis!();
    let (redis, _client) = start();
    let proxy = Proxy::start(redis.addr()).unwrap();
    let mut backend = backend("redis", &[proxy.addr()], &[]);
    backend.breaker.failures = 0;
    let engine = engine(backend.clone());
    let (storage, keys) = (engine.storage(), keys(16));
    put_in(storage, &keys, "redis");
    // The same chunks for calls that end soon.
    backend.limits.call_timeout = Duration::from_millis(50);
    let hasty = support::engine(super::config(vec![backend]));
    let hasty = hasty.storage();
    let n_connections = proxy.n_connections();
    for round in 0..3 {
        redis.pause();
        let specs = support::specs(&keys);
        let plan = support::promise(1, 1);
        let gets = specs.iter().map(|spec| hasty.get(std::slice::from_ref(spec), &Tiers::All, Some(&plan)));
        for found in block_on(join_all(gets)) {
            assert_eq!((found.chunks.len(), found.misses[0].miss.reason()), (0, "timeout"));
        }
        redis.resume();
        eventually("the replies of expired calls have been read", || {
            support::health(hasty, "redis").abandoned_calls == 0
        });
        // In a different order, so that the reply to another call would be a different chunk.
        eventually("it serves in time again", || {
            served(&get(hasty, &keys.iter().rev().copied().collect::<Vec<_>>())) == [1; 16]
        });
        assert_eq!(proxy.n_connections(), n_connections, "round {round}");
    }
    assert_eq!(counted(hasty, "redis").lane_restarts, 0);
}

#[test]
fn a_value_that_is_not_worth_reading_costs_its_neighbours_nothing() {
    needs_redis!();
    let (redis, mut client) = start();
    let engine = engine(backend("redis", &[redis.addr()], &[]));
    let (storage, keys) = (engine.storage(), keys(32));
    put_in(storage, &keys, "redis");
    let () = client.set(name_of(&engine, keys[9]), vec![7_u8; 64 << 20]).unwrap();
    for _ in 0..3 {
        let specs = support::specs(&keys);
        let gets = specs.iter().map(|spec| storage.get(std::slice::from_ref(spec), &Tiers::All, None));
        for (n, found) in block_on(join_all(gets)).iter().enumerate() {
            if n == 9 {
                assert_eq!((found.chunks.len(), found.misses[0].miss.reason()), (0, "larger_than_buffer"));
            } else {
                assert_eq!(served(found), [1], "{n}: {:?}", found.misses);
            }
        }
        // Also in one call.
        let found = get(storage, &keys);
        assert_eq!(found.misses.len(), 1, "{:?}", found.misses);
    }
}

#[test]
fn a_large_value_on_its_way_holds_up_no_small_command() {
    needs_redis!();
    let (redis, mut client) = start();
    let proxy = Proxy::start(redis.addr()).unwrap();
    let mut backend = backend("redis", &[proxy.addr()], &[("io_timeout_ms", "60000")]);
    backend.limits.call_timeout = Duration::from_mins(10);
    let engine = engine(backend);
    let (storage, large) = (engine.storage(), ChunkSpec { key: key(0), size_bytes: 8 << 20 });
    put_sized(storage, &[large.key], large.size_bytes);
    put_in(storage, &[key(1)], "redis");
    // Half an hour for the value, and little time for small commands.
    proxy.slow(5_000);
    let tiers = Tiers::only(["redis"]);
    let (wanted, small) = ([large], [key(1)]);
    let plan = support::promise(1, 1);
    let getting = Box::pin(storage.get(&wanted, &tiers, Some(&plan)));
    let looking = Box::pin(storage.contains(&small, &tiers));
    let Either::Right((found, getting)) = block_on(select(getting, looking)) else {
        panic!("a value of 8 MiB was faster than a lookup")
    };
    assert_eq!(found.n_chunks, 1);
    assert_eq!(in_tier(storage, &[key(1)], "redis"), 1);
    assert_eq!(n_clients(&mut client), 3, "the value's, the shared one, and ours");
    proxy.pass();
    assert_eq!(served(&block_on(getting)), [1]);
}
