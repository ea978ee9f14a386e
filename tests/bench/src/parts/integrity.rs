//! Sealing beside copying.

use std::hint::black_box;

use anyhow::Result;
use kvtier::tier::Sealer;
use kvtier::{ChunkKey, Namespace};

use super::keys::metadata;
use crate::bench::{Bench, candidate};
use crate::report::Quantity;
use crate::sample::each;

/// Bytes of one sample.
const SAMPLE_BYTES: usize = 32 << 20;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let namespace = Namespace::new(&metadata(256)?);
    let checksum = Sealer::checksum(namespace);
    let mac = Sealer::mac(namespace, b"a key of sixteen or more bytes");
    let key = ChunkKey { hi: 1, lo: 2 };
    let quantity = |size_bytes: usize| Quantity::Bytes(size_bytes as u64);
    let mut series = bench.series("sealing a payload", "bytes", quantity(1));
    for size_bytes in [4 << 10, 64 << 10, 2 << 20, 32 << 20] {
        let payload = vec![7_u8; size_bytes];
        let mut copy = vec![1_u8; size_bytes];
        let n = bench.pick((SAMPLE_BYTES / size_bytes).max(1), 1);
        let seal = |sealer: &Sealer| each(n, |_| _ = black_box(sealer.seal(key, black_box(&payload))));
        let candidates = vec![
            candidate("checksum", || seal(&checksum)),
            candidate("MAC", || seal(&mac)),
            candidate("memcpy", || each(n, |_| black_box(&mut copy).copy_from_slice(black_box(&payload)))),
        ];
        bench.point(&mut series, size_bytes as u64, quantity(size_bytes), candidates);
    }
    bench.add_series(series);
    Ok(())
}
