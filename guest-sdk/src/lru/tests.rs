//! Tests of the index.

use std::time::Duration;

use super::{Full, Lru};
use crate::ChunkKey;

fn key(lo: u64) -> ChunkKey {
    ChunkKey { hi: 0, lo }
}

fn keys(of: &[u64]) -> Vec<ChunkKey> {
    of.iter().copied().map(key).collect()
}

/// Puts chunks of 10 bytes in one call, and returns the keys that were evicted.
fn put(lru: &mut Lru<()>, of: &[u64]) -> Result<Vec<u64>, Full> {
    let call = lru.call(of.len());
    let mut evicted = Vec::new();
    for (lo, index) in of.iter().zip(0..) {
        evicted.extend(lru.reserve(call, &[10])?.into_iter().map(|removed| removed.key.lo));
        lru.insert(call, index, key(*lo), 10, ())?;
    }
    Ok(evicted)
}

fn touch(lru: &mut Lru<()>, lo: u64) -> bool {
    let call = lru.call(1);
    lru.touch(call, 0, &key(lo))
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let mut lru = Lru::new(30);
    assert_eq!(put(&mut lru, &[1]), Ok(vec![]));
    assert_eq!(put(&mut lru, &[2]), Ok(vec![]));
    assert_eq!(put(&mut lru, &[3]), Ok(vec![]));
    assert!(touch(&mut lru, 1));
    assert_eq!(put(&mut lru, &[4]), Ok(vec![2]));
    assert!(!touch(&mut lru, 2));
    assert_eq!(lru.len(), 3);
    assert_eq!(lru.size_bytes(), 30);
}

#[test]
fn the_tail_of_a_prompt_goes_before_its_head() {
    let mut lru = Lru::new(30);
    put(&mut lru, &[1, 2, 3]).unwrap();
    assert_eq!(put(&mut lru, &[4, 5]), Ok(vec![3, 2]));
}

#[test]
fn the_chunks_of_a_call_do_not_make_room_for_each_other() {
    let mut lru = Lru::new(30);
    assert_eq!(put(&mut lru, &[1, 2, 3, 4]), Err(Full));
    assert_eq!(lru.leading_run(&keys(&[1, 2, 3, 4])), 3);
}

#[test]
fn a_chunk_that_does_not_fit_evicts_nothing() {
    let mut lru = Lru::new(30);
    put(&mut lru, &[1, 2, 3]).unwrap();
    lru.pin(&keys(&[1]));
    let call = lru.call(1);
    assert_eq!(lru.reserve(call, &[21]), Err(Full));
    assert_eq!(lru.reserve(call, &[u64::MAX]), Err(Full));
    assert_eq!(lru.len(), 3);
    assert_eq!(lru.reserve(call, &[20]).unwrap().len(), 2);
}

#[test]
fn pins_protect_the_leading_run_until_they_end() {
    let mut lru = Lru::new(20);
    put(&mut lru, &[1]).unwrap();
    put(&mut lru, &[2]).unwrap();
    assert_eq!(lru.pin(&keys(&[1, 9, 2])), 1);
    assert_eq!(lru.pin(&keys(&[1])), 1);
    assert!(touch(&mut lru, 1));
    assert_eq!(put(&mut lru, &[3]), Ok(vec![2]));
    assert_eq!(lru.pin(&keys(&[3])), 1);
    assert_eq!(put(&mut lru, &[4]), Err(Full));
    assert_eq!(lru.unpin(&keys(&[9, 1, 1])), 1);
    assert_eq!(lru.unpin(&keys(&[1])), 0);
    assert_eq!(put(&mut lru, &[4]), Ok(vec![1]));
}

#[test]
fn reserved_room_counts_and_comes_back() {
    let mut lru: Lru<()> = Lru::new(20);
    let call = lru.call(3);
    assert_eq!(lru.reserve(call, &[15]), Ok(vec![]));
    assert_eq!(lru.reserve(call, &[6]), Err(Full));
    assert_eq!(lru.free_bytes(), 5);
    lru.release(15);
    assert_eq!(lru.reserve(call, &[20]), Ok(vec![]));
    assert_eq!(lru.size_bytes(), 20);
}

