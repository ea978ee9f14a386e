//! The meaning of a failed request: refusals of the store, with their XML, and the host's errors of connections.
//!
//! Nothing of a request's query, and no free text of the server's, gets into an error: either may hold credentials.
//! Codes, regions, dates and hosts are included if they have the form of one.

mod connection;
mod refusal;

use kvtier_guest::Error;
use kvtier_guest::wasip3::http::types::ErrorCode;

pub(crate) use self::refusal::Refusal;
use crate::retry::Transient;

/// The reason why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store refused.
    Refused(Box<Refusal>),
    /// There was no answer, or not all of it.
    Broken(ErrorCode),
    /// The object has another size in bytes than was assumed.
    OtherSize(u64),
    /// An answer that S3 does not give, or the end of the call.
    Other(Error),
}

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    List,
    Head,
    Get,
    Put,
    Upload,
    Abort,
    Delete,
}

impl Operation {
    /// Reports whether it changes what is stored.
    pub(crate) fn writes(self) -> bool {
        !matches!(self, Self::List | Self::Head | Self::Get)
    }

    fn verb(self) -> &'static str {
        match self {
            Self::List | Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Upload => "upload in parts",
            Self::Abort | Self::Delete => "DELETE",
        }
    }

    /// Returns the right that it needs, and no other, so that nobody searches for rights that are there.
    fn needs(self) -> &'static str {
        match self {
            Self::List => "s3:ListBucket, without which a missing object looks like a forbidden one",
            Self::Head => "s3:GetObject, and nothing on the way may refuse HEAD",
            Self::Get => "s3:GetObject",
            Self::Put | Self::Upload => "s3:PutObject",
            Self::Abort => "s3:AbortMultipartUpload",
            Self::Delete => "s3:DeleteObject",
        }
    }
}

/// The object or bucket of a request, and the operation, for errors.
pub(crate) struct ObjectRef<'a> {
    pub(crate) operation: Operation,
    /// Scheme, host and port.
    pub(crate) endpoint: String,
    pub(crate) bucket: &'a str,
    pub(crate) region: &'a str,
    /// Name of the object; empty if it was about the bucket.
    pub(crate) object: &'a str,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self::Broken(code)
    }
}

impl Failure {
    /// Reports whether the object is known to be absent.
    pub(crate) fn is_absent(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        // An answer to HEAD has no code.
        refusal.status == 404 && refusal.code.as_deref().is_none_or(|code| code == "NoSuchKey")
    }

    /// Reports whether the object is not the one that a request was restricted to.
    pub(crate) fn is_another_object(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == 412)
    }

    /// Returns how the request failed if it may succeed when it is sent again.
    pub(crate) fn transient(&self) -> Option<Transient> {
        match self {
            Self::Refused(refusal) => refusal.transient(),
            Self::Broken(code) => connection::transient(code),
            Self::OtherSize(_) | Self::Other(_) => None,
        }
    }

    pub(crate) fn into_error(self, place: &ObjectRef) -> Error {
        match self {
            Self::Refused(refusal) => refusal.into_error(place),
            Self::Broken(code) => {
                let why = format!("{place}: {}", connection::words(&code));
                if connection::is_permanent(&code) { Error::other(why) } else { Error::unavailable(why) }
            }
            // As long as it is replaced again and again.
            Self::OtherSize(n_bytes) => Error::unavailable(format!("{place}: has {n_bytes} bytes now")),
            Self::Other(error) => error,
        }
    }
}

impl std::fmt::Display for ObjectRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, bucket, object, .. } = self;
        if object.is_empty() {
            write!(f, "bucket `{bucket}` at {endpoint}")
        } else {
            write!(f, "`{object}` in bucket `{bucket}` at {endpoint}")
        }
    }
}

#[cfg(test)]
mod tests;
