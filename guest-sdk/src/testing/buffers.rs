//! The buffers of a call, in the test's own memory, in place of the host's (the contract's interface `buffers`).

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

use crate::{COPY_BYTES_MAX, Error};

/// A host allows as many separate pieces of a buffer.
const PIECES_MAX: usize = 64;

/// Chunks to be stored.
#[derive(Debug)]
pub struct Sources {
    set: Rc<SourceSet>,
    /// Of the chunks that this handle shows, in the call.
    positions: Vec<u32>,
}

#[derive(Debug)]
struct SourceSet {
    chunks: Vec<Vec<u8>>,
    is_revoked: Cell<bool>,
}

impl Sources {
    pub(super) fn of(chunks: Vec<Vec<u8>>) -> Self {
        let positions = (0..chunks.len() as u32).collect();
        Self { set: Rc::new(SourceSet { chunks, is_revoked: Cell::new(false) }), positions }
    }

    /// Ends the call: the backend is refused all further reads.
    pub fn revoke(&self) {
        self.set.is_revoked.set(true);
    }

    /// Returns the number of chunks.
    pub fn count(&self) -> u32 {
        self.positions.len() as u32
    }

    /// Returns another handle to the chunks at `indices`, in that order.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the call has ended.
    ///
    /// # Panics
    /// Panics if there is no such chunk, or if there are more indices than chunks, where a component traps.
    pub fn select(&self, indices: &[u32]) -> Result<Self, Error> {
        let positions = select(&self.positions, indices);
        check_lent(&self.set.is_revoked)?;
        Ok(Self { set: Rc::clone(&self.set), positions })
    }

    /// Returns the size of chunk `index` in bytes.
    ///
    /// # Panics
    /// Panics if there is no such chunk, where a component traps.
    pub fn len(&self, index: u32) -> u64 {
        self.chunk(index).len() as u64
    }

    /// Returns the bytes `offset..offset + len` of chunk `index`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range does not lie within the chunk, if `len` exceeds [`COPY_BYTES_MAX`], the
    /// lowest limit that an operator can set, or if the call has ended.
    ///
    /// # Panics
    /// Panics if there is no such chunk, where a component traps.
    pub fn read(&self, index: u32, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
        let chunk = self.chunk(index);
        if len > COPY_BYTES_MAX {
            let why = format!(
                "{len} bytes are more than the {COPY_BYTES_MAX} that every operator allows for one read"
            );
            return Err(Error::invalid_argument(why));
        }
        check_lent(&self.set.is_revoked)?;
        Ok(chunk[range(offset, len, chunk.len())?].to_vec())
    }

    fn chunk(&self, index: u32) -> &[u8] {
        &self.set.chunks[position(&self.positions, index)]
    }
}

/// Returns the positions in the call of some of a handle's chunks.
fn select(positions: &[u32], indices: &[u32]) -> Vec<u32> {
    let (n, n_all) = (indices.len(), positions.len());
    assert!(n <= n_all, "{n} indices for a call of {n_all} chunks");
    indices.iter().map(|index| position(positions, *index) as u32).collect()
}

fn position(positions: &[u32], index: u32) -> usize {
    let n = positions.len();
    let found = positions.get(index as usize);
    *found.unwrap_or_else(|| panic!("chunk {index} of a call with {n} chunks")) as usize
}

/// Buffers to be filled.
#[derive(Debug)]
pub struct Sinks {
    set: Rc<SinkSet>,
    /// Of the buffers that this handle shows, in the call.
    positions: Vec<u32>,
}

#[derive(Debug)]
struct SinkSet {
    buffers: Vec<RefCell<Buffer>>,
    is_revoked: Cell<bool>,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    /// Disjoint ranges in ascending order.
    written: Vec<Range<usize>>,
}

impl Sinks {
    pub(super) fn of(capacities: Vec<u64>) -> Self {
        let buffer = |capacity| Buffer { bytes: vec![0; capacity as usize], written: Vec::new() };
        let buffers: Vec<_> = capacities.into_iter().map(|capacity| RefCell::new(buffer(capacity))).collect();
        let positions = (0..buffers.len() as u32).collect();
        Self { set: Rc::new(SinkSet { buffers, is_revoked: Cell::new(false) }), positions }
    }

    /// Ends the call: the backend is refused all further writes.
    pub fn revoke(&self) {
        self.set.is_revoked.set(true);
    }

