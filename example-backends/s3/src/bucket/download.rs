//! Fetching an object into a buffer, in ranges side by side if it is large.

use std::cell::RefCell;
use std::ops::Range;

use kvtier_guest::futures_util::future::join_all;
use kvtier_guest::wasip3::http::types::ErrorCode;
use kvtier_guest::{Error, Sinks};

use super::{Bucket, split};
use crate::errors::{Failure, Operation};
use crate::http::{Answer, Body, ReadError};

/// Half of what the host allows a buffer to be filled in.
const RANGES_MAX: u64 = 32;

impl Bucket {
    /// Writes an object to buffer `index` of `into`, in ranges side by side if it is large. Returns the number of
    /// bytes, `None` if the object is absent. An object that is larger than the buffer is not written.
    pub(crate) async fn get(&self, object: &str, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        let capacity = into.capacity(index);
        // Nearly always it fills the buffer. The first answer shows if it is shorter.
        match self.get_of_size(object, into, index, capacity).await {
            Err(Failure::OtherSize(size)) if size > capacity => Ok(Some(size)),
            Err(Failure::OtherSize(size)) => self.get_of_size(object, into, index, size).await,
            got => got,
        }
        .map_err(|failure| self.error(Operation::Get, failure, object))
    }

    /// Gets an object of `size` bytes.
    async fn get_of_size(
        &self,
        object: &str,
        into: &Sinks,
        index: u32,
        size: u64,
    ) -> Result<Option<u64>, Failure> {
        let range_bytes = self.config.range_bytes.max(size.div_ceil(RANGES_MAX));
        // All ranges are of the object that the first answer was of.
        let tag = RefCell::new(None);
        let ranges =
            split(size, range_bytes).map(|range| self.get_range(object, into, index, size, range, &tag));
        for read in join_all(ranges).await {
            match read {
                Ok(()) => {}
                Err(failure) if failure.is_absent() => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
        Ok(Some(size))
    }

    /// Reads a range of an object. Goes on where it stopped when the connection breaks.
    async fn get_range(
        &self,
        object: &str,
        into: &Sinks,
        index: u32,
        size: u64,
        range: Range<u64>,
        tag: &RefCell<Option<String>>,
    ) -> Result<(), Failure> {
        let mut at = range.start;
        let replaced =
            || Failure::Other(Error::unavailable(format!("{object}: was replaced while it was read")));
        let read = async || {
            let is_whole = at == 0 && range.end == size;
            let mut headers = Vec::new();
            if !is_whole {
                headers.push(("range", format!("bytes={at}-{}", range.end - 1)));
            }
            headers.extend(tag.borrow().clone().map(|tag| ("if-match", tag)));
            let answer = match self.exchange(&self.signer.get(object), &headers, Body::Empty).await {
                Ok(answer) => answer,
                Err(failure) if failure.is_another_object() => return Err(replaced()),
                Err(failure) => return Err(failure),
            };
            check_size(&answer, at..range.end, size, object)?;
            if let Some(theirs) = answer.header("etag") {
                let mut tag = tag.borrow_mut();
                if *tag.get_or_insert_with(|| theirs.clone()) != theirs {
                    return Err(replaced());
                }
            }
            let read = answer.read(|bytes| {
                let n_bytes = bytes.len() as u64;
                if n_bytes > range.end - at {
                    return Err(Error::corrupt(format!("{object}: more bytes stored than {size}")));
                }
                into.write(index, at, bytes)?;
                at += n_bytes;
                Ok(())
            });
            match read.await {
                Err(ReadError::Refused(error)) => Err(Failure::Other(error)),
                Err(ReadError::Cut(code)) => Err(Failure::Broken(code)),
                Ok(()) if at < range.end => Err(Failure::Broken(ErrorCode::HttpResponseIncomplete)),
                Ok(()) => Ok(()),
            }
        };
        self.request(Operation::Get, || is_open(into, index), read).await
    }
}

/// Refuses an object that is not of the chunk's size, and an answer that begins elsewhere than what was asked for.
fn check_size(answer: &Answer, asked: Range<u64>, size: u64, object: &str) -> Result<(), Failure> {
    let is_of = |stored: u64| if stored == size { Ok(()) } else { Err(Failure::OtherSize(stored)) };
    if answer.status == 206 {
        let range = answer.header("content-range").and_then(|range| content_range(&range));
        return match range {
            Some((start, stored)) if start == asked.start => is_of(stored),
            _ => Err(Failure::Other(Error::other(format!(
                "{object}: the store answered with a range that was not requested"
            )))),
        };
    }
    if asked != (0..size) {
        let why = format!("{object}: the store does not answer with ranges");
        return Err(Error::other(why).into());
    }
    answer.content_length().map_or(Ok(()), is_of)
}

/// Reads the start and the size of the whole from `bytes 0-99/1000`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, size.parse().ok()?))
}

/// Returns an error if the call no longer has its buffers.
fn is_open(into: &Sinks, index: u32) -> Result<(), Error> {
    into.write(index, 0, &[])
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn a_content_range_has_a_start_and_a_size() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 10)));
        for bad in ["", "bytes */10", "bytes 5-9/*", "items 5-9/10", "bytes 5/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
