//! Storing a chunk as an object: in one request, or in parts side by side.

use std::cell::Cell;
use std::ops::Range;

use kvtier_guest::futures_util::future::join_all;
use kvtier_guest::{Error, Sources, warn};
use rusty_s3::actions::{CompleteMultipartUploadResponse, CreateMultipartUpload};

use super::{Bucket, split};
use crate::errors::{Failure, Operation, Refusal};
use crate::http::Body;

/// S3 takes no more parts for an object.
const PARTS_MAX: u64 = 10_000;

impl Bucket {
    /// Stores chunk `index` of `data` as an object, whole or not at all.
    pub(crate) async fn put(&self, object: &str, data: &Sources, index: u32) -> Result<(), Error> {
        let size = data.len(index);
        if size >= self.config.multipart_from && size > self.config.part_bytes {
            return self.put_in_parts(object, data, index).await;
        }
        let put = self.request(
            Operation::Put,
            || is_lent(data, index),
            async || {
                let bytes = Body::Stream(data.read_stream(index, 0, size), size);
                self.exchange(&self.signer.put(object), &[], bytes).await.map(drop)
            },
        );
        put.await.map_err(|failure| self.error(Operation::Put, failure, object))
    }

    /// Stores a chunk in parts, side by side. The object appears when all are there.
    async fn put_in_parts(&self, object: &str, data: &Sources, index: u32) -> Result<(), Error> {
        let size = data.len(index);
        let create = self.request(
            Operation::Upload,
            || is_lent(data, index),
            async || {
                let answer = self.exchange(&self.signer.create_upload(object), &[], Body::Empty).await?;
                let created = CreateMultipartUpload::parse_response(&answer.text().await?);
                let created = created.map_err(|_| Error::other("an upload was begun without a name"))?;
                Ok(created.upload_id().to_owned())
            },
        );
        let upload = create.await.map_err(|failure| self.error(Operation::Upload, failure, object))?;
        let stored = match self.put_parts(object, &upload, data, index).await {
            Ok(etags) => self.complete(object, &upload, &etags, size).await,
            Err(failure) => Err(self.error(Operation::Upload, failure, object)),
        };
        if stored.is_err() {
            let abort = self.request(
                Operation::Abort,
                || Ok(()),
                async || {
                    self.exchange(&self.signer.abort_upload(object, &upload), &[], Body::Empty)
                        .await
                        .map(drop)
                },
            );
            if let Err(failure) = abort.await {
                let error = self.error(Operation::Abort, failure, object);
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
            let put = self.request(Operation::Upload, goes_on, async || {
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
        // The first cause, not the parts that gave up because of it.
        let (stored, failed): (Vec<_>, Vec<_>) = parts.into_iter().partition(Result::is_ok);
        let cause = failed
            .into_iter()
            .filter_map(Result::err)
            .min_by_key(|failure| matches!(failure, Failure::Other(_)));
        cause.map_or_else(|| stored.into_iter().collect(), Err)
    }

    async fn complete(&self, object: &str, upload: &str, etags: &[String], size: u64) -> Result<(), Error> {
        let complete = self.request(
            Operation::Upload,
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
            _ => Err(self.error(Operation::Upload, failure, object)),
        }
    }
}

/// Returns an error if the call no longer has its chunks, by reading no bytes of one.
fn is_lent(data: &Sources, index: u32) -> Result<(), Error> {
    data.read(index, 0, 0).map(drop)
}
