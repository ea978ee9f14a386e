//! Requests that share a prefix: a chunk that several want at once is fetched once, and a shared lookup is made once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures::future::join_all;
use kvtier::tier::Pinning;
use kvtier::{ChunkKey, Config, Engine, Lookup, Operation, Retrieved, StorageManager, Tiers, block_on};

use crate::scripted::{Heard, Scripted, Takes, engine_over};
use crate::support::{
    self, assert_nothing_leaks, chunks_in_memory, config, counted, eventually, key, keys, metadata, promise,
    put_in, served, specs,
};

static ALL: Tiers = Tiers::All;

type Running<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Begins an operation. The first poll joins its flights and starts its calls.
fn begin<'a, T>(operation: impl Future<Output = T> + 'a) -> Running<'a, T> {
    let mut operation: Running<'a, T> = Box::pin(operation);
    let mut context = Context::from_waker(Waker::noop());
    assert!(operation.as_mut().poll(&mut context).is_pending(), "held back");
    operation
}

/// Returns a retrieval of chunks that the first tier is expected to have.
async fn retrieve(storage: &StorageManager, keys: &[ChunkKey]) -> Retrieved {
    let plan: Lookup = promise(1, keys.len());
    let retrieved = storage.get(&specs(keys), &Tiers::All, Some(&plan)).await;
    for (chunk, key) in retrieved.chunks.iter().zip(keys) {
        kvtier_cli::content::verify(*key, chunk).unwrap();
    }
    retrieved
}

/// Builds an engine without a hot cache, over tiers that all have `keys`; the first holds gets of them back.
fn engine(tiers: &[(&str, &Arc<Scripted>)], keys: &[ChunkKey]) -> Engine {
    engine_with(Config { local_cpu: false, ..config(vec![]) }, tiers, keys)
}

fn engine_with(config: Config, tiers: &[(&str, &Arc<Scripted>)], keys: &[ChunkKey]) -> Engine {
    let engine = engine_over(config, metadata(), tiers);
    for (name, tier) in tiers {
        put_in(engine.storage(), keys, name);
        tier.heard();
    }
    tiers[0].1.hold_gets(keys);
    engine
}

fn gets(tier: &Scripted) -> Vec<Vec<ChunkKey>> {
    let heard = tier.heard().into_iter();
    heard.filter_map(|heard| if let Heard::Get(keys) = heard { Some(keys) } else { None }).collect()
}

fn misses(found: &Retrieved) -> Vec<(usize, usize, &'static str)> {
    found.misses.iter().map(|missed| (missed.position, missed.tier.0, missed.miss.reason())).collect()
}

#[test]
fn retrievals_of_one_prefix_fetch_it_once_into_one_buffer() {
    let (tier, keys) = (Scripted::new(), keys(4));
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    let running: Vec<_> = (0..8).map(|_| begin(retrieve(storage, &keys))).collect();
    tier.let_gets_go();
    let found = block_on(join_all(running));
    for one in &found {
        assert_eq!((served(one), one.misses.len()), (vec![1; 4], 0));
        for (chunk, first) in one.chunks.iter().zip(&found[0].chunks) {
            assert_eq!(chunk.as_ptr(), first.as_ptr(), "shared by reference");
        }
    }
    assert_eq!(gets(&tier), std::slice::from_ref(&keys));
    assert_eq!(chunks_in_memory(storage), 4);
    let counts = counted(storage, "tier");
    assert_eq!((counts.hits, counts.shared), (4, 7 * 4));
    drop(found);
    assert_nothing_leaks(storage);
}

#[test]
fn a_retrieval_joins_what_is_on_its_way_and_fetches_the_rest_of_its_batch_itself() {
    let (tier, keys) = (Scripted::new(), keys(6));
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    let first = begin(retrieve(storage, &keys[..4]));
    let second = begin(retrieve(storage, &keys));
    tier.wait_for_gets(2);
    tier.let_gets_go();
    let (first, second) = block_on(async { futures::join!(first, second) });
    assert_eq!((served(&first), served(&second)), (vec![1; 4], vec![1; 6]));
    assert_eq!(gets(&tier), [keys[..4].to_vec(), keys[4..].to_vec()]);
}

