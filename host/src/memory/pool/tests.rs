use std::sync::Arc;

use crate::chunk::{Chunk, ChunkWriter};
use crate::cpu::testing::Random;
use crate::key::ChunkKey;
use crate::memory::{AllocateError, BufferMut, PAGE_BYTES, Pool, PoolError, Provider};

fn pool_of_pages(n_pages: usize) -> (Arc<Pool>, Arc<dyn Provider>) {
    let pool = Arc::new(Pool::new(n_pages * PAGE_BYTES).unwrap());
    (Arc::clone(&pool), pool)
}

#[test]
fn t12_a_tenth_of_a_gib_is_exactly_that_many_bytes() {
    let capacity_bytes = (0.1 * f64::from(1 << 30)) as usize;
    let pool = Pool::new(capacity_bytes).unwrap();
    assert_eq!(pool.capacity_bytes(), 107_374_182);
    assert_eq!(pool.region_bytes(), 26_214 * PAGE_BYTES);
    assert_eq!(pool.base_ptr().as_ptr().addr() % PAGE_BYTES, 0);
}

#[test]
fn t45_one_byte_takes_one_aligned_page() {
    let (pool, provider) = pool_of_pages(4);
    let first = BufferMut::allocate(&provider, 1).unwrap().unwrap();
    let second = BufferMut::allocate(&provider, PAGE_BYTES + 1).unwrap().unwrap();
    assert_eq!((first.len(), first.footprint_bytes()), (1, PAGE_BYTES));
    assert_eq!((second.len(), second.footprint_bytes()), (PAGE_BYTES + 1, 2 * PAGE_BYTES));
    assert_eq!(first.as_ptr().addr() % PAGE_BYTES, 0);
    assert_eq!(second.as_ptr().addr() % PAGE_BYTES, 0);
    assert_eq!(pool.allocated_bytes(), 3 * PAGE_BYTES);
    pool.check().unwrap();
}

#[test]
fn t45_frees_coalesce_into_one_run() {
    let (pool, provider) = pool_of_pages(3);
    let allocate = |n_pages| BufferMut::allocate(&provider, n_pages * PAGE_BYTES).unwrap();
    let (a, b, c) = (allocate(1), allocate(1), allocate(1));
    assert!(a.is_some() && b.is_some() && c.is_some() && allocate(1).is_none());
    drop((a, c));
    pool.check().unwrap();
    assert!(allocate(2).is_none(), "b lies between");
    drop(b);
    pool.check().unwrap();
    assert!(allocate(3).is_some());
}

#[test]
fn t46_a_batch_fits_over_fragments_or_takes_nothing() {
    let (pool, provider) = pool_of_pages(6);
    let mut singles: Vec<_> = (0..6).map(|_| BufferMut::allocate(&provider, PAGE_BYTES).unwrap()).collect();
    for hole in [0, 2, 5] {
        singles[hole] = None;
    }
    assert!(BufferMut::allocate_batch(&provider, &[1; 4]).unwrap().is_none());
    // Enough pages, but no two of them adjacent: the first is taken and returned.
    assert!(BufferMut::allocate_batch(&provider, &[1, PAGE_BYTES + 1]).unwrap().is_none());
    assert_eq!(pool.allocated_bytes(), 3 * PAGE_BYTES);
    pool.check().unwrap();
    let batch = BufferMut::allocate_batch(&provider, &[1, PAGE_BYTES, 7]).unwrap().unwrap();
    assert_eq!(batch.iter().map(|buffer| buffer.len()).collect::<Vec<_>>(), [1, PAGE_BYTES, 7]);
    assert_eq!(pool.allocated_bytes(), 6 * PAGE_BYTES);
    drop((batch, singles));
    assert_eq!(pool.allocated_bytes(), 0);
    pool.check().unwrap();
}

#[test]
fn t48_a_size_of_zero_is_an_error_of_its_own() {
    let (pool, provider) = pool_of_pages(1);
    assert_eq!(provider.allocate(0), Err(AllocateError::ZeroSize));
    let batch = BufferMut::allocate_batch(&provider, &[1, 0]);
    assert_eq!(batch.unwrap_err(), AllocateError::ZeroSize);
    assert_eq!(pool.allocated_bytes(), 0);
}

