//! Objects of a bucket: signed requests, a bounded number at once, sent again where that makes sense.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use kvtier_guest::futures_util::future::join_all;
use kvtier_guest::sync::Semaphore;
use kvtier_guest::wasip3::clocks::monotonic_clock;
use kvtier_guest::wasip3::http::types::ErrorCode;
use kvtier_guest::{Error, Sinks, Sources, warn};
use rusty_s3::actions::{CompleteMultipartUploadResponse, CreateMultipartUpload};

use crate::config::Config;
use crate::errors::{Asked, Failure, Place, Refusal};
use crate::http::{self, Answer, Body, ReadError};
use crate::retry::Retries;
use crate::sign::{Signer, Target};

/// S3 takes no more parts for an object.
const PARTS_MAX: u64 = 10_000;
/// Half of what the host allows a buffer to be filled in.
const RANGES_MAX: u64 = 32;

/// A bucket of a store.
pub(crate) struct Bucket {
    config: Config,
    signer: Signer,
    permits: Semaphore,
    /// Of requests that read and of those that write: a store that only fails to write is read as before.
    retries: [Retries; 2],
}

impl Bucket {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            signer: Signer::new(config.bucket.clone(), config.credentials.clone()),
            permits: Semaphore::new(config.requests),
            retries: [0, 1].map(|_| Retries::new(config.retries)),
            config,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Proves that the bucket is there, and that region, credentials and clock are right.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        let head = self.request(
            Asked::Head,
            || Ok(()),
            async || self.exchange(&self.signer.head_bucket(), &[], Body::Empty).await.map(drop),
        );
        match head.await {
            Ok(()) => Ok(()),
            Err(failure) if failure.transient().is_some() => Err(self.error(Asked::Head, failure, "")),
            Err(_) => self.explain().await,
        }
    }

    /// Finds out what is wrong, by listing one object: an answer to HEAD does not say it. Nothing may be: who may see
    /// objects of one prefix only may not ask for the bucket.
    async fn explain(&self) -> Result<(), Error> {
        let listed = self.request(
            Asked::List,
            || Ok(()),
            async || {
                self.exchange(&self.signer.list(&self.config.prefix), &[], Body::Empty).await?.text().await?;
                Ok(())
            },
        );
        listed.await.map_err(|failure| self.error(Asked::List, failure, ""))
    }

    /// Returns the size of an object in bytes, `None` if it is absent.
    pub(crate) async fn size_of(&self, object: &str) -> Result<Option<u64>, Error> {
        let head = self.request(
            Asked::Head,
            || Ok(()),
            async || {
                let answer = self.exchange(&self.signer.head(object), &[], Body::Empty).await?;
                Ok(answer.content_length().unwrap_or_default())
            },
        );
        match head.await {
            Ok(size) => Ok(Some(size)),
            Err(failure) if failure.is_absent() => Ok(None),
            Err(failure) => {
                if failure.transient().is_none() {
                    // What is wrong is in the body of an answer, which HEAD does not have.
                    self.explain().await?;
                }
                Err(self.error(Asked::Head, failure, object))
            }
        }
    }

    /// Removes an object. One that is absent is no error.
    pub(crate) async fn delete(&self, object: &str) -> Result<(), Error> {
        let delete = self.request(
            Asked::Delete,
            || Ok(()),
            async || self.exchange(&self.signer.delete(object), &[], Body::Empty).await.map(drop),
        );
        match delete.await {
            Err(failure) if !failure.is_absent() => Err(self.error(Asked::Delete, failure, object)),
            _ => Ok(()),
        }
    }

    /// Stores chunk `index` of `data` as an object, whole or not at all.
    pub(crate) async fn put(&self, object: &str, data: &Sources, index: u32) -> Result<(), Error> {
        let size = data.len(index);
        if size >= self.config.multipart_from && size > self.config.part_bytes {
            return self.put_in_parts(object, data, index).await;
        }
        let put = self.request(
            Asked::Put,
            || is_lent(data, index),
            async || {
                let bytes = Body::Stream(data.read_stream(index, 0, size), size);
                self.exchange(&self.signer.put(object), &[], bytes).await.map(drop)
            },
        );
        put.await.map_err(|failure| self.error(Asked::Put, failure, object))
    }

    /// Stores a chunk in parts, side by side. The object appears when all are there.
    async fn put_in_parts(&self, object: &str, data: &Sources, index: u32) -> Result<(), Error> {
        let size = data.len(index);
        let create = self.request(
            Asked::Upload,
            || is_lent(data, index),
            async || {
                let answer = self.exchange(&self.signer.create_upload(object), &[], Body::Empty).await?;
                let created = CreateMultipartUpload::parse_response(&answer.text().await?);
                let created = created.map_err(|_| Error::other("an upload was begun without a name"))?;
                Ok(created.upload_id().to_owned())
            },
        );
        let upload = create.await.map_err(|failure| self.error(Asked::Upload, failure, object))?;
        let stored = match self.put_parts(object, &upload, data, index).await {
            Ok(etags) => self.complete(object, &upload, &etags, size).await,
            Err(failure) => Err(self.error(Asked::Upload, failure, object)),
        };
        if stored.is_err() {
            let abort = self.request(
                Asked::Abort,
                || Ok(()),
                async || {
                    self.exchange(&self.signer.abort_upload(object, &upload), &[], Body::Empty)
                        .await
                        .map(drop)
                },
            );
            if let Err(failure) = abort.await {
                let error = self.error(Asked::Abort, failure, object);
                warn!("an unfinished upload stays until the bucket's lifecycle rules remove it: {error}");
            }
        }
        stored
    }

    /// Returns the parts' tags.
    async fn put_parts(
        &self,
        object: &str,
        upload: &str,
        data: &Sources,
        index: u32,
    ) -> Result<Vec<String>, Failure> {
        let size = data.len(index);
        let part_bytes = self.config.part_bytes.max(size.div_ceil(PARTS_MAX));
        let has_failed = Cell::new(false);
        let put = async |(number, part): (u16, Range<u64>)| {
            let n_bytes = part.end - part.start;
            let goes_on = || {
                if has_failed.get() { Err(Error::other("another part failed")) } else { is_lent(data, index) }
            };
            let put = self.request(Asked::Upload, goes_on, async || {
                let bytes = Body::Stream(data.read_stream(index, part.start, n_bytes), n_bytes);
                let target = self.signer.upload_part(object, upload, number);
                let answer = self.exchange(&target, &[], bytes).await?;
                Ok(answer.header("etag").ok_or_else(|| Error::other("a part was stored without a tag"))?)
            });
            let stored = put.await;
            has_failed.set(has_failed.get() || stored.is_err());
            stored
        };
        let parts = join_all((1..).zip(split(size, part_bytes)).map(put)).await;
        // The first cause, and not that others gave up because of it.
        let (stored, failed): (Vec<_>, Vec<_>) = parts.into_iter().partition(Result::is_ok);
        let cause = failed
            .into_iter()
            .filter_map(Result::err)
            .min_by_key(|failure| matches!(failure, Failure::Other(_)));
        cause.map_or_else(|| stored.into_iter().collect(), Err)
    }

    async fn complete(&self, object: &str, upload: &str, etags: &[String], size: u64) -> Result<(), Error> {
        let complete = self.request(
            Asked::Upload,
            || Ok(()),
            async || {
                let (target, body) = self.signer.complete_upload(object, upload, etags);
                let text = self.exchange(&target, &[], Body::Text(body)).await?.text().await?;
                // The answer begins before the store knows whether it can.
                match CompleteMultipartUploadResponse::parse(&text) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Failure::Refused(Box::new(Refusal::new(
                        200,
                        |_| None,
                        &text,
                        target.signed_at(),
                    )))),
                }
            },
        );
        let Err(failure) = complete.await else { return Ok(()) };
        // An upload whose answer was lost is complete, and is no longer known.
        match self.size_of(object).await {
            Ok(Some(stored)) if stored == size => Ok(()),
            _ => Err(self.error(Asked::Upload, failure, object)),
        }
    }

    /// Writes an object to buffer `index` of `into`, in ranges side by side if it is large. Returns the number of
    /// bytes, `None` if the object is absent. An object that is larger than the buffer is not written.
    pub(crate) async fn get(&self, object: &str, into: &Sinks, index: u32) -> Result<Option<u64>, Error> {
        let capacity = into.capacity(index);
        // Nearly always it fills the buffer. The first answer tells if it is shorter.
        match self.get_of_size(object, into, index, capacity).await {
            Err(Failure::OtherSize(size)) if size > capacity => Ok(Some(size)),
            Err(Failure::OtherSize(size)) => self.get_of_size(object, into, index, size).await,
            got => got,
        }
        .map_err(|failure| self.error(Asked::Get, failure, object))
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
        self.request(Asked::Get, || is_open(into, index), read).await
    }

    /// Calls `attempt` until it succeeds, cannot succeed, or has been tried often enough. Each time is one
    /// request; `goes_on` says before each whether it is still wanted.
    async fn request<T>(
        &self,
        asked: Asked,
        goes_on: impl Fn() -> Result<(), Error>,
        mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let retries = &self.retries[usize::from(asked.writes())];
        let mut n_failed = 0;
        loop {
            let permit = self.permits.acquire().await;
            goes_on()?;
            let failure = match attempt().await {
                Ok(done) => {
                    retries.succeeded();
                    return Ok(done);
                }
                Err(failure) => failure,
            };
            drop(permit);
            n_failed += 1;
            let pause = failure.transient().and_then(|how| retries.pause(n_failed, how));
            let Some(pause) = pause else { return Err(failure) };
            monotonic_clock::wait_for(pause.as_nanos() as u64).await;
        }
    }

    /// Sends one request. An answer that is no success is a failure.
    async fn exchange(
        &self,
        target: &Target,
        headers: &[(&str, String)],
        body: Body,
    ) -> Result<Answer, Failure> {
        let answer = http::send(target, headers, body, self.config.request_timeout).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let (status, header) = (answer.status, ["x-amz-bucket-region", "date", "location"]);
        let header = header.map(|name| (name, answer.header(name)));
        // A refusal is one also if its text does not come.
        let text = answer.text().await.unwrap_or_default();
        let header = |name: &str| header.iter().find(|(known, _)| *known == name)?.1.clone();
        Err(Failure::Refused(Box::new(Refusal::new(status, header, &text, target.signed_at()))))
    }

    fn error(&self, asked: Asked, failure: Failure, object: &str) -> Error {
        let bucket = &self.config.bucket;
        let endpoint = bucket.base_url().origin().ascii_serialization();
        failure.into_error(&Place { asked, endpoint, bucket: bucket.name(), region: bucket.region(), object })
    }
}

