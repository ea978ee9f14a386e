//! A cluster: keys on all nodes, keys that move, nodes that die.

use kvtier::{ChunkKey, Config, Engine, Operation, Tiers, block_on};
use kvtier_servers::redis::{Connection, RedisCluster, available, cmd};

use super::{backend, config, granted, name_of, needs_redis, size};
use crate::support::{self, counted, eventually, get, in_tier, keys, put, put_in, served};

fn engine(cluster: &RedisCluster) -> Engine {
    support::engine(config(vec![backend("redis", &cluster.addrs()[..1], &[("cluster", "true")])]))
}

fn slot_of(client: &mut Connection, name: &str) -> u16 {
    cmd("CLUSTER").arg("KEYSLOT").arg(name).query(client).unwrap()
}

/// Returns a key of the first node.
fn key_of_first(engine: &Engine, client: &mut Connection, keys: &[ChunkKey]) -> (ChunkKey, u16) {
    let of_first = keys.iter().find_map(|&key| {
        let slot = slot_of(client, &name_of(engine, key));
        (slot < 16_384 / 3).then_some((key, slot))
    });
    of_first.unwrap()
}

fn set_slot(client: &mut Connection, slot: u16, words: &[&str]) {
    let () = cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(words).query(client).unwrap();
}

#[test]
fn keys_are_spread_over_all_nodes_and_come_back_in_order() {
    needs_redis!();
    let cluster = RedisCluster::start(3, 0).unwrap();
    let engine = engine(&cluster);
    let (storage, keys) = (engine.storage(), keys(60));
    put_in(storage, &keys, "redis");
    let sizes: Vec<_> = (0..3).map(|node| size(&mut cluster.client(node).unwrap())).collect();
    assert!(sizes.iter().all(|&size| size > 5) && sizes.iter().sum::<usize>() == 60, "{sizes:?}");
    assert_eq!(in_tier(storage, &keys, "redis"), 60);
    assert_eq!(served(&get(storage, &keys)), vec![1; 60]);
    assert_eq!(block_on(storage.remove(&keys[..30], &Tiers::only(["redis"]))), Ok(30));
    assert_eq!(in_tier(storage, &keys[30..], "redis"), 30);
    assert_eq!(counted(storage, "redis").errors.len(), 0);
}

#[test]
fn presence_is_reported_for_each_key() {
    needs_redis!();
    let cluster = RedisCluster::start(3, 0).unwrap();
    crate::single::check_presence_key_by_key(backend("redis", &cluster.addrs()[..1], &[("cluster", "true")]));
}

#[test]
fn a_key_is_followed_while_its_slot_moves_and_after() {
    needs_redis!();
    let cluster = RedisCluster::start(3, 0).unwrap();
    let engine = engine(&cluster);
    let (storage, keys) = (engine.storage(), keys(30));
    put_in(storage, &keys, "redis");
    let (mut from, mut to) = (cluster.client(0).unwrap(), cluster.client(1).unwrap());
    let (key, slot) = key_of_first(&engine, &mut from, &keys);
    let [from_id, to_id] = [0, 1].map(|node| cluster.node_id(node).unwrap());
    set_slot(&mut to, slot, &["IMPORTING", &from_id]);
    set_slot(&mut from, slot, &["MIGRATING", &to_id]);
    let name = name_of(&engine, key);
    let port = cluster.addrs()[1].port();
    let () = cmd("MIGRATE").arg("127.0.0.1").arg(port).arg(&name).arg(0).arg(5_000).query(&mut from).unwrap();
    // The old node has the slot, the new one the key: `ASK`.
    assert_eq!(served(&get(storage, &[key])), [1]);
    assert_eq!(in_tier(storage, &keys, "redis"), 30);
    // A key that neither node has goes to the new node.
    assert_eq!(block_on(storage.remove(&[key], &Tiers::only(["redis"]))), Ok(1));
    put_in(storage, &[key], "redis");
    assert_eq!(served(&get(storage, &keys)), vec![1; 30]);
    // The new node has the slot: `MOVED`.
    for node in [1, 0, 2] {
        set_slot(&mut cluster.client(node).unwrap(), slot, &["NODE", &to_id]);
    }
    assert_eq!(served(&get(storage, &keys)), vec![1; 30]);
    assert_eq!(counted(storage, "redis").errors.len(), 0);
}

