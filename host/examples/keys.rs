//! The chain of tiers under keys of the serving engine, without tokens: for adapters to engines that name their blocks
//! themselves.
//!
//! `cargo run --example keys`

use std::error::Error;

use kvtier::{ChunkKey, ChunkSpec, Config, Dtype, EngineBuilder, EngineMetadata, KvShape, Tiers};

fn main() -> Result<(), Box<dyn Error>> {
    kvtier::block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let metadata = EngineMetadata {
        model_name: "tiny".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([2, 2, 64, 2, 32])?,
    };
    let size_bytes = metadata.chunk_bytes(64);
    let config = Config { chunk_size: 64, pool_size_bytes: 16 << 20, ..Config::default() };
    let engine = EngineBuilder::new(config, metadata).build().await?;
    let storage = engine.storage();

    // Keys are 16 bytes each; an engine would use its own hashes. Four blocks, in the order of the prompt.
    let specs: Vec<ChunkSpec> =
        (1..=4).map(|n| ChunkSpec { key: ChunkKey::from_bytes([n; 16]), size_bytes }).collect();
    let keys: Vec<ChunkKey> = specs.iter().map(|spec| spec.key).collect();

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
