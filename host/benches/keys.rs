//! Chunk keys from tokens: `cargo xtask bench --bench keys`.

#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use kvtier::key::{KeyChain, Namespace};
use kvtier::{Dtype, EngineMetadata, KvShape};
use sha2::{Digest as _, Sha256};

const N_TOKENS: usize = 128 * 1024;
const N_SAMPLES: usize = 31;

fn main() {
    let tokens: Vec<u32> =
        (0..N_TOKENS as u32).map(|token| token.wrapping_mul(2_654_435_761) % 128_000).collect();
    println!("{:<34} {:>10} {:>14}", "128k-token prompt, one thread", "chunk", "M tokens/s");
    for chunk_size in [64_usize, 256, 512, 1024] {
        let metadata = EngineMetadata {
            model_name: "bench".into(),
            world_size: 1,
            worker_id: 0,
            kv_dtype: Dtype::BFloat16,
            kv_shape: KvShape::new([32, 2, chunk_size as u32, 8, 128]).expect("a valid shape"),
        };
        let namespace = Namespace::new(&metadata);
        let keys = || {
            let mut chain = KeyChain::new(namespace);
            for chunk in tokens.chunks(chunk_size) {
                black_box(chain.push(chunk));
            }
        };
        row("chunk keys (BLAKE3)", chunk_size, keys);
        let reference = || {
            let mut previous = [0_u8; 32];
            for chunk in tokens.chunks(chunk_size) {
                let mut hasher = Sha256::new();
                hasher.update(previous);
                for token in chunk {
                    hasher.update(token.to_le_bytes());
                }
                previous = hasher.finalize().into();
            }
            black_box(previous);
        };
        row("reference: one SHA-256 chain", chunk_size, reference);
    }
}

fn row(name: &str, chunk_size: usize, mut work: impl FnMut()) {
    let mut samples: Vec<f64> = (0..N_SAMPLES)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let rate = N_TOKENS as f64 / samples[N_SAMPLES / 2] / 1e6;
    println!("{name:<34} {chunk_size:>10} {rate:>14.0}");
}
