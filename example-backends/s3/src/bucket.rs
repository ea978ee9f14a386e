//! Objects of a bucket: signed requests, a bounded number at once, sent again where that makes sense.

mod download;
mod upload;

use std::ops::Range;

use kvtier_guest::Error;
use kvtier_guest::sync::Semaphore;
use kvtier_guest::wasip3::clocks::monotonic_clock;

use crate::config::Config;
use crate::errors::{Failure, ObjectRef, Operation, Refusal};
use crate::http::{self, Answer, Body};
use crate::retry::Retries;
use crate::sign::{Signer, Target};

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
            Operation::Head,
            || Ok(()),
            async || self.exchange(&self.signer.head_bucket(), &[], Body::Empty).await.map(drop),
        );
        match head.await {
            Ok(()) => Ok(()),
            Err(failure) if failure.transient().is_some() => Err(self.error(Operation::Head, failure, "")),
            Err(_) => self.explain().await,
        }
    }

    /// Finds the cause by listing one object, since an answer to HEAD has none. Possibly nothing is wrong: a key that
    /// may see only the objects of one prefix may not request the bucket.
    async fn explain(&self) -> Result<(), Error> {
        let listed = self.request(
            Operation::List,
            || Ok(()),
            async || {
                self.exchange(&self.signer.list(&self.config.prefix), &[], Body::Empty).await?.text().await?;
                Ok(())
            },
        );
        listed.await.map_err(|failure| self.error(Operation::List, failure, ""))
    }

    /// Returns the size of an object in bytes, `None` if it is absent.
    pub(crate) async fn size_of(&self, object: &str) -> Result<Option<u64>, Error> {
        let head = self.request(
            Operation::Head,
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
                Err(self.error(Operation::Head, failure, object))
            }
        }
    }

    /// Removes an object. An absent object is not an error.
    pub(crate) async fn delete(&self, object: &str) -> Result<(), Error> {
        let delete = self.request(
            Operation::Delete,
            || Ok(()),
            async || self.exchange(&self.signer.delete(object), &[], Body::Empty).await.map(drop),
        );
        match delete.await {
            Err(failure) if !failure.is_absent() => Err(self.error(Operation::Delete, failure, object)),
            _ => Ok(()),
        }
    }

    /// Calls `attempt` until it succeeds, cannot succeed, or has been tried often enough. Each time is one request;
    /// before each, `goes_on` returns an error if it is no longer wanted.
    async fn request<T>(
        &self,
        operation: Operation,
        goes_on: impl Fn() -> Result<(), Error>,
        mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let retries = &self.retries[usize::from(operation.writes())];
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

    /// Sends one request. Any answer other than a success is a failure.
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

    fn error(&self, operation: Operation, failure: Failure, object: &str) -> Error {
        let bucket = &self.config.bucket;
        let endpoint = bucket.base_url().origin().ascii_serialization();
        let (bucket, region) = (bucket.name(), bucket.region());
        failure.into_error(&ObjectRef { operation, endpoint, bucket, region, object })
    }
}

/// Splits `0..size` into ranges of `part_bytes`, the last of which may be shorter. An empty object has one, too.
fn split(size: u64, part_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let n_parts = size.div_ceil(part_bytes).max(1);
    (0..n_parts).map(move |part| part * part_bytes..size.min((part + 1) * part_bytes))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn parts_cover_the_whole() {
        let parts =
            |size, part_bytes| split(size, part_bytes).map(|part| (part.start, part.end)).collect::<Vec<_>>();
        assert_eq!(parts(10, 4), [(0, 4), (4, 8), (8, 10)]);
        assert_eq!(parts(8, 4), [(0, 4), (4, 8)]);
        assert_eq!(parts(3, 4), [(0, 3)]);
        assert_eq!(parts(0, 4), [(0, 0)]);
    }
}
