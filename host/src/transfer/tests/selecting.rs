//! Selections: the same memory, in another order.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::*;

fn room(n: u32) -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(n as usize)).try_acquire_many_owned(n).unwrap()
}

/// Three chunks; the `n`th has `SIZE` bytes of the value `n`.
fn three_chunks(pool: &Arc<dyn Provider>) -> Sources {
    let chunk = |n| {
        let mut writer = writer(pool);
        writer.fill(n);
        writer.freeze()
    };
    Sources::new((0..3).map(chunk).collect(), &sealers()[0])
}

fn first_byte(sources: &Sources, index: usize) -> Result<u8, TransferError> {
    Ok(sources.chunk(index)?.bytes(0..1)?[0])
}

#[test]
fn a_selection_of_sources_shows_the_same_chunks_in_its_order_until_all_are_revoked() {
    let pool = pool();
    let all = three_chunks(&pool);
    let some = all.select(&[2, 0, 2], room(3)).unwrap();
    assert_eq!((some.count(), some.total_bytes()), (3, 3 * (SIZE + TRAILER_BYTES)));
    assert_eq!([0, 1, 2].map(|index| first_byte(&some, index)), [Ok(2), Ok(0), Ok(2)]);
    let nested = some.select(&[1], room(1)).unwrap();
    assert_eq!((nested.count(), first_byte(&nested, 0)), (1, Ok(0)));
    assert_eq!(first_byte(&nested, 1), Err(TransferError::OutOfRange));
    assert_eq!((nested.size_bytes(0), nested.size_bytes(1)), (Some(SIZE + TRAILER_BYTES), None));
    all.revoke();
    assert_eq!(pool.allocated_bytes(), 0, "the selections hold nothing");
    assert_eq!(first_byte(&some, 0), Err(TransferError::Revoked));
    assert!(matches!(nested.select(&[0], room(1)), Err(TransferError::Revoked)));
    assert_eq!((some.count(), nested.size_bytes(0)), (3, Some(SIZE + TRAILER_BYTES)));
}

#[test]
fn a_selection_of_sinks_shares_each_buffer_and_its_one_writer() {
    let pool = pool();
    let all = Sinks::new((0..3).map(|_| writer(&pool)).collect(), &sealers()[0]);
    assert!(matches!(all.select(&[1, 1], room(2)), Err(TransferError::Repeated)));
    let (some, others) = (all.select(&[2, 1], room(2)).unwrap(), all.select(&[1], room(1)).unwrap());
    let lease = some.lease(1).unwrap();
    assert!(matches!(others.lease(0), Err(TransferError::Busy)));
    assert!(matches!(others.claim(0), Err(TransferError::Busy)));
    drop(lease);
    let mut claim = others.claim(0).unwrap();
    assert!(matches!(all.lease(1), Err(TransferError::Busy)));
    claim.write(0, b"abc").unwrap();
    drop(claim);
    assert!(matches!(some.lease(2), Err(TransferError::OutOfRange)));
    let sinks = all.revoke();
    assert!(sinks.iter().all(Option::is_some));
    assert!(matches!(some.lease(0), Err(TransferError::Revoked)));
    assert!(matches!(others.select(&[0], room(1)), Err(TransferError::Revoked)));
    drop(sinks);
    assert_eq!(pool.allocated_bytes(), 0);
}

#[test]
fn room_is_held_until_the_last_handle_of_a_selection_is_gone() {
    let (pool, semaphore) = (pool(), Arc::new(Semaphore::new(5)));
    let all = three_chunks(&pool);
    let some = all.select(&[0, 1], Arc::clone(&semaphore).try_acquire_many_owned(2).unwrap()).unwrap();
    let again = some.clone();
    drop(some);
    assert_eq!(semaphore.available_permits(), 3);
    drop(again);
    assert_eq!(semaphore.available_permits(), 5);
}