#[test]
fn two_puts_of_one_key_count_once_and_keep_the_pin() {
    let mut lru = Lru::new(20);
    let call = lru.call(1);
    lru.reserve(call, &[10]).unwrap();
    lru.reserve(call, &[10]).unwrap();
    assert_eq!(lru.insert(call, 0, key(1), 10, 'a'), Ok(None));
    lru.pin(&keys(&[1]));
    assert_eq!(lru.insert(call, 0, key(1), 10, 'b').unwrap().unwrap().value, 'a');
    assert_eq!(lru.size_bytes(), 10);
    assert_eq!(lru.get(&key(1)), Some((&'b', 10)));
    let call = lru.call(1);
    assert_eq!(lru.reserve(call, &[11]), Err(Full));
}

#[test]
fn a_removed_chunk_leaves_nothing_behind() {
    let mut lru = Lru::new(20);
    put(&mut lru, &[1, 2]).unwrap();
    lru.pin(&keys(&[1]));
    assert!(lru.remove(&key(1)).is_some());
    assert!(lru.remove(&key(1)).is_none());
    assert_eq!(lru.size_bytes(), 10);
    assert_eq!(lru.unpin(&keys(&[1])), 0);
    assert_eq!(put(&mut lru, &[3]), Ok(vec![]));
}

#[test]
fn an_index_that_is_cleared_is_empty_and_keeps_what_is_reserved() {
    let mut lru = Lru::new(40);
    put(&mut lru, &[1, 2]).unwrap();
    lru.pin(&keys(&[1]));
    let call = lru.call(1);
    lru.reserve(call, &[10]).unwrap();
    lru.clear();
    assert_eq!((lru.len(), lru.size_bytes(), lru.leading_run(&keys(&[1]))), (0, 10, 0));
    lru.insert(call, 0, key(1), 10, ()).unwrap();
    assert_eq!(put(&mut lru, &[2, 3, 4]), Ok(vec![]));
    assert_eq!(put(&mut lru, &[5]), Ok(vec![1]));
}

#[test]
fn shrinking_keeps_what_was_used_last() {
    let mut lru = Lru::new(20);
    for lo in 1..=4 {
        let call = lru.call(1);
        lru.adopt(call, 0, key(lo), 10, ()).unwrap();
    }
    assert_eq!(lru.surplus(9), keys(&[1, 2]));
    let evicted: Vec<u64> = lru.shrink(9).into_iter().map(|removed| removed.key.lo).collect();
    assert_eq!(evicted, [1, 2]);
    assert_eq!(lru.size_bytes(), 20);
    assert_eq!(lru.shrink(9), []);
    lru.set_outside_bytes(15);
    assert_eq!((lru.shrink(1).len(), lru.shrink(9).len(), lru.len()), (1, 1, 0), "room for what is outside");
}

#[test]
fn what_is_found_is_older_than_what_was_used_and_in_the_order_of_its_age() {
    let mut lru = Lru::new(10_000);
    put(&mut lru, &[100]).unwrap();
    let age = |lo: u64| Duration::from_millis(1000 + 7 * (lo * 37 % 50));
    for lo in 0..50 {
        lru.adopt_found(key(lo), 10, age(lo), ()).unwrap();
    }
    put(&mut lru, &[101]).unwrap();
    lru.adopt_found(key(101), 99, Duration::MAX, ()).unwrap();
    assert_eq!(lru.get(&key(101)), Some((&(), 10)), "it is known already");
    // What is used leaves its class, what is removed too, at both ends.
    assert!(touch(&mut lru, 0));
    let oldest = (0..50).max_by_key(|&lo| age(lo)).unwrap();
    lru.remove(&key(oldest)).unwrap();
    lru.set_outside_bytes(10_000);
    let order: Vec<u64> = lru.shrink(1000).into_iter().map(|removed| removed.key.lo).collect();
    let mut expected: Vec<u64> = (1..50).filter(|&lo| lo != oldest).collect();
    expected.sort_by_key(|&lo| std::cmp::Reverse(age(lo)));
    assert_eq!(order, [expected, vec![100, 101, 0]].concat());
}

