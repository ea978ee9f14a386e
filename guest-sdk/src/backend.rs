//! The traits that a class implements.

use crate::{ChunkKey, Error, Init, Pinning, Sinks, Sources};

/// A store of chunks whose methods await: the usual kind.
///
/// The host keeps many calls of one instance in flight. Methods take `&self`: keep state in cells (`RefCell`, `Cell`),
/// and never hold a borrow of one across an `.await`, because another call may run there. An instance is called from
/// one thread only.
///
/// Do not use `std::fs`, `std::net` or `std::thread::sleep` in these methods: they stop all calls of the instance.
/// [`wasip3`](crate::wasip3) has what awaits instead.
///
/// Lists of keys name the chunks in the order of the prompt.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a storage backend",
    label = "`{Self}` implements neither `kvtier_guest::ChunkStore` nor `kvtier_guest::StorageBackend`",
    note = "write `impl kvtier_guest::ChunkStore for {Self}`, or `impl kvtier_guest::StorageBackend for {Self}` to work on \
            many chunks in one call; for plain methods implement `BlockingBackend` and export it as `blocking {Self}`"
)]
#[expect(async_fn_in_trait, reason = "guests have one thread, so no caller needs the futures to be `Send`")]
pub trait StorageBackend: Sized + 'static {
    /// Validates the configuration and makes an instance. Connecting, scanning and recovering belong in
    /// [`open`](Self::open).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a value is missing or wrong; the text names the key.
    fn new(init: Init) -> Result<Self, Error>;

    /// Returns how many instances, the configuration's `lanes`, may work side by side for the same chunks; the host
    /// refuses more. Any number by default, which is right for classes that keep everything in a store outside. A class
    /// that keeps chunks or an index of them in the instance returns 1.
    fn lanes_max() -> u32 {
        u32::MAX
    }

    /// Makes the instance ready. Called once, before all others. Does nothing by default.
    async fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Returns how many of `keys`, counted from the first, are present without a gap. With [`Pinning::Pin`], protects
    /// exactly those, as [`pin`](Self::pin) does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with [`Pinning::Pin`] where [`pin`](Self::pin) is unsupported, as it is by default; then
    /// the host makes lookups without it. Any other if the backend cannot tell.
    async fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error>;

    /// Returns for each of `keys`, in order, whether it is present. [`Error::Unsupported`] by default; then the host
    /// uses [`contains`](Self::contains).
    async fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// Stores chunk `i` of `data` under `keys[i]`: whole or not at all. Returns one result per key, in order. A key
    /// that is present keeps its bytes, and the put counts as a use.
    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>>;

    /// Writes the chunk stored under `keys[i]` to the beginning of buffer `i` of `into`. Returns one result per key, in
    /// order: the chunk's length, or `None` if the chunk is absent. A chunk that is larger than the buffer is not
    /// written.
    async fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>>;

    /// Protects the leading run of `keys` that is present from removal by the backend's own eviction, and returns its
    /// length. [`Error::Unsupported`] by default, which is right for a backend that never evicts.
    async fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// Ends the protection of `keys`, and returns how many were pinned. [`Error::Unsupported`] by default.
    async fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// Removes `keys`, pinned or not, and returns how many were present. [`Error::Unsupported`] by default, which is
    /// right only for stores that keep their chunks for ever.
    async fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// Writes out what is pending and releases what is held. The last call; never made after a trap. Does nothing by
    /// default.
    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A store of chunks whose methods do not await. Export it as `export!(blocking MyBackend)`.
///
/// The host calls it once at a time. Methods mean what they mean in [`StorageBackend`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a storage backend in blocking style",
    label = "`{Self}` does not implement `kvtier_guest::BlockingBackend`",
    note = "if it implements `StorageBackend`, export it without the word `blocking`"
)]
pub trait BlockingBackend: Sized + 'static {
    /// See [`StorageBackend::new`].
    fn new(init: Init) -> Result<Self, Error>;

    /// See [`StorageBackend::lanes_max`].
    fn lanes_max() -> u32 {
        u32::MAX
    }

    /// See [`StorageBackend::open`].
    fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    /// See [`StorageBackend::contains`].
    fn contains(&self, keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error>;

    /// See [`StorageBackend::present`].
    fn present(&self, keys: &[ChunkKey]) -> Result<Vec<bool>, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// See [`StorageBackend::put`].
    fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>>;

    /// See [`StorageBackend::get`].
    fn get(&self, keys: &[ChunkKey], into: &Sinks) -> Vec<Result<Option<u64>, Error>>;

    /// See [`StorageBackend::pin`].
    fn pin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// See [`StorageBackend::unpin`].
    fn unpin(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// See [`StorageBackend::remove`].
    fn remove(&self, keys: &[ChunkKey]) -> Result<u32, Error> {
        let _ = keys;
        Err(Error::Unsupported)
    }

    /// See [`StorageBackend::close`].
    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
