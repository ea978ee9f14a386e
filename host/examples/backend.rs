//! Starts one backend without an engine, and checks a few promises of the contract: what was put is found and comes
//! back as it was, and what was not put is a miss.
//!
//! `cargo run --example backend -- backends/memory.wasm MemoryBackend`

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvtier::memory::{BufferMut, ChunkWriter, Pool, Provider};
use kvtier::tier::{Liveness, Pinning, Sealer, Sinks, Sources, Tier};
use kvtier::{BackendConfig, ChunkKey, Config, Dtype, EngineMetadata, KvShape, Namespace};

const SIZE_BYTES: usize = 4000;

/// Prints when the backend stops serving.
struct Printed;

impl Liveness for Printed {
    fn down(&self, cause: &str, _: Duration) {
        eprintln!("down: {cause}");
    }

    fn up(&self) {}
}

struct Kit {
    tier: Arc<dyn Tier>,
    memory: Arc<dyn Provider>,
    sealer: Sealer,
}

impl Kit {
    fn writer(&self, key: ChunkKey) -> Result<ChunkWriter, Box<dyn Error>> {
        let buffer = BufferMut::allocate(&self.memory, SIZE_BYTES)?.ok_or("the pool is full")?;
        Ok(ChunkWriter::new(key, buffer))
    }

    async fn put(&self, keys: &[ChunkKey]) -> Result<(), Box<dyn Error>> {
        let mut chunks = Vec::new();
        for &key in keys {
            let mut writer = self.writer(key)?;
            writer.fill(key.lo as u8);
            chunks.push(writer.freeze());
        }
        let sources = Sources::new(chunks, &self.sealer);
        let stored = self.tier.put(keys.into(), sources.clone(), deadline()).await;
        sources.revoke();
        stored?.into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }

    /// Returns for each key whether it was served; fails if the bytes are not those that were put.
    async fn get(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Box<dyn Error>> {
        let writers = keys.iter().map(|&key| self.writer(key)).collect::<Result<_, _>>()?;
        let sinks = Sinks::new(writers, &self.sealer);
        let served = self.tier.get(keys.into(), sinks.clone(), deadline()).await;
        let mut found = Vec::new();
        for ((served, sink), key) in served?.into_iter().zip(sinks.revoke()).zip(keys) {
            found.push(served?.is_some());
            if found.last() == Some(&true) {
                let mut sink = sink.ok_or("a transfer is still running")?;
                sink.check()?;
                let (chunk, _) = sink.into_parts();
                assert!(chunk.iter().all(|&byte| byte == key.lo as u8));
            }
        }
        Ok(found)
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn main() -> Result<(), Box<dyn Error>> {
    kvtier::block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(component), Some(class_name)) = (args.next(), args.next()) else {
        return Err("usage: backend COMPONENT CLASS".into());
    };
    let metadata = EngineMetadata {
        model_name: "check".into(),
        world_size: 1,
        worker_id: 0,
        kv_dtype: Dtype::BFloat16,
        kv_shape: KvShape::new([2, 2, 16, 2, 8])?,
    };
    let mut backend = BackendConfig::new("check", component, class_name);
    backend.limits.call_timeout = Duration::from_mins(1);
    backend.limits.open_timeout = Duration::from_mins(1);
    let sealer = Sealer::checksum(Namespace::new(&metadata));
    let tier = kvtier::start_backend(&Config::default(), backend, metadata, Arc::new(Printed)).await?;
    let kit = Kit { tier, memory: Arc::new(Pool::new(1 << 20)?), sealer };

    let keys: Vec<ChunkKey> = (1..=4).map(|n| ChunkKey::from_bytes([n; 16])).collect();
    kit.put(&keys[..3]).await?;
    println!("{} of 4 found", kit.tier.contains(keys[..].into(), Pinning::None, deadline()).await?);
    println!("served: {:?}", kit.get(&keys).await?);
    kit.tier.close(deadline()).await?;
    Ok(())
}
