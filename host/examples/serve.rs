//! What a serving engine does for each request: find what is stored, compute and store the rest, go on with the answer.
//!
//! `cargo run --example serve`, in a folder with a `kvtier.yaml`. The second run finds what the first one stored, if
//! the configuration has a backend that survives restarts.

use std::error::Error;

use kvtier::{Dtype, EngineBuilder, EngineMetadata, KvShape, Salt, Tiers, block_on};
use tracing_subscriber::EnvFilter;

fn main() -> Result<(), Box<dyn Error>> {
    // kvtier logs through `tracing`; `RUST_LOG=kvtier=debug` shows more.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let metadata = EngineMetadata {
        model_name: "tiny".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([2, 2, 64, 2, 32])?,
    };
    block_on(serve(metadata, (0..256).collect(), (5000..5100).collect()))
}

async fn serve(metadata: EngineMetadata, tokens: Vec<u32>, answer: Vec<u32>) -> Result<(), Box<dyn Error>> {
    let engine = EngineBuilder::from_file("kvtier.yaml", metadata)?.build().await?;

    let mut prompt = engine.prompt(&tokens, &Salt::none()); // keys are derived here, once
    let prefix = engine.lookup_pinned(&prompt, "request-1").await?; // how much is stored, and where
    let found = engine.retrieve(&prompt, Some(&prefix)).await?; // chunks by reference, verified
    let mut allocation = engine.allocate(&prompt).await?; // buffers for what is missing
    for chunk in allocation.missing() {
        copy_from_device(chunk.position, chunk.bytes);
    }
    engine.store(allocation, &Tiers::All).await; // CPU tier now, backends in the background
    engine.unpin("request-1").await;
    prompt.append(&answer); // the next turn hashes its new tokens only

    println!("{} of {} tokens found", found.n_tokens, tokens.len());
    engine.close().await?;
    Ok(())
}

/// Stands for the copy of a chunk's KV tensors from the device.
fn copy_from_device(position: usize, bytes: &mut [u8]) {
    bytes.fill(position as u8);
}
