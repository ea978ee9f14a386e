//! Chunks copied into the CPU tier, beside the copy alone.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::Result;
use kvtier::__internal::cpu::{Allocated, CpuTier};
use kvtier::memory::{ChunkWriter, Pool};
use kvtier::{EvictionPolicy, HotCache};

use crate::bench::{About, Bench, candidate};
use crate::report::{Quantity, Target};
use crate::sample::{Effort, once};
use crate::tier::{key, put};

/// Eight times the last-level cache of this class of machines, or more.
pub(crate) const WORKING_SET_BYTES: usize = 256 << 20;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    for size_bytes in [2 << 20, 32 << 20] {
        let n_chunks = bench.pick(WORKING_SET_BYTES, 64 << 20) / size_bytes;
        let n_bytes = n_chunks * size_bytes;
        let (from, mut to) = (vec![1_u8; n_bytes], vec![2_u8; n_bytes]);
        // Room for one working set: each put evicts.
        let tier = CpuTier::new(Arc::new(Pool::new(n_bytes)?), EvictionPolicy::Lru, HotCache::On);
        let mut next = 0;
        let about = About::new(
            format!("allocate + copy in + put, {} MiB", size_bytes >> 20),
            Quantity::Bytes(n_bytes as u64),
        );
        bench.row(
            about.target(Target::OfReference(0.9)).effort(Effort::LONG),
            vec![
                candidate("kvtier", || {
                    once(|| {
                        for bytes in black_box(&from).chunks(size_bytes) {
                            let Ok(Allocated::Ready(mut buffer)) = tier.allocate(size_bytes) else {
                                panic!("nothing is held");
                            };
                            buffer.copy_from_slice(bytes);
                            put(&tier, ChunkWriter::new(key(next), buffer).freeze());
                            next += 1;
                        }
                    })
                }),
                candidate("memcpy", || once(|| memcpy(&from, &mut to, size_bytes))),
            ],
        );
    }
    Ok(())
}

/// Copies chunk by chunk.
pub(crate) fn memcpy(from: &[u8], to: &mut [u8], size_bytes: usize) {
    let pieces = black_box(to).chunks_mut(size_bytes).zip(black_box(from).chunks(size_bytes));
    pieces.for_each(|(to, from)| to.copy_from_slice(from));
}