#[test]
fn what_one_may_not_begin_yet_another_begins() {
    let tier = Scripted::taking(Takes { batch_chunks: 1, calls: 1, ..Takes::default() });
    let keys = keys(3);
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    let running: Vec<_> = (0..3).map(|_| begin(retrieve(storage, &keys))).collect();
    // Each has one call in flight, and all wait for all three.
    tier.wait_for_gets(3);
    tier.let_gets_go();
    let found = block_on(join_all(running));
    assert!(found.iter().all(|one| served(one) == [1; 3]));
    let mut asked = gets(&tier).concat();
    asked.sort();
    assert_eq!(asked, keys);
}

#[test]
fn a_fetch_runs_on_the_control_threads_under_the_limit_of_its_call() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let config = Config { local_cpu: false, blocking_timeout: Duration::from_secs(1), ..config(vec![]) };
    let engine = engine_with(config, &[("tier", &tier)], &keys);
    tier.let_gets_go();
    assert_eq!(served(&block_on(retrieve(engine.storage(), &keys))), [1; 2]);
    let [(thread, given)] = &tier.gets()[..] else { panic!("one call") };
    assert_eq!(thread.as_deref(), Some("kvtier-control"));
    assert!(*given > Duration::from_secs(50), "the call's minute, not the caller's second: {given:?}");
}

#[test]
fn a_caller_waits_until_its_own_deadline_and_the_last_to_leave_abandons_the_fetch() {
    let (first, second, keys) = (Scripted::new(), Scripted::new(), keys(2));
    let config = Config { local_cpu: false, blocking_timeout: Duration::from_secs(1), ..config(vec![]) };
    let engine = engine_with(config, &[("first", &first), ("second", &second)], &keys);
    let storage = engine.storage();
    let found = block_on(join_all([begin(retrieve(storage, &keys)), begin(retrieve(storage, &keys))]));
    for one in &found {
        assert!(one.chunks.is_empty());
        let expected = [(0, 1), (1, 1), (0, 2), (1, 2)].map(|(index, tier)| (index, tier, "timeout"));
        assert_eq!(misses(one), expected);
    }
    let counts = counted(storage, "first");
    assert_eq!((counts.n_errors(Operation::Get, "timeout"), counts.misses["timeout"]), (1, 2), "one failure");
    assert_eq!(storage.status().backends[0].reading.failures, 1);
    eventually("the call has ended", || first.gets_inside() == 0);
    assert_nothing_leaks(storage);
}

#[test]
fn a_caller_that_gives_up_cancels_nothing_for_the_others() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    let first = begin(retrieve(storage, &keys));
    let second = begin(retrieve(storage, &keys));
    tier.wait_for_gets(1);
    drop(first);
    // A retrieval that comes now joins the flight that the first one has left.
    let third = begin(retrieve(storage, &keys));
    tier.let_gets_go();
    let (second, third) = block_on(async { futures::join!(second, third) });
    assert_eq!((served(&second), served(&third)), (vec![1; 2], vec![1; 2]));
    assert_eq!(gets(&tier).len(), 1);
    drop((second, third));
    assert_nothing_leaks(storage);
}

#[test]
fn a_fetch_that_nobody_waits_for_is_abandoned_and_the_next_asks_anew() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    let running = [begin(retrieve(storage, &keys)), begin(retrieve(storage, &keys[..1]))];
    tier.wait_for_gets(1);
    drop(running);
    eventually("the call has ended", || tier.gets_inside() == 0);
    assert_nothing_leaks(storage);
    assert_eq!(storage.status().backends[0].reading.failures, 0, "callers that leave do not count");
    tier.let_gets_go();
    assert_eq!(served(&block_on(retrieve(storage, &keys))), [1; 2]);
    assert_eq!(gets(&tier).len(), 2);
}

