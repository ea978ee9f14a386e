//! A chunk's bytes between host memory and a file that was opened for direct I/O, past the page cache.
//!
//! Direct I/O needs memory, positions and lengths that are multiples of a block. Those of a payload are, except at its
//! end, which is copied through a separate block together with the trailer. A payload that is not aligned in memory is
//! copied as a whole. At the end the file is cut to its size.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::refused;
use crate::copies::{Pass, note};
use crate::limits::DIRECT_PIECE_BYTES;
use crate::memory::PAGE_BYTES;
use crate::transfer::{Lease, Sealed};
use crate::wasm::contract::failed;
use crate::wasm::contract::types::Error;

/// Writes a chunk to the beginning of an empty file, and returns its size in bytes.
pub(super) fn write(chunk: &Sealed, file: &File) -> Result<u64, Error> {
    let size = chunk.size_bytes();
    let mut block = Block::default();
    for range in steps(size) {
        let [payload, trailer] = chunk.pieces(range.clone()).map_err(refused)?;
        if trailer.is_empty() && is_whole(payload) {
            write_all(file, payload, range.start)?;
        } else {
            let n = range.len().next_multiple_of(PAGE_BYTES);
            let bytes = block.of(n);
            bytes[..payload.len()].copy_from_slice(payload);
            note(Pass::Copy, payload);
            bytes[payload.len()..range.len()].copy_from_slice(trailer);
            bytes[range.len()..].fill(0);
            write_all(file, bytes, range.start)?;
        }
    }
    if !size.is_multiple_of(PAGE_BYTES) {
        file.set_len(size as u64).map_err(|error| failed(&error))?;
    }
    Ok(size as u64)
}

/// Fills a buffer from the beginning of a file, until it is full or the file ends, and returns the number of bytes
/// read.
pub(super) fn read(sink: &mut Lease, file: &File) -> Result<u64, Error> {
    let mut block = Block::default();
    let mut done = 0;
    for range in steps(sink.capacity()) {
        let [payload, trailer] = sink.pieces_mut(range.clone()).map_err(refused)?;
        let n = if trailer.is_empty() && is_whole(payload) {
            let n = read_all(file, payload, range.start)?;
            sink.mark_written(range.start..range.start + n).map_err(refused)?;
            n
        } else {
            let bytes = block.of(range.len().next_multiple_of(PAGE_BYTES));
            // The file may be longer than the buffer.
            let n = read_all(file, bytes, range.start)?.min(range.len());
            sink.write(range.start, &bytes[..n]).map_err(refused)?;
            n
        };
        done += n;
        if n < range.len() {
            break;
        }
    }
    Ok(done as u64)
}

/// Writes one block, to find out whether direct I/O is possible.
pub(super) fn try_writing(file: &File) -> Result<(), Error> {
    write_all(file, Block::default().of(PAGE_BYTES), 0)
}

/// Cuts `size` bytes into whole blocks, and a rest.
fn steps(size: usize) -> impl Iterator<Item = Range<usize>> {
    let whole = size / PAGE_BYTES * PAGE_BYTES;
    let blocks = (0..whole).step_by(DIRECT_PIECE_BYTES);
    let rest = (whole < size).then_some(whole..size);
    blocks.map(move |start| start..whole.min(start + DIRECT_PIECE_BYTES)).chain(rest)
}

/// Reports whether bytes can be moved without a copy.
fn is_whole(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(PAGE_BYTES) && bytes.len().is_multiple_of(PAGE_BYTES)
}

fn write_all(file: &File, bytes: &[u8], at: usize) -> Result<(), Error> {
    let mut done = 0;
    while done < bytes.len() {
        let n = whole_blocks(rustix::io::pwrite(file, &bytes[done..], (at + done) as u64))?;
        note(Pass::System, &bytes[done..done + n]);
        done += n;
    }
    Ok(())
}

/// Reads until `bytes` are full or the file ends.
fn read_all(file: &File, bytes: &mut [u8], at: usize) -> Result<usize, Error> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(file, &mut bytes[done..], (at + done) as u64) {
            Ok(0) => break,
            // Less than a whole block: the file ends here.
            Ok(n) if !n.is_multiple_of(PAGE_BYTES) => return Ok(done + n),
            Ok(n) => {
                note(Pass::System, &bytes[done..done + n]);
                done += n;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(refused_by(error)),
        }
    }
    Ok(done)
}

/// Returns the bytes that a write moved, rounded down to whole blocks, at which the next one may begin.
fn whole_blocks(written: rustix::io::Result<usize>) -> Result<usize, Error> {
    match written {
        Ok(n) if n < PAGE_BYTES => Err(Error::Other("the file takes no more bytes".into())),
        Ok(n) => Ok(n / PAGE_BYTES * PAGE_BYTES),
        Err(Errno::INTR) => Ok(0),
        Err(error) => Err(refused_by(error)),
    }
}

fn refused_by(error: Errno) -> Error {
    match error {
        // From file systems that can open a file for direct I/O but not do it, or that need larger blocks.
        Errno::INVAL | Errno::OPNOTSUPP => Error::Unsupported,
        error => failed(&io::Error::from(error)),
    }
}

/// Memory that is aligned to a block.
#[derive(Default)]
struct Block(Vec<u8>);

impl Block {
    /// Returns `n` bytes of it. Their content is arbitrary.
    fn of(&mut self, n: usize) -> &mut [u8] {
        if self.0.len() < n + PAGE_BYTES {
            self.0.resize(n + PAGE_BYTES, 0);
        }
        let start = self.0.as_ptr().align_offset(PAGE_BYTES);
        &mut self.0[start..start + n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_whole_blocks_but_for_the_last_and_leave_nothing_out() {
        for size in
            [64, 4095, 4096, 4160, DIRECT_PIECE_BYTES, DIRECT_PIECE_BYTES + 1, 3 * DIRECT_PIECE_BYTES - 4]
        {
            let mut next = 0;
            for range in steps(size) {
                assert_eq!((range.start, range.start % PAGE_BYTES), (next, 0), "{size}");
                assert!(range.end == size || range.end.is_multiple_of(PAGE_BYTES), "{size}");
                assert!(!range.is_empty() && range.len() <= DIRECT_PIECE_BYTES, "{size}");
                next = range.end;
            }
            assert_eq!(next, size);
        }
    }

    #[test]
    fn only_memory_of_whole_blocks_goes_as_it_lies() {
        let mut block = Block::default();
        for n in [1, 2, 5] {
            let bytes = block.of(n * PAGE_BYTES);
            assert!(is_whole(bytes) && bytes.len() == n * PAGE_BYTES);
        }
        let bytes = block.of(2 * PAGE_BYTES);
        assert!(!is_whole(&bytes[64..PAGE_BYTES + 64]), "its beginning");
        assert!(!is_whole(&bytes[..PAGE_BYTES - 1]), "its end");
    }
}