#[test]
fn a_full_index_evicts_for_a_new_chunk_and_takes_nothing_more_in() {
    let mut lru = Lru::new(u64::MAX).with_entries_max(3);
    assert_eq!(put(&mut lru, &[1, 2, 3]), Ok(vec![]));
    assert_eq!(lru.adopt_found(key(9), 10, Duration::ZERO, ()), Err(Full));
    let call = lru.call(1);
    assert_eq!(lru.adopt(call, 0, key(9), 10, ()), Err(Full));
    assert_eq!(put(&mut lru, &[4, 5]), Ok(vec![3, 2]));
    assert_eq!(lru.reserve(call, &[0; 4]), Err(Full));
    assert_eq!(lru.len(), 3);
    // Places that are reserved are taken.
    let call = lru.call(2);
    assert_eq!(lru.reserve(call, &[1, 1]).unwrap().len(), 2);
    let other = lru.call(1);
    assert_eq!(lru.adopt(other, 0, key(9), 10, ()), Err(Full));
    lru.release(1);
    assert_eq!(lru.adopt(other, 0, key(9), 10, ()), Ok(None));
    lru.insert(call, 0, key(10), 1, ()).unwrap();
    assert_eq!((lru.len(), lru.leading_run(&keys(&[10, 9]))), (3, 2));
}

#[test]
fn a_chunk_of_four_gibibytes_is_refused() {
    let mut lru: Lru<()> = Lru::new(u64::MAX);
    let call = lru.call(1);
    assert_eq!(lru.reserve(call, &[super::CHUNK_BYTES_MAX + 1]), Err(Full));
    assert_eq!(lru.adopt_found(key(1), super::CHUNK_BYTES_MAX + 1, Duration::ZERO, ()), Err(Full));
    assert_eq!(lru.reserve(call, &[super::CHUNK_BYTES_MAX]), Ok(vec![]));
}

#[test]
fn an_entry_costs_38_bytes_and_its_value() {
    const N: usize = 300_000;
    assert_eq!((Lru::<()>::ENTRY_BYTES, Lru::<u32>::ENTRY_BYTES), (38, 42));
    let mut lru = Lru::new(u64::MAX);
    for lo in 0..N as u64 {
        lru.adopt_found(ChunkKey { hi: lo << 40, lo }, 1, Duration::from_secs(lo % 1_000_000), ()).unwrap();
    }
    let segment = 1024 * Lru::<()>::ENTRY_BYTES;
    // A table of classes while chunks are being found.
    assert!(lru.memory_bytes() <= N * 38 + segment + (16 << 10), "{}", lru.memory_bytes());
    assert_eq!(lru.shrink(1).len(), 0);
    assert!(lru.memory_bytes() <= N * 38 + segment, "{}", lru.memory_bytes());
    assert_eq!(lru.leading_run(&[ChunkKey { hi: 7 << 40, lo: 7 }, key(N as u64)]), 1);
}

#[test]
fn stamps_that_fall_behind_stay_old() {
    let mut lru = Lru::new(30);
    for lo in 1..=3 {
        put(&mut lru, &[lo]).unwrap();
    }
    // Far enough that the first stamp would look new.
    for clock in [1 << 30, 1 << 31, 3 << 30, 1 << 32, (1_u64 << 32) + 10] {
        lru.order.set_clock(clock);
        assert!(touch(&mut lru, 3) && touch(&mut lru, 2));
    }
    assert_eq!(put(&mut lru, &[4]), Ok(vec![1]));
    assert_eq!(put(&mut lru, &[5]), Ok(vec![3]));
}

/// What the index is to do, in the plainest way.
#[derive(Default)]
struct Model {
    /// Key, size, last use, pinned.
    chunks: Vec<(u64, u64, u64, bool)>,
    clock: u64,
}

