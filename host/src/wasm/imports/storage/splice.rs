//! A chunk's bytes between host memory and an open file, through the page cache: in pieces that are hashed while the
//! processor has them in its cache.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};

use rustix::io::Errno;

use super::refused;
use crate::copies::{Pass, note};
use crate::limits::PIECE_BYTES;
use crate::transfer::{Lease, Sealed};
use crate::wasm::contract::failed;
use crate::wasm::contract::types::Error;

/// Writes a chunk to a file, from byte `at` on, and returns its size in bytes.
pub(super) fn write(chunk: &Sealed, file: &File, at: u64) -> Result<u64, Error> {
    let size = chunk.size_bytes();
    let mut done = 0;
    while done < size {
        let end = size.min(done + PIECE_BYTES);
        let pieces = chunk.pieces(done..end).map_err(refused)?.map(IoSlice::new);
        match rustix::io::pwritev(file, &pieces, at.saturating_add(done as u64)) {
            Ok(0) => return Err(Error::Other("the file takes no more bytes".into())),
            Ok(n) => {
                note(Pass::System, &pieces[0][..n.min(pieces[0].len())]);
                done += n;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(&error.into())),
        }
    }
    Ok(size as u64)
}

/// Fills a buffer from a file, from byte `at` on, until it is full or the file ends, and returns the number of bytes
/// read.
pub(super) fn read(sink: &mut Lease, file: &File, at: u64) -> Result<u64, Error> {
    let capacity = sink.capacity();
    let mut done = 0;
    while done < capacity {
        let end = capacity.min(done + PIECE_BYTES);
        let mut pieces = sink.pieces_mut(done..end).map_err(refused)?.map(IoSliceMut::new);
        match rustix::io::preadv(file, &mut pieces, at.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => {
                note(Pass::System, &pieces[0][..n.min(pieces[0].len())]);
                sink.mark_written(done..done + n).map_err(refused)?;
                done += n;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(&error.into())),
        }
    }
    Ok(done as u64)
}
