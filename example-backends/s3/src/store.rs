//! Chunks as objects.

use std::collections::BTreeSet;

use kvtier_guest::{ChunkKey, Error, Sinks, Sources, each, each_bounded, info};

use crate::bucket::Bucket;
use crate::config::Config;

/// The chunks of an engine's namespace, in a bucket that others may share.
///
/// Remembers nothing of what is stored: others store and remove too, so each call asks the bucket.
pub(crate) struct Store {
    bucket: Bucket,
}

impl Store {
    pub(crate) fn new(config: Config) -> Self {
        Self { bucket: Bucket::new(config) }
    }

    pub(crate) async fn open(&self) -> Result<(), Error> {
        self.bucket.check().await?;
        let config = self.bucket.config();
        info!("open: bucket `{}`, objects below `{}`", config.bucket.name(), config.folder);
        Ok(())
    }

    /// Asks for as many keys at once as there may be requests, until one is absent.
    pub(crate) async fn contains(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let mut n_present = 0;
        for keys in keys.chunks(self.bucket.config().requests) {
            for is_present in self.look_up(keys).await {
                if !is_present? {
                    return Ok(n_present);
                }
                n_present += 1;
            }
        }
        Ok(n_present)
    }

    pub(crate) async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        self.look_up(keys).await.into_iter().collect()
    }

    async fn look_up(&self, keys: &[ChunkKey]) -> Vec<Result<bool, Error>> {
        let look_up = async |_, key| Ok(self.bucket.size_of(&self.object(key)).await?.is_some());
        each_bounded(keys, self.bucket.config().requests, look_up).await
    }

    pub(crate) async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        each(keys, async |index, key| {
            let object = self.object(key);
            // One of another size can never be read: it is replaced.
            if self.bucket.size_of(&object).await? == Some(data.len(index)) {
                return Ok(());
            }
            self.bucket.put(&object, data, index).await
        })
        .await
    }

    pub(crate) async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        each(keys, async |index, key| self.bucket.get(&self.object(key), into, index).await).await
    }

    pub(crate) async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        // Side by side, all requests of a repeated key would find its object.
        let distinct: BTreeSet<ChunkKey> = keys.iter().copied().collect();
        let distinct: Vec<ChunkKey> = distinct.into_iter().collect();
        let mut n_removed = 0;
        for removed in each(&distinct, async |_, key| self.remove_one(key).await).await {
            n_removed += u32::from(removed?);
        }
        Ok(n_removed)
    }

    async fn remove_one(&self, key: ChunkKey) -> Result<bool, Error> {
        let object = self.object(key);
        // An answer to DELETE does not show whether there was an object.
        let was_present = self.bucket.size_of(&object).await?.is_some();
        if was_present {
            self.bucket.delete(&object).await?;
        }
        Ok(was_present)
    }

    fn object(&self, key: ChunkKey) -> String {
        format!("{}{key}", self.bucket.config().folder)
    }
}
