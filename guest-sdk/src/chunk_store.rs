//! Backends that work on one chunk at a time.

use std::collections::HashMap;

use crate::{
    ChunkKey, Error, Init, Pinning, Sink, Sinks, Source, Sources, StorageBackend, each, each_bounded,
};

/// Chunks of a lookup that are asked for at once.
const LOOKED_UP_AT_ONCE: usize = 64;

/// A store of chunks with methods for one chunk: the easy kind.
///
/// A class that implements this is a [`StorageBackend`]: its calls work on up to [`AT_ONCE_MAX`](crate::AT_ONCE_MAX)
/// chunks at once, and follow the contract for keys that are present or repeated. Implement [`StorageBackend`] where
/// one operation on many chunks costs less than many on one.
///
/// Calls overlap at every `.await`, as described there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a storage backend",
    label = "`{Self}` implements neither `kvtier_guest::ChunkStore` nor `kvtier_guest::StorageBackend`",
    note = "write `impl kvtier_guest::ChunkStore for {Self}`, or `impl kvtier_guest::StorageBackend for {Self}` to work on \
            many chunks in one call; for plain methods implement `BlockingBackend` and export it as `blocking {Self}`"
)]
#[expect(async_fn_in_trait, reason = "guests have one thread, so no caller needs the futures to be `Send`")]
pub trait ChunkStore: Sized + 'static {
    /// Validates the configuration and makes an instance; see [`StorageBackend::new`].
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a value is missing or wrong; the text names the key.
    fn from_init(init: Init) -> Result<Self, Error>;

    /// Reports whether a chunk is present.
    ///
    /// # Errors
    /// Any, if the store cannot tell.
    async fn has(&self, key: ChunkKey) -> Result<bool, Error>;

    /// Stores a chunk that was not present a moment before, whole or not at all.
    ///
    /// # Errors
    /// [`Error::NoSpace`], or any; the chunk is then absent.
    async fn put_one(&self, chunk: Source<'_>) -> Result<(), Error>;

    /// Fills `into` with the chunk `into.key()`, and returns its length, or `None` if it is absent. A chunk that is
    /// larger than the buffer is not written.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged; or any, if the store cannot tell.
    async fn get_one(&self, into: Sink<'_>) -> Result<Option<u64>, Error>;

    /// Removes a chunk, and reports whether it was present.
    ///
    /// # Errors
    /// Any; the chunk may have been removed.
    async fn remove_one(&self, key: ChunkKey) -> Result<bool, Error>;

    /// See [`StorageBackend::lanes_max`].
    fn instances_max() -> u32 {
        u32::MAX
    }

    /// See [`StorageBackend::open`].
    ///
    /// # Errors
    /// Any; the host tries a new instance later.
    async fn start(&self) -> Result<(), Error> {
        Ok(())
    }

    /// See [`StorageBackend::close`].
    ///
    /// # Errors
    /// Any; logged by the host.
    async fn stop(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl<S: ChunkStore> StorageBackend for S {
    fn new(init: Init) -> Result<Self, Error> {
        Self::from_init(init)
    }

    fn lanes_max() -> u32 {
        Self::instances_max()
    }

    async fn open(&self) -> Result<(), Error> {
        self.start().await
    }

    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        let mut n_present = 0;
        for keys in keys.chunks(LOOKED_UP_AT_ONCE) {
            for is_present in each(keys, async |_, key| self.has(key).await).await {
                if !is_present? {
                    return Ok(n_present);
                }
                n_present += 1;
            }
        }
        Ok(n_present)
    }

    async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        let present = each_bounded(keys, LOOKED_UP_AT_ONCE, async |_, key| self.has(key).await).await;
        present.into_iter().collect()
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let first = first_of_each(keys);
        let chunks: Vec<Source<'_>> = data.chunks(keys).collect();
        let stored = each(keys, async |index, key| {
            let chunk = chunks[index as usize];
            if first[index as usize] != index as usize || self.has(key).await? {
                return Ok(());
            }
            self.put_one(chunk).await
        });
        let stored = stored.await;
        // A repeated key is stored once, and has the result of that.
        first.into_iter().map(|index| stored[index].clone()).collect()
    }

    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let buffers: Vec<Sink<'_>> = into.chunks(keys).collect();
        each(keys, async |index, _| self.get_one(buffers[index as usize]).await).await
    }

    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let first = first_of_each(keys);
        let removed = each(keys, async |index, key| {
            if first[index as usize] != index as usize {
                return Ok(false);
            }
            self.remove_one(key).await
        });
        let mut n_removed = 0;
        for was_present in removed.await {
            n_removed += u32::from(was_present?);
        }
        Ok(n_removed)
    }

    async fn close(&self) -> Result<(), Error> {
        self.stop().await
    }
}

/// Returns for each key where in the list it stands first.
fn first_of_each(keys: &[ChunkKey]) -> Vec<usize> {
    let mut first = HashMap::with_capacity(keys.len());
    keys.iter().enumerate().map(|(index, key)| *first.entry(*key).or_insert(index)).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use futures::executor::block_on;

    use super::{ChunkStore, first_of_each};
    use crate::{ChunkKey, Error, Init, Pinning, Sink, Source, StorageBackend};

    fn key(lo: u64) -> ChunkKey {
        ChunkKey { hi: 0, lo }
    }

    struct Keys(RefCell<BTreeSet<u64>>);

    impl ChunkStore for Keys {
        fn from_init(_: Init) -> Result<Self, Error> {
            Ok(Self(RefCell::default()))
        }
        async fn has(&self, key: ChunkKey) -> Result<bool, Error> {
            Ok(self.0.borrow().contains(&key.lo))
        }
        async fn put_one(&self, _: Source<'_>) -> Result<(), Error> {
            Err(Error::NoSpace)
        }
        async fn get_one(&self, _: Sink<'_>) -> Result<Option<u64>, Error> {
            Ok(None)
        }
        async fn remove_one(&self, key: ChunkKey) -> Result<bool, Error> {
            Ok(self.0.borrow_mut().remove(&key.lo))
        }
    }

    #[test]
    fn lookups_count_the_leading_run_and_removals_count_a_key_once() {
        let store = Keys(RefCell::new((0..100).chain(102..110).collect()));
        let keys: Vec<ChunkKey> = (0..110).map(key).collect();
        let contains = |keys: &[ChunkKey]| block_on(store.contains(keys, Pinning::None));
        assert_eq!(
            (contains(&keys), contains(&keys[102..]), contains(&keys[100..])),
            (Ok(100), Ok(8), Ok(0))
        );
        assert_eq!(contains(&[key(1), key(1)]), Ok(2));
        assert_eq!(block_on(store.contains(&keys, Pinning::Pin)), Err(Error::Unsupported));
        let present = block_on(store.present(&keys)).unwrap();
        assert_eq!(present.iter().filter(|present| **present).count(), 108);
        assert_eq!(block_on(store.remove(&[key(1), key(1), key(101)])), Ok(1));
        assert_eq!(contains(&keys), Ok(1));
    }

    #[test]
    fn repeated_keys_are_found_where_they_stand_first() {
        assert_eq!(first_of_each(&[key(5), key(6), key(5), key(5), key(6)]), [0, 1, 0, 0, 1]);
        assert_eq!(first_of_each(&[]), [0; 0]);
    }
}
