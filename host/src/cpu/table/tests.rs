use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::hash::{Hash, KeyHash};
use super::{N_SEGMENTS, Table};
use crate::chunk::Slot;
use crate::cpu::testing::Random;
use crate::key::ChunkKey;

fn key(n: u64) -> ChunkKey {
    ChunkKey { hi: 0, lo: n }
}

fn has(table: &Table, n: u64) -> bool {
    table.find(key(n), |slot| (u64::from(slot) == n).then_some(())).is_some()
}

#[test]
fn random_changes_agree_with_a_map() {
    let (n_keys, n_steps) = if cfg!(miri) { (100, 1000) } else { (3000, 200_000) };
    for n_expected in [0, 1000] {
        let table = Table::new();
        table.expect(n_expected);
        let mut map: HashMap<u64, Slot> = HashMap::new();
        let mut random = Random::new(5);
        for step in 0..n_steps {
            let n = random.below(n_keys) as u64;
            if map.remove(&n).is_some() {
                table.remove(key(n), n as Slot);
            } else if step % 3 > 0 {
                table.insert(key(n), n as Slot);
                map.insert(n, n as Slot);
            }
            assert_eq!(has(&table, n), map.contains_key(&n));
            let other = random.below(n_keys) as u64;
            assert_eq!(has(&table, other), map.contains_key(&other));
            assert_eq!(table.len(), map.len());
        }
        let found: HashSet<Slot> = table.slots().into_iter().collect();
        assert_eq!(found, map.values().copied().collect());
    }
}

#[test]
fn what_stays_is_found_at_any_moment_while_others_come_and_go() {
    let n_rounds = if cfg!(miri) { 20 } else { 2000 };
    let table = Table::new();
    let stays: Vec<u64> = (0..40).collect();
    for &n in &stays {
        table.insert(key(n), n as Slot);
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(9);
            for _ in 0..n_rounds {
                // Enough keys to make segments grow and entries move.
                let others: Vec<u64> = (0..200).map(|i| 1000 + i * 7 + random.below(7) as u64).collect();
                for &n in &others {
                    table.insert(key(n), n as Slot);
                }
                for &n in &others {
                    table.remove(key(n), n as Slot);
                }
            }
            is_over.store(true, Ordering::Release);
        });
        while !is_over.load(Ordering::Acquire) {
            for &n in &stays {
                assert!(has(&table, n), "{n} was missed");
            }
        }
    });
    assert_eq!(table.len(), stays.len());
}

#[test]
fn a_table_that_knows_how_many_entries_come_does_not_grow() {
    let n_entries = if cfg!(miri) { 1000 } else { 100_000 };
    let table = Table::new();
    table.expect(n_entries);
    (0..n_entries as u64).for_each(|n| table.insert(key(n), n as Slot));
    let n_grown = table.segments.iter().filter(|segment| segment.levels[1].get().is_some()).count();
    assert!(n_grown == 0 || cfg!(miri), "{n_grown} of {N_SEGMENTS} segments have grown");
    assert!(table.n_bytes() <= 40 * n_entries, "{} bytes", table.n_bytes());
}

#[test]
fn consecutive_keys_do_not_cluster() {
    let patterns: [fn(u64) -> ChunkKey; 4] = [
        |n| ChunkKey { hi: 0, lo: n },
        |n| ChunkKey { hi: n, lo: 0 },
        |n| ChunkKey { hi: n, lo: n },
        |n| ChunkKey { hi: n << 48, lo: 0 },
    ];
    for _ in 0..if cfg!(miri) { 1 } else { 100 } {
        let hash = KeyHash::new();
        for key in patterns {
            let hashes = (0..4096).map(|n| hash.of(key(n)));
            let buckets: HashSet<_> = hashes.clone().map(|hash| hash.tag() & 0xffff).collect();
            let segments: HashSet<_> = hashes.map(Hash::segment).collect();
            assert!(buckets.len() > 3500, "{} of 4096", buckets.len());
            assert_eq!(segments.len(), N_SEGMENTS);
        }
    }
}
