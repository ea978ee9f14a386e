//! Other caches, each used as its documentation recommends, under the requests of `kvtier-bench-mix`. Takes a sample
//! whenever kvtier's bench requests one.

mod blocks;
mod maps;

use std::io;

use kvtier_bench_mix::{Course, Entry, serve};

fn main() -> io::Result<()> {
    let entries = [
        Entry {
            name: "foyer",
            description: "foyer-memory 0.22, LRU, 8 shards; payloads from the process's allocator",
            start: |n_threads| Box::new(Course::new(n_threads, maps::Foyer::new)),
        },
        Entry {
            name: "quick_cache",
            description: "quick_cache 0.7, its own policy (S3-FIFO and CLOCK-Pro); payloads from the process's allocator",
            start: |n_threads| Box::new(Course::new(n_threads, maps::QuickCache::new)),
        },
        Entry {
            name: "moka",
            description: "moka 0.12, LRU; payloads from the process's allocator",
            start: |n_threads| Box::new(Course::new(n_threads, maps::Moka::new)),
        },
        Entry {
            name: "kvbm-logical",
            description: "kvbm-logical 1.6, LRU; names of slots, without memory; lookup is check_presence, get is match_blocks, \
                          insert is allocate, stage and register",
            start: |n_threads| Box::new(Course::new(n_threads, blocks::Kvbm::new)),
        },
    ];
    serve(&entries, io::stdin().lock(), io::stdout().lock())
}
