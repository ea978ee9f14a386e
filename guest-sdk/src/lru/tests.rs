//! Tests of the index.

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
        evicted.extend(lru.reserve(call, 10)?.into_iter().map(|removed| removed.key.lo));
        lru.insert(call, index, key(*lo), 10, ());
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
    assert_eq!(lru.reserve(call, 21), Err(Full));
    assert_eq!(lru.reserve(call, u64::MAX), Err(Full));
    assert_eq!(lru.len(), 3);
    assert_eq!(lru.reserve(call, 20).unwrap().len(), 2);
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
    assert_eq!(lru.reserve(call, 15), Ok(vec![]));
    assert_eq!(lru.reserve(call, 6), Err(Full));
    assert_eq!(lru.free_bytes(), 5);
    lru.release(15);
    assert_eq!(lru.reserve(call, 20), Ok(vec![]));
    assert_eq!(lru.size_bytes(), 20);
}

#[test]
fn two_puts_of_one_key_count_once_and_keep_the_pin() {
    let mut lru = Lru::new(20);
    let call = lru.call(1);
    lru.reserve(call, 10).unwrap();
    lru.reserve(call, 10).unwrap();
    assert_eq!(lru.insert(call, 0, key(1), 10, 'a'), None);
    lru.pin(&keys(&[1]));
    assert_eq!(lru.insert(call, 0, key(1), 10, 'b').unwrap().value, 'a');
    assert_eq!(lru.size_bytes(), 10);
    assert_eq!(lru.get(&key(1)), Some((&'b', 10)));
    let call = lru.call(1);
    assert_eq!(lru.reserve(call, 11), Err(Full));
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
fn shrinking_keeps_what_was_used_last() {
    let mut lru = Lru::new(20);
    for lo in 1..=4 {
        let call = lru.call(1);
        lru.adopt(call, 0, key(lo), 10, ());
    }
    let evicted: Vec<u64> = lru.shrink().into_iter().map(|removed| removed.key.lo).collect();
    assert_eq!(evicted, [1, 2]);
    assert_eq!(lru.size_bytes(), 20);
}
