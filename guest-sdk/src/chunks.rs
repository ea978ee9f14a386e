//! The chunks of a call, one by one.

use wasip3::filesystem::types::Descriptor;
use wit_bindgen::StreamReader;

use crate::{ChunkKey, Error, Sinks, Sources};

/// One chunk that is to be stored.
///
/// ```no_run
/// # use kvtier_guest::{ChunkKey, Error, Sources};
/// # fn put(keys: &[ChunkKey], data: &Sources) -> Result<(), Error> {
/// for chunk in data.chunks(keys) {
///     let bytes: Vec<u8> = chunk.read()?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    data: &'a Sources,
    index: u32,
    key: ChunkKey,
}

impl Sources {
    /// Returns the chunks of a call, with `keys`, the call's own.
    pub fn chunks<'a>(&'a self, keys: &'a [ChunkKey]) -> impl ExactSizeIterator<Item = Source<'a>> {
        keys.iter().enumerate().map(|(index, key)| Source { data: self, index: index as u32, key: *key })
    }
}

#[expect(clippy::len_without_is_empty, reason = "a chunk is never empty")]
impl Source<'_> {
    /// Returns the chunk's key.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// Returns the chunk's position in its call.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the chunk's size in bytes: its payload and 64 bytes of trailer.
    pub fn len(&self) -> u64 {
        self.data.len(self.index)
    }

    /// Copies the chunk into guest memory.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if guest memory does not suffice; else as [`Sources::read`].
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        self.data.read_all(self.index)
    }

    /// Copies the bytes `offset..offset + len` of the chunk into guest memory.
    ///
    /// # Errors
    /// See [`Sources::read`].
    pub fn read_at(&self, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
        self.data.read(self.index, offset, len)
    }

    /// Returns the chunk as a stream, for a socket or a request. Its bytes do not pass through guest memory if it is
    /// handed on to a host function.
    pub fn stream(&self) -> StreamReader<u8> {
        self.data.read_stream(self.index, 0, self.len())
    }

    /// Writes the chunk to `file` at byte `at`, not through guest memory, and returns the number of bytes. Not atomic,
    /// and does not sync.
    ///
    /// # Errors
    /// See [`Sources::store_to`].
    pub async fn store_to(&self, file: &Descriptor, at: u64) -> Result<u64, Error> {
        self.data.store_to(self.index, file, at).await
    }
}

/// The buffer of one chunk that is to be fetched.
#[derive(Clone, Copy, Debug)]
pub struct Sink<'a> {
    into: &'a Sinks,
    index: u32,
    key: ChunkKey,
}

impl Sinks {
    /// Returns the buffers of a call, with `keys`, the call's own.
    pub fn chunks<'a>(&'a self, keys: &'a [ChunkKey]) -> impl ExactSizeIterator<Item = Sink<'a>> {
        keys.iter().enumerate().map(|(index, key)| Sink { into: self, index: index as u32, key: *key })
    }
}

impl Sink<'_> {
    /// Returns the key of the chunk that is asked for.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// Returns the chunk's position in its call.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the most bytes that the chunk may have.
    pub fn capacity(&self) -> u64 {
        self.into.capacity(self.index)
    }

    /// Fills the buffer with a whole chunk, and returns what a get returns for it: the chunk's length. A chunk that is
    /// larger than the buffer is not the one that the host asks for, and is not copied.
    ///
    /// # Errors
    /// See [`Sinks::write`].
    pub fn write(&self, chunk: &[u8]) -> Result<Option<u64>, Error> {
        self.into.write_all(self.index, chunk)
    }

    /// Copies `bytes` to `offset` of the buffer.
    ///
    /// # Errors
    /// See [`Sinks::write`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.into.write(self.index, offset, bytes)
    }

    /// Fills the buffer with what `data` delivers, and returns the number of bytes. They do not pass through guest
    /// memory if the stream comes from a host function.
    ///
    /// # Errors
    /// See [`Sinks::write_stream`].
    pub async fn write_stream(&self, data: StreamReader<u8>) -> Result<u64, Error> {
        self.into.write_stream(self.index, 0, data).await
    }

    /// Fills the buffer from `file`, from byte `at` on, not through guest memory, until it is full or the file ends,
    /// and returns the number of bytes.
    ///
    /// # Errors
    /// See [`Sinks::load_from`].
    pub async fn load_from(&self, file: &Descriptor, at: u64) -> Result<u64, Error> {
        self.into.load_from(self.index, file, at).await
    }
}