impl Model {
    fn call(&mut self, n: u64) -> u64 {
        self.clock += n;
        self.clock - n
    }

    fn evict(&mut self, excess: u64, n_excess: usize, before: u64) -> Option<Vec<u64>> {
        let mut free: Vec<_> = self.chunks.iter().filter(|chunk| !chunk.3 && chunk.2 < before).collect();
        free.sort_by_key(|chunk| chunk.2);
        let (mut victims, mut freed) = (Vec::new(), 0);
        let mut free = free.into_iter();
        while freed < excess || victims.len() < n_excess {
            let chunk = free.next()?;
            freed += chunk.1;
            victims.push(chunk.0);
        }
        self.chunks.retain(|chunk| !victims.contains(&chunk.0));
        Some(victims)
    }
}

#[test]
fn it_does_what_a_plain_list_does() {
    const CAPACITY: u64 = 400;
    const ENTRIES: usize = 24;
    let mut seed = 0x9e37_79b9_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut lru = Lru::new(CAPACITY).with_entries_max(ENTRIES);
    let mut model = Model::default();
    for step in 0..60_000 {
        let run: Vec<u64> = (0..=random(5)).map(|_| random(60)).collect();
        match random(6) {
            0..=2 => {
                let (call, first) = (lru.call(run.len()), model.call(run.len() as u64));
                for (index, &lo) in run.iter().enumerate() {
                    let used = first + (run.len() - 1 - index) as u64;
                    if let Some(chunk) = model.chunks.iter_mut().find(|chunk| chunk.0 == lo) {
                        chunk.2 = used;
                        assert!(lru.touch(call, index as u32, &key(lo)), "{step}");
                        continue;
                    }
                    assert!(!lru.touch(call, index as u32, &key(lo)), "{step}");
                    let size = 1 + random(60);
                    let total: u64 = model.chunks.iter().map(|chunk| chunk.1).sum();
                    let excess = (total + size).saturating_sub(CAPACITY);
                    let expected =
                        model.evict(excess, (model.chunks.len() + 1).saturating_sub(ENTRIES), first);
                    let evicted = lru.reserve(call, &[size]).ok();
                    let evicted = evicted.map(|all| all.iter().map(|one| one.key.lo).collect::<Vec<_>>());
                    assert_eq!(evicted, expected, "{step}");
                    if evicted.is_some() {
                        model.chunks.push((lo, size, used, false));
                        lru.insert(call, index as u32, key(lo), size, ()).unwrap();
                    }
                }
            }
            3 => {
                let found = run.iter().take_while(|&&lo| model.chunks.iter().any(|chunk| chunk.0 == lo));
                let found = found.count();
                assert_eq!(lru.pin(&keys(&run)), found, "{step}");
                for chunk in model.chunks.iter_mut().filter(|chunk| run[..found].contains(&chunk.0)) {
                    chunk.3 = true;
                }
            }
            4 => {
                let first = model.call(run.len() as u64);
                let mut n_pinned = 0;
                for (index, lo) in run.iter().enumerate() {
                    let chunk = model.chunks.iter_mut().find(|chunk| chunk.0 == *lo && chunk.3);
                    if let Some(chunk) = chunk {
                        n_pinned += 1;
                        (chunk.2, chunk.3) = (first + (run.len() - 1 - index) as u64, false);
                    }
                }
                assert_eq!(lru.unpin(&keys(&run)), n_pinned, "{step}");
            }
            _ => {
                let at = model.chunks.iter().position(|chunk| chunk.0 == run[0]);
                let removed = at.map(|at| model.chunks.remove(at).1);
                assert_eq!(lru.remove(&key(run[0])).map(|removed| removed.size_bytes), removed, "{step}");
            }
        }
        assert_eq!(lru.len(), model.chunks.len(), "{step}");
        assert_eq!(lru.size_bytes(), model.chunks.iter().map(|chunk| chunk.1).sum::<u64>(), "{step}");
    }
}
