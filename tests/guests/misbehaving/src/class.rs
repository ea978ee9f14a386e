//! A class: the working store with one behaviour that spoils it.

use kvtier_guest::{ChunkKey, Error, Init, Pinning, Sinks, Sources, StorageBackend, each};

use crate::settings::{Op, Settings};
use crate::store::Store;

/// The behaviour of a class where it differs from the working store. Each overrides one thing.
pub(crate) trait Behaviour: Default + 'static {
    /// Runs first in the constructor, which cannot await.
    fn in_constructor(&self, settings: &Settings) -> Result<(), Error> {
        let _ = settings;
        Ok(())
    }

    /// Runs first in every other method.
    async fn first(&self, settings: &Settings, op: Op, keys: &[ChunkKey]) -> Result<(), Error> {
        let _ = (settings, op, keys);
        Ok(())
    }

    /// Changes what `contains` answers.
    fn contained(&self, run: u32) -> u32 {
        run
    }

    /// Chooses the bytes that a `get` of `key` writes.
    fn bytes(&self, store: &Store, key: &ChunkKey) -> Option<Vec<u8>> {
        store.bytes(key)
    }

    /// Reads the bytes that a `put` stores.
    async fn read(&self, data: &Sources, index: u32) -> Result<Vec<u8>, Error> {
        data.read_all(index)
    }

    /// Writes them, and returns the number it claims.
    async fn write(&self, bytes: Vec<u8>, into: &Sinks, index: u32) -> Result<u64, Error> {
        into.write(index, 0, &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Answers a `get` of a chunk that is not there.
    fn missing(&self, into: &Sinks, index: u32) -> Option<u64> {
        let _ = (into, index);
        None
    }

    /// Spoils a list of results.
    fn results<T>(&self, settings: &Settings, results: &mut Vec<Result<T, Error>>) {
        let _ = (settings, results);
    }
}

/// The working store with behaviour `B`.
pub(crate) struct Class<B> {
    behaviour: B,
    settings: Settings,
    store: Store,
}

impl<B: Behaviour> StorageBackend for Class<B> {
    fn new(init: Init) -> Result<Self, Error> {
        let settings = Settings::from_init(&init)?;
        let behaviour = B::default();
        behaviour.in_constructor(&settings)?;
        Ok(Self { behaviour, settings, store: Store::default() })
    }

    async fn open(&self) -> Result<(), Error> {
        self.first(Op::Open, &[]).await
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        self.first(Op::Contains, keys).await?;
        Ok(self.behaviour.contained(self.store.contains(keys, pinning)))
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let mut results = match self.first(Op::Put, keys).await {
            Ok(()) => each(keys, async |index, key| self.put_one(index, key, data).await).await,
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        };
        self.behaviour.results(&self.settings, &mut results);
        results
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let mut results = match self.first(Op::Get, keys).await {
            Ok(()) => each(keys, async |index, key| self.get_one(index, key, into).await).await,
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        };
        self.behaviour.results(&self.settings, &mut results);
        results
    }

    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.first(Op::Pin, keys).await?;
        Ok(self.store.contains(keys, Pinning::Pin))
    }

    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.first(Op::Unpin, keys).await?;
        Ok(self.store.unpin(keys))
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        self.first(Op::Remove, keys).await?;
        Ok(self.store.remove(keys))
    }

    async fn close(&self) -> Result<(), Error> {
        self.first(Op::Close, &[]).await
    }
}

impl<B: Behaviour> Class<B> {
    async fn first(&self, op: Op, keys: &[ChunkKey]) -> Result<(), Error> {
        self.behaviour.first(&self.settings, op, keys).await
    }

    async fn put_one(&self, index: u32, key: ChunkKey, data: &Sources) -> Result<(), Error> {
        let bytes = self.behaviour.read(data, index).await?;
        self.store.put(key, bytes);
        Ok(())
    }

    async fn get_one(&self, index: u32, key: ChunkKey, into: &Sinks) -> Result<Option<u64>, Error> {
        match self.behaviour.bytes(&self.store, &key) {
            Some(bytes) => self.behaviour.write(bytes, into, index).await.map(Some),
            None => Ok(self.behaviour.missing(into, index)),
        }
    }
}
