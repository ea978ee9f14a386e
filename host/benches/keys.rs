//! Chunk keys from tokens: `cargo xtask bench --bench keys`.

#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use kvtier::{Config, Dtype, Engine, EngineBuilder, EngineMetadata, KvShape, Salt};
use sha2::{Digest as _, Sha256};

const N_TOKENS: usize = 128 * 1024;
const N_TURN: usize = 1024;
const N_SAMPLES: usize = 101;

fn main() {
    let tokens: Vec<u32> =
        (0..N_TOKENS as u32).map(|token| token.wrapping_mul(2_654_435_761) % 128_000).collect();
    println!("{:<44} {:>10} {:>14}", "one thread", "chunk", "M tokens/s");
    for chunk_size in [16_usize, 64, 256, 512, 1024] {
        let engine = engine(chunk_size);
        row("128k-token prompt, from scratch", chunk_size, N_TOKENS, || {
            black_box(engine.prompt(black_box(&tokens), &Salt::none()));
        });
        let mut prompt = engine.prompt(&tokens, &Salt::none());
        row("a turn of 1k tokens behind 128k", chunk_size, N_TURN, || {
            prompt.append(black_box(&tokens[..N_TURN]));
        });
        black_box(&prompt);
        row("reference: one SHA-256 chain", chunk_size, N_TOKENS, || {
            black_box(sha256_chain(black_box(&tokens), chunk_size));
        });
    }
}

fn engine(chunk_size: usize) -> Engine {
    let metadata = EngineMetadata {
        model_name: "bench".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([32, 2, chunk_size as u32, 8, 128]).expect("a valid shape"),
    };
    let config = Config { chunk_size, pool_size_bytes: 1 << 30, ..Config::default() };
    EngineBuilder::new(config, metadata).build_blocking().expect("an engine")
}

fn sha256_chain(tokens: &[u32], chunk_size: usize) -> [u8; 32] {
    let mut previous = [0_u8; 32];
    for chunk in tokens.chunks(chunk_size) {
        let mut hasher = Sha256::new();
        hasher.update(previous);
        for token in chunk {
            hasher.update(token.to_le_bytes());
        }
        previous = hasher.finalize().into();
    }
    previous
}

/// Prints the median of the samples.
fn row(name: &str, chunk_size: usize, n_tokens: usize, mut work: impl FnMut()) {
    let mut samples: Vec<f64> = (0..N_SAMPLES)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let rate = n_tokens as f64 / samples[N_SAMPLES / 2] / 1e6;
    println!("{name:<44} {chunk_size:>10} {rate:>14.0}");
}
