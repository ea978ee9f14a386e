//! Moving a chunk's bytes.

use wasip3::filesystem::types::Descriptor;
use wit_bindgen::StreamReader;

use crate::bindings::kvtier::storage::{files, files_blocking, streams};
use crate::{Caching, Error, FileToLoad, FileToStore, Sinks, Sources};

/// Bytes moved by one copy between host and guest: large enough for memory speed, small enough to keep a guest's memory
/// small.
pub const COPY_BYTES_MAX: u64 = 1 << 20;

/// Guest memory in bytes that [`Sources::read_all`] leaves free: for the lists of keys and the results of other calls,
/// whose allocation cannot fail without a trap.
const SPARE_BYTES: usize = 256 << 10;

/// Checks that guest memory suffices for `n_bytes`, and for 256 KiB that other calls may need. Call it before
/// [`Sources::read`]: the host allocates what it returns in the guest, and a failure there is a trap.
///
/// # Errors
/// [`Error::NoSpace`] if it does not suffice.
pub fn check_memory(n_bytes: usize) -> Result<(), Error> {
    let mut tried = Vec::<u8>::new();
    tried.try_reserve_exact(n_bytes.saturating_add(SPARE_BYTES)).map_err(|_| Error::NoSpace)?;
    // The compiler may remove an unused allocation, which then never fails.
    drop(std::hint::black_box(tried));
    Ok(())
}

impl Sources {
    /// Returns the sizes of all chunks in bytes, in order.
    pub fn sizes(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.count()).map(|index| self.len(index))
    }

    /// Copies the whole of chunk `index` into guest memory, in pieces, so that what is needed is the chunk's size,
    /// [`COPY_BYTES_MAX`], and 256 KiB that are left for other calls.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if guest memory does not suffice; else as [`read`](Self::read).
    pub fn read_all(&self, index: u32) -> Result<Vec<u8>, Error> {
        let size = self.len(index);
        let mut bytes = Vec::new();
        // A limit on guest memory is the operator's right: an answer, not a trap.
        bytes.try_reserve_exact(size as usize).map_err(|_| Error::NoSpace)?;
        let mut offset = 0;
        while offset < size {
            let n = (size - offset).min(COPY_BYTES_MAX);
            // The host allocates the piece in the guest, and a failure there is a trap.
            check_memory(n as usize)?;
            bytes.extend_from_slice(&self.read(index, offset, n)?);
            offset += n;
        }
        Ok(bytes)
    }

    /// Returns the bytes `offset..offset + len` of chunk `index` as a stream. They do not pass through guest memory if
    /// it is handed on to a host function, such as a socket's `send`. Empty if the range does not lie within the chunk.
    ///
    /// # Panics
    /// Traps if there is no such chunk.
    pub fn read_stream(&self, index: u32, offset: u64, len: u64) -> StreamReader<u8> {
        streams::read_stream(self, index, offset, len)
    }

    /// Writes the whole of chunk `index` to `file` at byte `at`, not through guest memory, and returns the number of
    /// bytes. Not atomic, and does not sync.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if the file system is full, and others: see the contract's `files.store`.
    pub async fn store_to(&self, index: u32, file: &Descriptor, at: u64) -> Result<u64, Error> {
        files::store(self, index, file, at).await
    }

    /// [`store_to`](Self::store_to) for a [`BlockingBackend`](crate::BlockingBackend).
    ///
    /// # Errors
    /// As [`store_to`](Self::store_to).
    pub fn store_to_blocking(
        &self,
        index: u32,
        file: &wasip2::filesystem::types::Descriptor,
        at: u64,
    ) -> Result<u64, Error> {
        files_blocking::store(self, index, file, at)
    }

    /// Writes chunks to files of their own below `directory`, each under its temporary name first, and returns the size
    /// of each or an error, in the order of `files`. Not through guest memory, and with few changes of threads for all
    /// of them. Does not sync.
    ///
    /// # Errors
    /// For each file, see the contract's `files.store-all`.
    pub async fn store_all(
        &self,
        directory: &Descriptor,
        files: Vec<FileToStore>,
        caching: Caching,
    ) -> Vec<Result<u64, Error>> {
        files::store_all(self, directory, files, caching).await
    }

    /// [`store_all`](Self::store_all) for a [`BlockingBackend`](crate::BlockingBackend).
    ///
    /// # Errors
    /// As [`store_all`](Self::store_all).
    pub fn store_all_blocking(
        &self,
        directory: &wasip2::filesystem::types::Descriptor,
        files: &[FileToStore],
        caching: Caching,
    ) -> Vec<Result<u64, Error>> {
        files_blocking::store_all(self, directory, files, caching)
    }
}

