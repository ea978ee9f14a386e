use kvtier_guest::{ChunkKey, Error, Init, Sinks, Sources, StorageBackend};

struct LogBackend;

impl StorageBackend for LogBackend {
    fn new(_: Init) -> Result<Self, Error> {
        Ok(Self)
    }
    async fn contains(&self, _: &[ChunkKey], _: kvtier_guest::Pinning) -> Result<u32, Error> {
        Ok(0)
    }
    async fn put(&self, _: &[ChunkKey], _: &Sources) -> Vec<Result<(), Error>> {
        Vec::new()
    }
    async fn get(&self, _: &[ChunkKey], _: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        Vec::new()
    }
}

kvtier_guest::export!(blocking LogBackend);

fn main() {}