#[test]
fn more_than_the_pool_is_an_error_however_full_it_is() {
    let (_pool, provider) = pool_of_pages(2);
    let capacity_bytes = 2 * PAGE_BYTES;
    let too_large = |size_bytes| AllocateError::TooLarge { size_bytes, capacity_bytes };
    assert_eq!(provider.allocate(capacity_bytes + 1), Err(too_large(capacity_bytes + 1)));
    assert_eq!(provider.allocate(usize::MAX), Err(too_large(usize::MAX)));
    let batch = BufferMut::allocate_batch(&provider, &[PAGE_BYTES; 3]);
    assert_eq!(batch.unwrap_err(), too_large(3 * PAGE_BYTES));
    let _all = BufferMut::allocate(&provider, capacity_bytes).unwrap().unwrap();
    assert_eq!(provider.allocate(capacity_bytes), Ok(None));
    assert_eq!(provider.allocate(capacity_bytes + 1), Err(too_large(capacity_bytes + 1)));
}

#[test]
fn a_pool_without_a_page_or_beyond_the_books_is_refused() {
    assert!(matches!(Pool::new(PAGE_BYTES - 1), Err(PoolError::Size { capacity_bytes: 4095, .. })));
    assert!(matches!(Pool::new(usize::MAX), Err(PoolError::Size { .. })));
}

#[test]
fn memory_outlives_the_pool_handle_while_a_buffer_lives() {
    let (pool, provider) = pool_of_pages(2);
    let mut buffer = BufferMut::allocate(&provider, 2 * PAGE_BYTES).unwrap().unwrap();
    drop((pool, provider));
    buffer.fill(7);
    assert!(buffer.iter().all(|&byte| byte == 7));
    assert_eq!(format!("{buffer:?}"), "BufferMut { len: 8192, .. }");
}

#[test]
fn t47_frees_from_several_threads_keep_the_books() {
    let n_rounds = if cfg!(miri) { 30 } else { 5_000 };
    let (pool, provider) = pool_of_pages(64);
    let (to_dropper, from_allocators) = std::sync::mpsc::sync_channel::<BufferMut>(16);
    std::thread::scope(|scope| {
        for seed in 1..=3 {
            let (provider, to_dropper) = (&provider, to_dropper.clone());
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..n_rounds {
                    let size_bytes = 1 + random.below(9 * PAGE_BYTES);
                    let Some(mut buffer) = BufferMut::allocate(provider, size_bytes).unwrap() else {
                        continue;
                    };
                    buffer[0] = seed as u8;
                    *buffer.last_mut().unwrap() = seed as u8;
                    std::thread::yield_now();
                    assert_eq!((buffer[0], buffer[size_bytes - 1]), (seed as u8, seed as u8));
                    if random.below(2) == 0 {
                        to_dropper.send(buffer).unwrap();
                    }
                }
            });
        }
        drop(to_dropper);
        scope.spawn(move || from_allocators.into_iter().for_each(drop));
        for _ in 0..n_rounds / 10 {
            pool.check().unwrap();
        }
    });
    pool.check().unwrap();
    assert_eq!(pool.allocated_bytes(), 0);
}

#[test]
fn chunks_shared_by_threads_give_all_memory_back() {
    let n_rounds = if cfg!(miri) { 15 } else { 3_000 };
    let (pool, provider) = pool_of_pages(256);
    let (to_reader, from_writers) = std::sync::mpsc::sync_channel::<Chunk>(8);
    std::thread::scope(|scope| {
        for seed in 1..=3 {
            let (provider, to_reader) = (&provider, to_reader.clone());
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut kept: Vec<Chunk> = Vec::new();
                for n in 0..n_rounds {
                    // Mostly one size, so that freed runs are taken again unchanged.
                    let n_pages = if random.below(8) == 0 { 1 + random.below(60) } else { 4 };
                    let Some(buffer) = BufferMut::allocate(provider, n_pages * PAGE_BYTES).unwrap() else {
                        kept.clear();
                        continue;
                    };
                    let mut writer = ChunkWriter::new(ChunkKey { hi: seed, lo: n }, buffer);
                    writer[0] = seed as u8;
                    let chunk = writer.freeze();
                    to_reader.send(chunk.clone()).unwrap();
                    kept.push(chunk);
                    if kept.len() > 5 {
                        kept.swap_remove(random.below(5));
                    }
                    assert!(kept.iter().all(|chunk| chunk[0] == seed as u8), "somebody else wrote into it");
                }
            });
        }
        drop(to_reader);
        scope.spawn(move || {
            let mut held = Vec::new();
            for chunk in from_writers {
                held.extend([chunk.clone(), chunk]);
                if held.len() > 20 {
                    held.drain(..15);
                }
            }
        });
    });
    pool.check().unwrap();
    assert_eq!(pool.allocated_bytes(), 0);
    assert!(
        BufferMut::allocate(&provider, 256 * PAGE_BYTES).unwrap().is_some(),
        "all of it is one run again"
    );
}