/// Splits `0..size` into ranges of `part_bytes`, the last of which may be shorter. An empty object has one, too.
fn split(size: u64, part_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let n_parts = size.div_ceil(part_bytes).max(1);
    (0..n_parts).map(move |part| part * part_bytes..size.min((part + 1) * part_bytes))
}

/// Refuses an object that is not of the chunk's size, and an answer that begins elsewhere than what was asked for.
fn check_size(answer: &Answer, asked: Range<u64>, size: u64, object: &str) -> Result<(), Failure> {
    let is_of = |stored: u64| if stored == size { Ok(()) } else { Err(Failure::OtherSize(stored)) };
    if answer.status == 206 {
        let range = answer.header("content-range").and_then(|range| content_range(&range));
        return match range {
            Some((start, stored)) if start == asked.start => is_of(stored),
            _ => Err(Failure::Other(Error::other(format!(
                "{object}: the store answered with another range than was asked for"
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

/// Says whether the call still has its chunks: reading none of one tells.
fn is_lent(data: &Sources, index: u32) -> Result<(), Error> {
    data.read(index, 0, 0).map(drop)
}

/// Says whether the call still has its buffers.
fn is_open(into: &Sinks, index: u32) -> Result<(), Error> {
    into.write(index, 0, &[])
}

#[cfg(test)]
mod tests {
    use super::{content_range, split};

    #[test]
    fn parts_cover_the_whole() {
        let parts =
            |size, part_bytes| split(size, part_bytes).map(|part| (part.start, part.end)).collect::<Vec<_>>();
        assert_eq!(parts(10, 4), [(0, 4), (4, 8), (8, 10)]);
        assert_eq!(parts(8, 4), [(0, 4), (4, 8)]);
        assert_eq!(parts(3, 4), [(0, 3)]);
        assert_eq!(parts(0, 4), [(0, 0)]);
    }

    #[test]
    fn a_content_range_has_a_start_and_a_size() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 10)));
        for bad in ["", "bytes */10", "bytes 5-9/*", "items 5-9/10", "bytes 5/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
