//! Sealing beside copying: `cargo xtask bench --bench integrity`.

#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use kvtier::integrity::Sealer;
use kvtier::key::Namespace;
use kvtier::{ChunkKey, Dtype, EngineMetadata, KvShape};

const N_SAMPLES: usize = 15;

fn main() {
    let metadata = EngineMetadata {
        model_name: "bench".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([2, 2, 16, 2, 8]).expect("a valid shape"),
    };
    let namespace = Namespace::new(&metadata);
    let checksum = Sealer::checksum(namespace);
    let mac = Sealer::mac(namespace, b"a key of sixteen or more bytes");
    let key = ChunkKey { hi: 1, lo: 2 };
    println!("{:>9} {:>16} {:>16} {:>14}", "payload", "checksum GB/s", "MAC GB/s", "memcpy GB/s");
    for size_bytes in [4 << 10, 64 << 10, 2 << 20, 32 << 20] {
        let payload = vec![7_u8; size_bytes];
        let mut copy = vec![1_u8; size_bytes];
        let sealed = rate(size_bytes, || _ = black_box(checksum.seal(key, black_box(&payload))));
        let signed = rate(size_bytes, || _ = black_box(mac.seal(key, black_box(&payload))));
        let copied = rate(size_bytes, || black_box(&mut copy).copy_from_slice(black_box(&payload)));
        println!("{:>6} KiB {sealed:>16.1} {signed:>16.1} {copied:>14.1}", size_bytes >> 10);
    }
}

fn rate(n_bytes: usize, mut work: impl FnMut()) -> f64 {
    let n_rounds = ((64 << 20) / n_bytes).max(1);
    let mut samples: Vec<f64> = (0..N_SAMPLES)
        .map(|_| {
            let started = Instant::now();
            (0..n_rounds).for_each(|_| work());
            started.elapsed().as_secs_f64()
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    (n_bytes * n_rounds) as f64 / samples[N_SAMPLES / 2] / 1e9
}