#[test]
fn a_cluster_without_config_cluster_is_named() {
    needs_redis!();
    let cluster = RedisCluster::start(3, 0).unwrap();
    // At most one of these nodes has the key that the start looks up.
    let addrs = cluster.addrs();
    let refused = addrs.iter().filter(|&&addr| {
        let engine =
            kvtier::EngineBuilder::new(config(vec![backend("redis", &[addr], &[])]), support::metadata());
        engine.build_blocking().is_err_and(|error| error.to_string().contains("config.cluster"))
    });
    assert_eq!(refused.count(), 2);
}

#[test]
fn a_node_that_is_not_granted_is_named_and_the_others_serve() {
    needs_redis!();
    let cluster = RedisCluster::start(3, 0).unwrap();
    let mut redis = backend("redis", &cluster.addrs(), &[("cluster", "true")]);
    let denied = cluster.addrs()[0];
    redis.allow.net = cluster.addrs()[1..].iter().map(|addr| granted(addr.port())).collect();
    redis.breaker.failures = 0;
    let engine = support::engine(config(vec![redis]));
    let (storage, keys) = (engine.storage(), keys(60));
    for key in &keys {
        put_in(storage, &[*key], "redis");
    }
    let told = support::health(storage, "redis").last_denial.unwrap_or_default();
    assert!(told.contains(&denied.to_string()) && told.contains("allow.net"), "{told}");
    let sizes = [0, 1, 2].map(|node| size(&mut cluster.client(node).unwrap()));
    assert!(sizes[0] == 0 && sizes[1] > 2 && sizes[2] > 2, "{sizes:?}");
    let n_refused = counted(storage, "redis").n_errors(Operation::Put, "unavailable") as usize;
    assert_eq!(n_refused, 60 - sizes[1] - sizes[2]);
    let of_others = keys.iter().filter(|&&key| served(&get(storage, &[key])) == [1]);
    assert_eq!(of_others.count(), 60 - n_refused);
}

#[test]
fn a_replica_takes_over_under_load_and_nothing_wrong_is_served() {
    needs_redis!();
    let mut cluster = RedisCluster::start(3, 1).unwrap();
    let settings = [("cluster", "true"), ("reconnect_pause_max_ms", "100")];
    let redis = backend("redis", &cluster.addrs()[..1], &settings);
    let memory = support::backend("memory", "memory", "MemoryBackend");
    let engine = support::engine(Config { local_cpu: false, ..config(vec![redis, memory]) });
    let (storage, keys) = (engine.storage(), keys(24));
    put(storage, &keys, &Tiers::All);
    block_on(storage.flush()).unwrap();
    assert_eq!(served(&get(storage, &keys)), vec![1; 24]);
    // Not only the seed, but also the node from which it learned the others.
    cluster.kill_node(0);
    let mut n_from_memory = 0;
    eventually("the replica serves all keys of its master", || {
        let found = get(storage, &keys);
        // Every byte has been compared, and whatever Redis does, all chunks are served.
        assert_eq!(found.chunks.len(), 24, "{:?}", found.misses);
        let of_redis = served(&found).iter().filter(|&&tier| tier == 1).count();
        n_from_memory += 24 - of_redis;
        of_redis >= 20
    });
    cluster.wait_until_whole(1).unwrap();
    assert!(n_from_memory > 0, "a third of the keys had no node for a while");
    let new: Vec<_> = (100..124).map(support::key).collect();
    eventually("everything is stored again", || {
        put_in(storage, &new, "redis");
        in_tier(storage, &new, "redis") == new.len()
    });
}
