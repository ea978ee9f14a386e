//! Chunks on their way to or from a backend: the host's side of the contract's `sources` and `sinks`.
//!
//! A backend sees payload and trailer of a chunk as one range of bytes, though they are stored separately. Both kinds
//! of set can be revoked while a transfer runs: memory then returns when that transfer ends, not before. A source has
//! many readers; a sink has one writer at a time, and no reader.
//!
//! Bytes that move in order are hashed as they move, while they are in the processor's cache: the trailer of a source
//! is known when the end of its payload is reached, and a full sink only has to be compared. The order matters only for
//! speed. Bytes that were not hashed in order are hashed when the trailer is needed, and rewritten bytes are hashed
//! again.

mod selection;
mod sink;
mod sinks;
mod sources;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use sink::Sink;
pub use sinks::{Claim, Lease, Sinks};
pub use sources::{Sealed, Sources};

use crate::integrity::TRAILER_BYTES;
use crate::limits::SINK_RANGES_MAX;

/// The reason why bytes could not be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The call that the memory was lent to has ended.
    #[error("the call has ended and its buffers are revoked")]
    Revoked,
    /// A buffer was selected twice.
    #[error("a buffer is selected twice")]
    Repeated,
    /// Another transfer into the same buffer is running.
    #[error("another transfer into the same buffer is running")]
    Busy,
    /// The range does not lie within the chunk.
    #[error("the range does not lie within the chunk")]
    OutOfRange,
    /// The buffer was filled in too many separate pieces.
    #[error("the buffer was filled in more than {SINK_RANGES_MAX} separate pieces")]
    TooScattered,
}

/// Splits a range of payload-and-trailer into the payload's part and the trailer's part.
fn split(range: &Range<usize>, payload: usize) -> Result<[Range<usize>; 2], TransferError> {
    if range.start > range.end || range.end > payload + TRAILER_BYTES {
        return Err(TransferError::OutOfRange);
    }
    let in_payload = range.start.min(payload)..range.end.min(payload);
    let in_trailer = range.start.max(payload) - payload..range.end.max(payload) - payload;
    Ok([in_payload, in_trailer])
}
