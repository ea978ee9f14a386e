//! An engine on keys, without tokens and without a KV shape: for adapters to serving engines that name their blocks
//! themselves.
//!
//! `cargo run --example keys`

use std::error::Error;

use kvtier::{ChunkKey, ChunkSpec, Config, EngineBuilder, StorageMetadata, Tiers};

fn main() -> Result<(), Box<dyn Error>> {
    kvtier::block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let size_bytes = 32 << 10;
    let metadata = StorageMetadata {
        model_name: "tiny".into(),
        world_size: 1,
        worker_id: 0,
        layout: "pages of 64 tokens, bfloat16".into(),
        chunk_bytes_max: size_bytes,
    };
    let config = Config { pool_size_bytes: 16 << 20, ..Config::default() };
    let storage = EngineBuilder::on_keys(config, metadata).build().await?;

    // Keys are derived from the names that the serving engine has. Four blocks, in the order of the prompt.
    let names = ["block 1", "block 2", "block 3", "block 4"];
    let keys: Vec<ChunkKey> = storage.namespace().foreign_keys(names.map(str::as_bytes));
    let specs: Vec<ChunkSpec> = keys.iter().map(|&key| ChunkSpec { key, size_bytes }).collect();

    // Store the first three: buffers for what is missing, filled by the caller, shared with all tiers.
    let mut allocation = storage.allocate(&specs[..3]).await?;
    for missing in allocation.missing() {
        missing.bytes.fill(missing.position as u8);
    }
    let stored = storage.put(allocation, &Tiers::All).await;
    println!("{} chunks stored", stored.n_new);

    // Look up, and keep what is there from being evicted until it has been retrieved.
    let lookup = storage.contains_pinned(&keys, &Tiers::All, "request-1").await;
    println!("{} of {} chunks found", lookup.n_chunks, keys.len());
    let found = storage.get(&specs[..lookup.n_chunks], &Tiers::All, Some(&lookup)).await;
    let first_bytes: Vec<u8> = found.chunks.iter().map(|chunk| chunk[0]).collect();
    println!("chunks {first_bytes:?}");
    storage.unpin("request-1").await;

    println!("{} removed", storage.remove(&keys, &Tiers::All).await?);
    storage.close().await?;
    Ok(())
}
