//! The put queues: which puts wait, which are dropped, and how a removal affects both.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvtier::{ChunkKey, Config, Engine, Operation, Tiers, block_on};

use crate::scripted::{Heard, Scripted, engine_over};
use crate::support::{
    CHUNK_BYTES, EXPIRES, config, counted, counts_at, engine, get, in_tier, keys, metadata, misbehaving, put,
    put_in, served, specs,
};

/// An engine over one scripted tier whose puts wait.
fn gated(config: Config, batch_chunks_max: usize) -> (Engine, Arc<Scripted>) {
    let tier = Scripted::gated(batch_chunks_max);
    (engine_over(config, metadata(), &[("gated", &tier)]), tier)
}

fn dropping(pool_chunks: u64) -> Config {
    let on_full = kvtier::OnFull::Drop;
    Config { pool_size_bytes: pool_chunks * 4096, on_full, ..config(vec![]) }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn puts_in_flight_hold_a_quarter_of_the_pool_at_most_and_the_rest_is_dropped_and_counted() {
    let (engine, tier) = gated(dropping(64), 64);
    let (storage, keys) = (engine.storage(), keys(20));
    let stored = put(storage, &keys, &Tiers::All);
    assert_eq!(stored.n_new, 20, "the CPU tier has them all, and does not wait");
    assert_eq!((stored.backends[0].n_queued, stored.backends[0].n_dropped), (16, 4));
    let status = &storage.status().backends[0];
    assert_eq!((status.puts_pending, status.put_bytes_pending), (16, 16 * 4096));
    assert_eq!(counts_at(storage, 1).drops["queue_full"], 4);
    assert_eq!(served(&get(storage, &keys)), [0; 20]);
    tier.open_gate();
    block_on(storage.flush()).unwrap();
    assert_eq!(tier.put_keys(), keys[..16]);
    assert_eq!(storage.status().backends[0].put_bytes_pending, 0);
}

#[test]
fn one_chunk_is_always_allowed_in_flight() {
    let (engine, tier) = gated(dropping(2), 64);
    let (storage, keys) = (engine.storage(), keys(2));
    let stored = put(storage, &keys, &Tiers::All);
    assert_eq!((stored.backends[0].n_queued, stored.backends[0].n_dropped), (1, 1));
    tier.open_gate();
    block_on(storage.flush()).unwrap();
    assert!(tier.has(keys[0]) && !tier.has(keys[1]));
}

#[test]
fn a_put_into_a_full_queue_waits_for_room_if_it_is_told_to() {
    let (engine, tier) = gated(config(vec![]), 64);
    let (storage, keys) = (engine.storage(), keys(40));
    let allocation = block_on(storage.allocate(&specs(&keys))).unwrap();
    let mut storing = pin!(storage.put(allocation, &Tiers::All));
    assert!(poll_once(storing.as_mut()).is_pending());
    // The CPU tier had them before the wait began.
    assert_eq!(in_tier(storage, &keys, "cpu"), 40);
    assert_eq!(storage.status().backends[0].puts_pending, 16);
    tier.open_gate();
    let stored = block_on(storing);
    assert_eq!((stored.backends[0].n_queued, stored.backends[0].n_dropped), (40, 0));
    block_on(storage.flush()).unwrap();
    assert_eq!(tier.put_keys(), keys);
    assert!(counts_at(storage, 1).drops.is_empty());
}

#[test]
fn a_put_that_waits_for_room_waits_until_its_deadline() {
    let mut hung = misbehaving("waits_in_vain", "HangBackend", &[("in", "put")]);
    hung.limits.call_timeout = Duration::from_hours(1);
    let mut config = config(vec![hung]);
    config.pool_size_bytes = 8 * 4096;
    config.blocking_timeout = EXPIRES;
    let engine = engine(config);
    let (storage, keys) = (engine.storage(), keys(4));
    let stored = put(storage, &keys, &Tiers::All);
    assert_eq!(stored.n_new, 4);
    assert_eq!((stored.backends[0].n_queued, stored.backends[0].n_dropped), (2, 2));
    assert_eq!(counts_at(storage, 1).drops["queue_full"], 2);
    let error = block_on(storage.flush()).unwrap_err();
    let pending: Vec<_> = error.pending.iter().map(|puts| (puts.backend.as_str(), puts.n_chunks)).collect();
    assert_eq!(pending, [("waits_in_vain", 2)]);
}

#[test]
fn a_put_of_a_key_in_flight_keeps_the_bytes_of_the_first() {
    let (engine, tier) = gated(config(vec![]), 1);
    let (storage, keys) = (engine.storage(), keys(6));
    put(storage, &keys, &Tiers::only(["gated"]));
    // Four are at the gate, two are queued.
    tier.wait_for_puts(4);
    let mut allocation = block_on(storage.allocate(&specs(&keys))).unwrap();
    allocation.missing().for_each(|missing| missing.bytes.fill(0xee));
    let stored = block_on(storage.put(allocation, &Tiers::only(["gated"])));
    assert_eq!((stored.backends[0].n_queued, stored.backends[0].n_dropped), (6, 0));
    assert_eq!(storage.status().backends[0].puts_pending, 6);
    tier.open_gate();
    block_on(storage.flush()).unwrap();
    assert_eq!(tier.put_keys(), keys, "each once");
    for key in keys {
        kvtier_cli::content::verify(key, &tier.payload(key, CHUNK_BYTES)).unwrap();
    }
}

#[test]
fn a_removal_cancels_queued_puts_and_takes_effect_after_those_in_flight() {
    let (engine, tier) = gated(config(vec![]), 1);
    let (storage, keys) = (engine.storage(), keys(7));
    put(storage, &keys, &Tiers::All);
    tier.wait_for_puts(4);
    // Puts in flight and in the queue; the last stays.
    let mut removing = pin!(storage.remove(&keys[..6], &Tiers::All));
    assert!(poll_once(removing.as_mut()).is_pending());
    assert_eq!(storage.status().backends[0].puts_pending, 5);
    tier.open_gate();
    assert_eq!(block_on(removing), Ok(6 + 4), "from the CPU tier, and those that were in flight");
    block_on(storage.flush()).unwrap();
    assert_eq!(
        keys.iter().map(|key| tier.has(*key)).collect::<Vec<_>>(),
        [[false; 6].as_slice(), &[true]].concat()
    );
    assert_eq!(counts_at(storage, 1).drops["removed"], 2);
    let heard = tier.heard();
    let is_put = |key| heard.contains(&Heard::Put(vec![key]));
    assert!(!is_put(keys[4]) && !is_put(keys[5]) && is_put(keys[6]), "{heard:?}");
    assert!(get(storage, &keys[..6]).chunks.is_empty());
}

#[test]
fn clear_cancels_queued_puts() {
    let (engine, tier) = gated(config(vec![]), 1);
    let (storage, keys) = (engine.storage(), keys(7));
    put(storage, &keys, &Tiers::All);
    tier.wait_for_puts(4);
    let mut clearing = pin!(storage.clear(&Tiers::All));
    assert!(poll_once(clearing.as_mut()).is_pending());
    tier.open_gate();
    let report = block_on(clearing);
    assert_eq!((report.cpu.chunks, report.puts_cancelled), (7, 3));
    assert_eq!(tier.put_keys().len(), 4);
}

/// Builds an engine whose tier `a` has been asked to remove a damaged chunk, and holds that back.
fn removing_a_damaged_chunk() -> (Engine, Arc<Scripted>, Vec<ChunkKey>) {
    let tier = Scripted::new();
    let config = Config { local_cpu: false, ..config(vec![]) };
    let engine = engine_over(config, metadata(), &[("a", &tier)]);
    let (storage, keys) = (engine.storage(), keys(1));
    put_in(storage, &keys, "a");
    tier.damage(keys[0]);
    tier.hold_removals(&keys);
    assert_eq!(served(&get(storage, &keys)), [] as [usize; 0], "the damage is noticed");
    (engine, tier, keys)
}

#[test]
fn a_put_waits_for_the_removal_of_damaged_chunks_and_is_not_undone_by_it() {
    let (engine, tier, keys) = removing_a_damaged_chunk();
    let storage = engine.storage();
    tier.heard();

    put(storage, &keys, &Tiers::only(["a"]));
    // A put that does not wait has nearly always arrived by now; a put that waits comes after the removal.
    (0..10_000).for_each(|_| std::thread::yield_now());
    tier.let_gets_go();
    block_on(storage.flush()).unwrap();
    assert!(tier.has(keys[0]), "the backend confirmed the chunk");
    let heard = tier.heard();
    assert_eq!(heard.last(), Some(&Heard::Put(keys.clone())), "{heard:?}");
    assert_eq!(served(&get(storage, &keys)), [1]);
}

#[test]
fn a_removal_of_damaged_chunks_that_fails_is_counted_and_puts_go_on() {
    let (engine, tier, keys) = removing_a_damaged_chunk();
    let storage = engine.storage();
    // The removal never returns, and ends after the time limit of one call.
    put_in(storage, &keys, "a");
    let counts = counted(storage, "a");
    assert_eq!(counts.n_errors(Operation::Remove, "timeout"), 1);
    assert!(counts.latency.iter().any(|calls| calls.operation == Operation::Remove));
    assert_eq!(tier.heard().last(), Some(&Heard::Put(keys.clone())));
}