#[test]
fn a_failure_is_one_miss_for_all_and_the_next_tier_is_asked_once_for_all() {
    let (first, second, keys) = (Scripted::new(), Scripted::new(), keys(3));
    let engine = engine(&[("first", &first), ("second", &second)], &keys);
    let storage = engine.storage();
    for key in &keys {
        first.spoil(*key);
    }
    let mut running: Vec<_> = (0..4).map(|_| begin(retrieve(storage, &keys))).collect();
    first.let_gets_go();
    // The others reach the second tier when the first already has its answer from there and has left.
    let last = running.split_off(1);
    let found = block_on(running.remove(0));
    let pointers: Vec<_> = found.chunks.iter().map(|chunk| chunk.as_ptr()).collect();
    drop(running);
    let mut all = vec![found];
    all.extend(block_on(join_all(last)));
    for one in &all {
        assert_eq!(served(one), [2; 3]);
        assert_eq!(misses(one), [(0, 1, "other"), (1, 1, "other"), (2, 1, "other")]);
        assert_eq!(one.chunks.iter().map(|chunk| chunk.as_ptr()).collect::<Vec<_>>(), pointers);
    }
    assert_eq!((gets(&first).len(), gets(&second).len()), (1, 1));
    assert_eq!(counted(storage, "first").misses["other"], 3, "counted once");
    assert_eq!(storage.status().backends[0].reading.failures, 1);
    drop(all);
    assert_nothing_leaks(storage);
}

#[test]
fn what_was_begun_before_a_removal_or_a_clear_returned_is_not_for_those_who_come_after() {
    for (removes, n_after) in [(true, 0), (false, 2)] {
        let (tier, keys) = (Scripted::new(), keys(2));
        let engine = engine(&[("tier", &tier)], &keys);
        let storage = engine.storage();
        let before = begin(retrieve(storage, &keys));
        tier.wait_for_gets(1);
        if removes {
            block_on(storage.remove(&keys, &ALL)).unwrap();
        } else {
            block_on(storage.clear(&ALL));
        }
        let after = begin(retrieve(storage, &keys));
        tier.wait_for_gets(1);
        tier.let_gets_go();
        let (before, after) = block_on(async { futures::join!(before, after) });
        assert_eq!(gets(&tier).len(), 2);
        assert_eq!((before.chunks.len(), after.chunks.len()), (n_after, n_after));
        drop((before, after));
        assert_nothing_leaks(storage);
    }
}

#[test]
fn a_chunk_that_was_stored_meanwhile_is_not_missed_by_those_who_come_after() {
    let tier = Scripted::new();
    let (engine, keys) = (engine(&[("tier", &tier)], &[]), keys(1));
    let storage = engine.storage();
    tier.hold_gets(&keys);
    let before = begin(retrieve(storage, &keys));
    tier.wait_for_gets(1);
    put_in(storage, &keys, "tier");
    let after = begin(retrieve(storage, &keys));
    tier.wait_for_gets(1);
    tier.let_gets_go();
    let (_, after) = block_on(async { futures::join!(before, after) });
    assert_eq!(served(&after), [1]);
}

#[test]
fn what_has_landed_is_shared_as_long_as_its_retrieval_lasts() {
    let tier = Scripted::taking(Takes { batch_chunks: 1, ..Takes::default() });
    let keys = keys(2);
    let engine = engine(&[("tier", &tier)], &[]);
    let storage = engine.storage();
    put_in(storage, &keys, "tier");
    tier.hold_gets(&keys[1..]);
    let first = begin(retrieve(storage, &keys));
    tier.wait_for_gets(2);
    eventually("the first chunk has landed", || counted(storage, "tier").hits == 1);
    let second = block_on(retrieve(storage, &keys[..1]));
    assert_eq!((served(&second), counted(storage, "tier").shared), (vec![1], 1));
    tier.let_gets_go();
    let first = block_on(first);
    assert_eq!(first.chunks[0].as_ptr(), second.chunks[0].as_ptr());
    assert_eq!(gets(&tier).len(), 2);
}