impl Sinks {
    /// Returns the capacities of all buffers in bytes, in order.
    pub fn capacities(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.count()).map(|index| self.capacity(index))
    }

    /// Copies a whole chunk to the beginning of buffer `index`, and returns what `get` returns for it: its length. A
    /// chunk that is larger than the buffer is not the one that the host asks for, and is not copied.
    ///
    /// # Errors
    /// See [`write`](Self::write).
    pub fn write_all(&self, index: u32, chunk: &[u8]) -> Result<Option<u64>, Error> {
        let size_bytes = chunk.len() as u64;
        if size_bytes > self.capacity(index) {
            return Ok(Some(size_bytes));
        }
        let mut offset = 0;
        for piece in chunk.chunks(COPY_BYTES_MAX as usize) {
            self.write(index, offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(Some(size_bytes))
    }

    /// Writes what `data` delivers to buffer `index`, from byte `offset` on, until the stream ends, and returns the
    /// number of bytes. They do not pass through guest memory if the stream comes from a host function, such as a
    /// socket's `receive`.
    ///
    /// # Errors
    /// See the contract's `streams.write-stream`. Bytes written before an error stay written.
    pub async fn write_stream(&self, index: u32, offset: u64, data: StreamReader<u8>) -> Result<u64, Error> {
        streams::write_stream(self, index, offset, data).await
    }

    /// Fills buffer `index` from `file`, from byte `at` on, not through guest memory, until the buffer is full or the
    /// file ends, and returns the number of bytes read.
    ///
    /// # Errors
    /// See the contract's `files.load`.
    pub async fn load_from(&self, index: u32, file: &Descriptor, at: u64) -> Result<u64, Error> {
        files::load(self, index, file, at).await
    }

    /// [`load_from`](Self::load_from) for a [`BlockingBackend`](crate::BlockingBackend).
    ///
    /// # Errors
    /// As [`load_from`](Self::load_from).
    pub fn load_from_blocking(
        &self,
        index: u32,
        file: &wasip2::filesystem::types::Descriptor,
        at: u64,
    ) -> Result<u64, Error> {
        files_blocking::load(self, index, file, at)
    }

    /// Fills buffers from files of their own below `directory`, not through guest memory, and returns the number of
    /// bytes read for each, `None` if there is no such file, or an error, in the order of `files`. Of a file that is
    /// larger than its buffer nothing is read, and its size is returned.
    ///
    /// # Errors
    /// For each file, see the contract's `files.load-all`.
    pub async fn load_all(
        &self,
        directory: &Descriptor,
        files: Vec<FileToLoad>,
        caching: Caching,
    ) -> Vec<Result<Option<u64>, Error>> {
        files::load_all(self, directory, files, caching).await
    }

    /// [`load_all`](Self::load_all) for a [`BlockingBackend`](crate::BlockingBackend).
    ///
    /// # Errors
    /// As [`load_all`](Self::load_all).
    pub fn load_all_blocking(
        &self,
        directory: &wasip2::filesystem::types::Descriptor,
        files: &[FileToLoad],
        caching: Caching,
    ) -> Vec<Result<Option<u64>, Error>> {
        files_blocking::load_all(self, directory, files, caching)
    }
}

/// Finds out whether files below `directory` can be written past the page cache, by writing one under the name
/// `temporary` and removing it.
///
/// # Errors
/// [`Error::Unsupported`] if the file system does not do it; else see the contract's `files.try-direct`.
pub async fn try_direct(directory: &Descriptor, temporary: String) -> Result<(), Error> {
    files::try_direct(directory, temporary).await
}

/// [`try_direct`] for a [`BlockingBackend`](crate::BlockingBackend).
///
/// # Errors
/// As [`try_direct`].
pub fn try_direct_blocking(
    directory: &wasip2::filesystem::types::Descriptor,
    temporary: &str,
) -> Result<(), Error> {
    files_blocking::try_direct(directory, temporary)
}
