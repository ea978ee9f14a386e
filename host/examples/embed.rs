//! Embeds kvtier: stores the KV cache of a prompt, and finds it again for a prompt with the same beginning.
//!
//! `cargo run --example embed -- kvtier.yaml`, with `chunk_size: 64` in the file.

use std::error::Error;

use kvtier::{Dtype, EngineBuilder, EngineMetadata, KvShape, Salt, Tiers, block_on};

fn main() -> Result<(), Box<dyn Error>> {
    let config = std::env::args().nth(1).ok_or("usage: embed CONFIG.yaml")?;
    let metadata = EngineMetadata {
        model_name: "tiny".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([2, 2, 64, 2, 32])?,
    };
    let engine = EngineBuilder::from_file(config, metadata)?.build_blocking()?;
    let blocking = engine.blocking();

    // A prompt of 256 tokens: four chunks of 64. The serving engine copies its KV tensors into the buffers.
    let first: Vec<u32> = (0..256).collect();
    let mut conversation = engine.prompt(&first, &Salt::none());
    let mut allocation = blocking.allocate(&conversation)?;
    for missing in allocation.missing() {
        missing.bytes.fill(missing.position as u8);
    }
    blocking.store(allocation, &Tiers::All);
    block_on(engine.storage().flush())?;

    // The conversation continues: only the new tokens are hashed, and the stored chunks are found.
    let answer: Vec<u32> = (5000..5100).collect();
    conversation.append(&answer);
    let prefix = blocking.lookup(&conversation)?;
    println!("{} of {} tokens found", prefix.n_tokens, conversation.n_tokens());

    // Another prompt that begins with the same 192 tokens: three of its chunks are found.
    let second: Vec<u32> = (0..192).chain(1000..1064).collect();
    let prompt = engine.prompt(&second, &Salt::none());
    let prefix = blocking.lookup_pinned(&prompt, "request-2")?;
    let found = blocking.retrieve(&prompt, Some(&prefix))?;
    let first_bytes: Vec<u8> = found.retrieved.chunks.iter().map(|chunk| chunk[0]).collect();
    println!("{} of {} tokens found, chunks {first_bytes:?}", found.n_tokens, second.len());
    blocking.unpin("request-2");

    blocking.close()?;
    Ok(())
}