#[test]
fn a_caller_that_waits_for_memory_in_vain_ends_alone() {
    let (tier, other, keys) = (Scripted::new(), Scripted::gated(64), keys(2));
    let config = Config { local_cpu: false, pool_size_bytes: 8 * 4096, ..config(vec![]) };
    let engine = engine_over(config, metadata(), &[("tier", &tier), ("other", &other)]);
    let storage = engine.storage();
    put_in(storage, &keys, "tier");
    tier.heard();
    // The program holds all memory; a put that hangs also holds one chunk of it.
    let spent: Vec<_> = (100..108).map(key).collect();
    let mut allocation = block_on(storage.allocate(&specs(&spent[..1]))).unwrap();
    allocation.missing().for_each(|missing| kvtier_cli::content::fill(missing.key, missing.bytes));
    let held = block_on(storage.allocate(&specs(&spent[1..]))).unwrap();
    block_on(storage.put(allocation, &Tiers::only(["other"])));
    other.wait_for_puts(1);
    assert_eq!(chunks_in_memory(storage), 8);

    let first = begin(retrieve(storage, &keys[..1]));
    let second = begin(retrieve(storage, &keys[..1]));
    assert!(gets(&tier).is_empty(), "the first has claimed it and has no memory");
    drop(first);
    other.open_gate();
    let second = block_on(second);
    assert_eq!((served(&second), misses(&second)), (vec![1], vec![]));
    drop(second);

    // Nothing in flight would release memory.
    let more = block_on(storage.allocate(&specs(&spent[..1]))).unwrap();
    let found = block_on(retrieve(storage, &keys));
    assert_eq!((found.chunks.len(), misses(&found)[0]), (0, (0, 1, "no_memory")));
    drop((held, more, found));
    assert_eq!(served(&block_on(retrieve(storage, &keys))), [1; 2]);
    assert_nothing_leaks(storage);
}

#[test]
fn unpinned_lookups_are_shared_with_equal_ones_and_with_those_of_which_they_are_the_beginning() {
    let (tier, keys) = (Scripted::new(), keys(4));
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    tier.hold_lookups();
    let all = begin(storage.contains(&keys, &ALL));
    let same = begin(storage.contains(&keys, &ALL));
    let beginning = begin(storage.contains(&keys[..2], &ALL));
    assert_eq!(tier.heard(), [Heard::Contains(keys.clone(), Pinning::None)]);
    let other = begin(storage.contains(&keys[1..], &ALL));
    let five = support::keys(5);
    let longer = begin(storage.contains(&five, &ALL));
    assert_eq!(tier.heard().len(), 2, "neither answers these");
    // The first caller may leave.
    drop(all);
    tier.let_gets_go();
    let found = block_on(join_all([same, beginning, other, longer]));
    assert_eq!(found.iter().map(|lookup| lookup.n_chunks).collect::<Vec<_>>(), [4, 2, 3, 4]);
}

#[test]
fn lookups_that_pin_or_began_before_something_changed_are_not_shared() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let engine = engine(&[("tier", &tier)], &keys[..1]);
    let storage = engine.storage();
    tier.hold_lookups();
    let pinned = ["a", "b"].map(|id| begin(storage.contains_pinned(&keys[..1], &ALL, id)));
    let before = begin(storage.contains(&keys, &ALL));
    assert_eq!(tier.heard().len(), 3);
    put_in(storage, &keys[1..], "tier");
    let stored = begin(storage.contains(&keys, &ALL));
    block_on(storage.remove(&[key(50)], &Tiers::All)).unwrap();
    let removed = begin(storage.contains(&keys, &ALL));
    let n_lookups = tier.heard().iter().filter(|heard| matches!(heard, Heard::Contains(..))).count();
    assert_eq!(n_lookups, 2);
    tier.let_gets_go();
    for lookup in block_on(join_all([stored, removed])) {
        assert_eq!(lookup.n_chunks, 2);
    }
    block_on(async { futures::join!(join_all(pinned), before) });
    assert_eq!(storage.status().backends[0].pinned_keys, 1);
}

#[test]
fn a_lookup_that_nobody_waits_for_is_abandoned() {
    let (tier, keys) = (Scripted::new(), keys(2));
    let engine = engine(&[("tier", &tier)], &keys);
    let storage = engine.storage();
    tier.hold_lookups();
    drop([begin(storage.contains(&keys, &ALL)), begin(storage.contains(&keys, &ALL))]);
    let again = begin(storage.contains(&keys, &ALL));
    assert_eq!(tier.heard().len(), 2);
    tier.let_gets_go();
    assert_eq!(block_on(again).n_chunks, 2);
    assert_eq!(storage.status().backends[0].reading.failures, 0);
}
