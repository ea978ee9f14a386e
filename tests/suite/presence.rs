//! Presence of each key by itself, across the chain and behind gaps.

use kvtier::{ChunkKey, Tiers, block_on};
use kvtier_tests::support::{self, config, engine, key, keys, metadata, put, put_in};

use crate::scripted::{Heard, Scripted, engine_over};

/// Most lookups with which the chain asks a backend that does not have `present`.
const CALLS_MAX: usize = 64;

#[test]
fn each_key_is_found_wherever_it_is_also_behind_gaps() {
    // The first class has `present`, the second one is asked by lookups.
    for (component, class_name) in [("memory", "MemoryBackend"), ("plain", "AlphaBackend")] {
        let first = support::backend("first", component, class_name);
        let engine = engine(config(vec![first, support::backend("second", "memory", "MemoryBackend")]));
        let storage = engine.storage();
        put(storage, &[key(0), key(3)], &Tiers::only(["cpu"]));
        put_in(storage, &[key(1), key(5)], "first");
        put_in(storage, &[key(5), key(6)], "second");
        let asked: Vec<ChunkKey> = [0, 1, 2, 3, 4, 5, 6, 7, 5].map(key).to_vec();
        let present = |tiers: &Tiers| block_on(storage.contains_each(&asked, tiers));
        let found_at = |places: &[usize]| (0..asked.len()).map(|n| places.contains(&n)).collect::<Vec<_>>();
        assert_eq!(present(&Tiers::All), found_at(&[0, 1, 3, 5, 6, 8]), "{class_name}");
        assert_eq!(present(&Tiers::only(["cpu"])), found_at(&[0, 3]), "{class_name}");
        assert_eq!(present(&Tiers::only(["first"])), found_at(&[1, 5, 8]), "{class_name}");
        assert_eq!(present(&Tiers::only(["second", "cpu"])), found_at(&[0, 3, 5, 6, 8]), "{class_name}");
        assert!(block_on(storage.contains_each(&[], &Tiers::All)).is_empty());
        // An answer to a lookup ends at the first gap.
        assert_eq!(block_on(storage.contains(&asked, &Tiers::All)).n_chunks, 2);
    }
}

#[test]
fn a_backend_without_the_method_is_asked_behind_each_gap_up_to_a_bound() {
    let tier = Scripted::new();
    let engine = engine_over(config(vec![]), metadata(), &[("scripted", &tier)]);
    let storage = engine.storage();
    let all = keys(300);
    let every_other: Vec<ChunkKey> = all.iter().step_by(2).copied().collect();
    put_in(storage, &every_other, "scripted");
    let present = block_on(storage.contains_each(&all, &Tiers::only(["scripted"])));
    let n_asked = tier.heard().iter().filter(|heard| matches!(heard, Heard::Contains(..))).count();
    assert_eq!(n_asked, CALLS_MAX);
    // Each lookup finds one key and ends at the next.
    let expected: Vec<bool> = (0..all.len()).map(|n| n % 2 == 0 && n < 2 * CALLS_MAX).collect();
    assert_eq!(present, expected);
}

#[test]
fn what_a_failing_backend_has_counts_as_absent_and_the_next_one_is_asked() {
    let (failing, behind) = (Scripted::new(), Scripted::new());
    let tiers = [("failing", &failing), ("behind", &behind)];
    let engine = engine_over(config(vec![]), metadata(), &tiers);
    let storage = engine.storage();
    put_in(storage, &[key(0), key(2)], "failing");
    put_in(storage, &[key(2)], "behind");
    failing.fail_lookups();
    let present = block_on(storage.contains_each(&keys(3), &Tiers::only(["failing", "behind"])));
    assert_eq!(present, [false, false, true]);
}