    /// Returns another handle to the buffers at `indices`, in that order.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if an index repeats or the call has ended.
    ///
    /// # Panics
    /// Panics if there is no such buffer, or if there are more indices than buffers, where a component traps.
    pub fn select(&self, indices: &[u32]) -> Result<Self, Error> {
        let positions = select(&self.positions, indices);
        let mut seen = HashSet::new();
        if !indices.iter().all(|index| seen.insert(*index)) {
            return Err(Error::invalid_argument("a buffer is selected twice"));
        }
        check_lent(&self.set.is_revoked)?;
        Ok(Self { set: Rc::clone(&self.set), positions })
    }

    /// Returns the chunk that each buffer holds according to `results`, those of the get. `None` also stands for a
    /// chunk that is larger than its buffer, which a host counts as a miss.
    ///
    /// # Panics
    /// Panics where a host would take the answer for a fault of the backend: if there is not one result for each
    /// buffer, or if a length counts bytes that were not written.
    pub fn fetched(&self, results: &[Result<Option<u64>, Error>]) -> Vec<Result<Option<Vec<u8>>, Error>> {
        let (n_results, n_buffers) = (results.len(), self.positions.len());
        assert_eq!(n_results, n_buffers, "a get returns one result for each buffer");
        let mut chunks = Vec::with_capacity(n_buffers);
        for (index, result) in results.iter().enumerate() {
            let buffer = self.buffer(index as u32);
            let chunk = |size_bytes: u64| buffer.borrow().chunk(index, size_bytes as usize);
            chunks.push(result.clone().map(|size_bytes| size_bytes.and_then(chunk)));
        }
        chunks
    }

    /// Returns the number of buffers.
    pub fn count(&self) -> u32 {
        self.positions.len() as u32
    }

    /// Returns the capacity of buffer `index` in bytes.
    ///
    /// # Panics
    /// Panics if there is no such buffer, where a component traps.
    pub fn capacity(&self, index: u32) -> u64 {
        self.buffer(index).borrow().bytes.len() as u64
    }

    /// Copies `bytes` to `offset` of buffer `index`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range does not lie within the buffer, if more than 64 separate pieces of it
    /// would be written, or if the call has ended.
    ///
    /// # Panics
    /// Panics if there is no such buffer, or if `bytes` are more than [`COPY_BYTES_MAX`], where a component traps.
    pub fn write(&self, index: u32, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut buffer = self.buffer(index).borrow_mut();
        let n_bytes = bytes.len() as u64;
        assert!(
            n_bytes <= COPY_BYTES_MAX,
            "{n_bytes} bytes in one write, where every operator allows {COPY_BYTES_MAX}"
        );
        check_lent(&self.set.is_revoked)?;
        let range = range(offset, n_bytes, buffer.bytes.len())?;
        buffer.note(range.clone())?;
        buffer.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    fn buffer(&self, index: u32) -> &RefCell<Buffer> {
        &self.set.buffers[position(&self.positions, index)]
    }
}

impl Buffer {
    fn note(&mut self, new: Range<usize>) -> Result<(), Error> {
        if new.is_empty() {
            return Ok(());
        }
        let (touching, mut apart): (Vec<_>, Vec<_>) =
            self.written.iter().cloned().partition(|range| range.start <= new.end && new.start <= range.end);
        if apart.len() >= PIECES_MAX {
            let why = format!("the buffer is filled in more than {PIECES_MAX} separate pieces");
            return Err(Error::invalid_argument(why));
        }
        let join = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
        apart.push(touching.into_iter().fold(new, join));
        apart.sort_by_key(|range| range.start);
        self.written = apart;
        Ok(())
    }

    fn chunk(&self, index: usize, size_bytes: usize) -> Option<Vec<u8>> {
        if size_bytes > self.bytes.len() {
            return None;
        }
        let n_written = self.written.first().filter(|range| range.start == 0).map_or(0, |range| range.end);
        assert!(
            size_bytes <= n_written,
            "a chunk of {size_bytes} bytes in buffer {index}, the first {n_written} of which were written"
        );
        Some(self.bytes[..size_bytes].to_vec())
    }
}

fn check_lent(is_revoked: &Cell<bool>) -> Result<(), Error> {
    if is_revoked.get() { Err(Error::invalid_argument("the call has ended")) } else { Ok(()) }
}

fn range(offset: u64, len: u64, size: usize) -> Result<Range<usize>, Error> {
    match offset.checked_add(len) {
        Some(end) if end <= size as u64 => Ok(offset as usize..end as usize),
        _ => Err(Error::invalid_argument(format!("{len} bytes from {offset} do not lie within {size}"))),
    }
}

/// What generated code needs of a resource, and calls in components only.
macro_rules! resource {
    ($($name:ident),*) => {$(
        #[doc(hidden)]
        impl $name {
            pub fn from_handle(_: u32) -> Self {
                unreachable!("handles exist in components only")
            }

            pub fn handle(&self) -> u32 {
                unreachable!("files, streams and handles exist in components only")
            }

            pub fn take_handle(&self) -> u32 {
                self.handle()
            }
        }
    )*};
}

resource!(Sources, Sinks);

#[cfg(test)]
mod tests {
    use super::PIECES_MAX;
    use crate::testing::{sinks, sources};
    use crate::{COPY_BYTES_MAX, Error};

