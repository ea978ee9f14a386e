//! Logs every operation and stores nothing: the counterpart of LMCache's sample backend.

mod config;
mod store;

use kvtier_guest::prelude::*;

use config::Config;
use store::Log;

/// Logs every operation, has no chunk, and has no room for any.
pub struct ExternalLogBackend {
    log: Log,
}

impl StorageBackend for ExternalLogBackend {
    fn new(init: Init) -> Result<Self, Error> {
        let config = Config::from_init(&init)?;
        let metadata = &init.metadata;
        let log = Log::new(config.level);
        log.line(format_args!(
            "new: {} for {}, worker {} of {}, {} {:?} on {}",
            init.backend_name,
            metadata.model_name,
            metadata.worker_id,
            metadata.world_size,
            metadata.kv_dtype,
            metadata.kv_shape,
            init.dst_device,
        ));
        Ok(Self { log })
    }

    async fn open(&self) -> Result<(), Error> {
        self.log.line(format_args!("open"));
        Ok(())
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        let operation = match pinning {
            Pinning::None => "contains",
            Pinning::Pin => "contains and pin",
        };
        self.log.keys(operation, keys);
        Ok(0)
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        self.log.chunks("put", keys, data.sizes().sum());
        // `Ok` would promise that a get finds the chunk.
        keys.iter().map(|_| Err(Error::NoSpace)).collect()
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        self.log.chunks("get", keys, into.capacities().sum());
        keys.iter().map(|_| Ok(None)).collect()
    }

    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.log.keys("pin", keys);
        Ok(0)
    }

    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.log.keys("unpin", keys);
        Ok(0)
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.log.keys("remove", keys);
        Ok(0)
    }

    async fn close(&self) -> Result<(), Error> {
        self.log.line(format_args!("close"));
        Ok(())
    }
}

kvtier_guest::export!(ExternalLogBackend);
