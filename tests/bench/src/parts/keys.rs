//! Chunk keys from tokens.

use std::hint::black_box;

use anyhow::Result;
use kvtier::{Dtype, EngineMetadata, KeyChain, KvShape, Namespace};
use sha2::{Digest as _, Sha256};

use crate::bench::{About, Bench, candidate};
use crate::report::{Quantity, Target};
use crate::sample::once;

const N_TOKENS: usize = 128 * 1024;

/// Tokens of the newest turn.
const TURN_TOKENS: usize = 1024;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let tokens: Vec<u32> =
        (0..N_TOKENS as u32).map(|token| token.wrapping_mul(2_654_435_761) % 128_000).collect();
    for chunk_size in [256_usize, 64, 512, 1024] {
        let namespace = Namespace::new(&metadata(chunk_size as u32)?);
        let what = format!("keys of a prompt of 128k tokens, {chunk_size} a chunk");
        let about = About::new(what, Quantity::Tokens(N_TOKENS as u64));
        let about = if chunk_size == 256 { about.target(Target::AtLeast(400e6)) } else { about };
        bench.row(
            about,
            vec![
                candidate("kvtier", || derive(&KeyChain::new(namespace), &tokens, chunk_size)),
                candidate("one SHA-256 chain", || once(|| sha256(&tokens, chunk_size))),
            ],
        );
    }
    turn(bench, &tokens)
}

/// Measures the next turn of a conversation, with the keys of its history known.
fn turn(bench: &mut Bench, tokens: &[u32]) -> Result<()> {
    let namespace = Namespace::new(&metadata(256)?);
    let mut history = KeyChain::new(namespace);
    history.extend(tokens, 256, &mut Vec::new());
    let turn = &tokens[..TURN_TOKENS];
    bench.row(
        About::new("keys of a turn of 1k tokens behind 128k", Quantity::Tokens(TURN_TOKENS as u64))
            .note("the tokens of the turn alone are counted"),
        vec![
            candidate("kvtier", || derive(&history, turn, 256)),
            candidate("a prompt of 1k tokens", || derive(&KeyChain::new(namespace), turn, 256)),
        ],
    );
    Ok(())
}

/// Returns the seconds in which the keys of `tokens` behind a chain are derived.
fn derive(chain: &KeyChain, tokens: &[u32], chunk_size: usize) -> f64 {
    let (mut chain, mut keys) = (chain.clone(), Vec::with_capacity(tokens.len() / chunk_size));
    let seconds = once(|| _ = chain.extend(black_box(tokens), chunk_size, &mut keys));
    black_box(&keys);
    seconds
}

fn sha256(tokens: &[u32], chunk_size: usize) {
    let mut previous = [0_u8; 32];
    for chunk in black_box(tokens).chunks(chunk_size) {
        let mut hasher = Sha256::new();
        hasher.update(previous);
        for token in chunk {
            hasher.update(token.to_le_bytes());
        }
        previous = hasher.finalize().into();
    }
    black_box(previous);
}

/// A model of the usual size.
pub(crate) fn metadata(chunk_size: u32) -> Result<EngineMetadata> {
    Ok(EngineMetadata {
        model_name: "bench".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([32, 2, chunk_size, 8, 128])?,
    })
}