    fn is_refused<T>(result: &Result<T, Error>) -> bool {
        matches!(result, Err(Error::InvalidArgument(_)))
    }

    #[test]
    fn a_chunk_is_read_within_its_bounds_until_the_call_ends() {
        let data = sources([b"abcdef".to_vec(), vec![7; 2 << 20]]);
        assert_eq!((data.count(), data.len(0)), (2, 6));
        assert_eq!(data.read(0, 2, 4), Ok(b"cdef".to_vec()));
        assert_eq!(data.read(0, 6, 0), Ok(Vec::new()));
        assert!(is_refused(&data.read(0, 3, 4)) && is_refused(&data.read(0, u64::MAX, 2)));
        assert!(is_refused(&data.read(1, 0, COPY_BYTES_MAX + 1)));
        assert_eq!(data.read_all(1).unwrap().len(), 2 << 20);
        data.revoke();
        assert!(is_refused(&data.read(0, 0, 1)));
        assert_eq!(data.len(0), 6);
    }

    #[test]
    fn a_buffer_is_written_within_its_bounds_until_the_call_ends() {
        let into = sinks([4]);
        assert_eq!(into.write(0, 2, b"cd"), Ok(()));
        assert_eq!(into.write(0, 0, b"ab"), Ok(()));
        assert!(is_refused(&into.write(0, 3, b"xy")));
        assert_eq!(into.write_all(0, b"too long"), Ok(Some(8)));
        assert_eq!(into.fetched(&[Ok(Some(8))]), [Ok(None)]);
        into.revoke();
        assert!(is_refused(&into.write(0, 0, b"x")));
        assert_eq!(into.fetched(&[Ok(Some(4))]), [Ok(Some(b"abcd".to_vec()))]);
        assert_eq!(into.fetched(&[Ok(Some(3))]), [Ok(Some(b"abc".to_vec()))]);
        assert_eq!(into.fetched(&[Err(Error::NoSpace)]), [Err(Error::NoSpace)]);
    }

    #[test]
    fn pieces_that_touch_are_one_and_too_many_are_refused() {
        let into = sinks([1000]);
        for at in 0..PIECES_MAX as u64 {
            assert_eq!(into.write(0, 4 * at, b"x"), Ok(()));
        }
        assert!(is_refused(&into.write(0, 900, b"x")));
        assert_eq!(into.write(0, 1, b"xxx"), Ok(()), "joins the first two");
        assert_eq!(into.write(0, 900, b"x"), Ok(()));
        assert_eq!(into.fetched(&[Ok(Some(5))]), [Ok(Some(b"xxxxx".to_vec()))]);
    }

    #[test]
    fn selections_show_the_same_memory_in_their_own_order() {
        let data = sources(["a", "b", "c"]);
        let some = data.select(&[2, 0]).unwrap().select(&[1, 0, 1][..2]).unwrap();
        assert_eq!(
            (some.count(), some.read(0, 0, 1), some.read(1, 0, 1)),
            (2, Ok(b"a".to_vec()), Ok(b"c".to_vec()))
        );
        let into = sinks([1, 1]);
        assert_eq!(into.select(&[1]).unwrap().write(0, 0, b"x"), Ok(()));
        assert_eq!(into.fetched(&[Ok(None), Ok(Some(1))]), [Ok(None), Ok(Some(b"x".to_vec()))]);
        assert!(is_refused(&into.select(&[1, 1]).map(drop)));
        data.revoke();
        assert!(is_refused(&some.read(0, 0, 1)) && is_refused(&data.select(&[0]).map(drop)));
    }

    #[test]
    #[should_panic(expected = "the first 2 of which were written")]
    fn a_length_that_counts_unwritten_bytes_fails_the_test() {
        let into = sinks([4]);
        into.write(0, 0, b"ab").unwrap();
        into.fetched(&[Ok(Some(3))]);
    }

    #[test]
    #[should_panic(expected = "one result for each buffer")]
    fn a_missing_result_fails_the_test() {
        sinks([4, 4]).fetched(&[Ok(None)]);
    }

    #[test]
    #[should_panic(expected = "chunk 1 of a call with 1 chunks")]
    fn a_chunk_that_does_not_exist_fails_the_test() {
        sources(["a"]).len(1);
    }
}
