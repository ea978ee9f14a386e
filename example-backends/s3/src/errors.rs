//! What a request that failed means: the store's refusals, with their XML, and the host's words on connections.
//!
//! Nothing of a request's query, and no free text of the server's, gets into an error: either may hold what
//! proves who we are. Codes, regions, dates and hosts are let in if they look like it.

use kvtier_guest::Error;
use kvtier_guest::wasip3::http::types::ErrorCode;

use crate::retry::Transient;

/// Why a request did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store answered with something else than success.
    Refused(Box<Refusal>),
    /// There was no answer, or not all of it.
    Broken(ErrorCode),
    /// The object has another size in bytes than was assumed.
    OtherSize(u64),
    /// An answer that S3 does not give, or the end of the call.
    Other(Error),
}

/// An answer that is no success.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The code of the XML, such as `NoSuchKey`.
    pub(crate) code: Option<String>,
    /// Whether the XML says that the signature's time is over, or has not come.
    pub(crate) is_out_of_date: bool,
    /// The bucket's region, if it is another one.
    pub(crate) region: Option<String>,
    /// Where a redirect leads: scheme, host and port.
    pub(crate) location: Option<String>,
    /// The server's clock.
    pub(crate) date: Option<String>,
    /// Our clock, when we signed.
    pub(crate) signed_at: String,
}

/// What was asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    List,
    Head,
    Get,
    Put,
    Upload,
    Abort,
    Delete,
}

impl Asked {
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

    /// Returns what has to be allowed for it, and nothing else: rights that are there are not to be looked for.
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

/// What a request was about, for errors.
pub(crate) struct Place<'a> {
    pub(crate) asked: Asked,
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
    /// Returns whether the object is known not to be there.
    pub(crate) fn is_absent(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        // An answer to HEAD has no code.
        refusal.status == 404 && refusal.code.as_deref().is_none_or(|code| code == "NoSuchKey")
    }

    /// Returns whether the object is not the one that a request was restricted to.
    pub(crate) fn is_another_object(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == 412)
    }

    /// Returns how the request failed if it may succeed when it is sent again.
    pub(crate) fn transient(&self) -> Option<Transient> {
        match self {
            Self::Refused(refusal) => refusal.transient(),
            Self::Broken(code) => transient(code),
            Self::OtherSize(_) | Self::Other(_) => None,
        }
    }

    pub(crate) fn into_error(self, place: &Place) -> Error {
        match self {
            Self::Refused(refusal) => refusal.into_error(place),
            Self::Broken(code) => {
                let why = format!("{place}: {}", words(&code));
                if is_permanent(&code) { Error::other(why) } else { Error::unavailable(why) }
            }
            // As long as it is replaced again and again.
            Self::OtherSize(n_bytes) => Error::unavailable(format!("{place}: has {n_bytes} bytes now")),
            Self::Other(error) => error,
        }
    }
}

impl Refusal {
    /// Reads an answer. `header` returns the first value of a header.
    pub(crate) fn new(
        status: u16,
        header: impl Fn(&str) -> Option<String>,
        body: &str,
        signed_at: &str,
    ) -> Self {
        let code = element(body, "Code").filter(|code| is_name(code));
        let message = element(body, "Message").unwrap_or_default();
        let region = header("x-amz-bucket-region").or_else(|| element(body, "Region").map(str::to_owned));
        let date = header("date").filter(|date| {
            date.len() <= 40 && date.chars().all(|c| c.is_ascii_alphanumeric() || " ,:+-".contains(c))
        });
        let is_out_of_date = code == Some("RequestTimeTooSkewed")
            || message.contains("Request has expired")
            || message.contains("not yet valid")
            || message.contains("not valid yet");
        let location = header("location").as_deref().and_then(origin);
        Self {
            status,
            code: code.map(str::to_owned),
            is_out_of_date,
            region: region.filter(|region| is_name(region)),
            // An error of S3's names the host of the right region there.
            location: location.or_else(|| {
                let host = element(body, "Endpoint").filter(|host| is_host(host));
                host.map(str::to_owned)
            }),
            date,
            signed_at: signed_at.to_owned(),
        }
    }

    fn transient(&self) -> Option<Transient> {
        let is_busy = matches!(
            self.code.as_deref(),
            Some("SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationAborted")
        );
        // 501 and 507 stay.
        let is_busy = is_busy || matches!(self.status, 408 | 412 | 429 | 500 | 502..=506 | 508..);
        is_busy.then_some(Transient::Failed)
    }

    fn into_error(self, place: &Place) -> Error {
        let code = self.code.as_deref().unwrap_or_default();
        let said = format!("{}: {} {code}", place.asked.verb(), self.status).trim_end().to_owned();
        let Place { endpoint, bucket, region, .. } = place;
        let config = |key: &str, why: String| Error::InvalidConfig(format!("{key}: {why} ({said})"));
        if self.is_out_of_date {
            let (theirs, ours) = (self.date.as_deref().unwrap_or("unknown"), &self.signed_at);
            return Error::unavailable(format!(
                "{endpoint}: the clocks differ by more than 15 minutes: the server's is at {theirs}, this machine's \
                 at {ours}; set them, for instance by NTP ({said})"
            ));
        }
        match (self.status, code) {
            (_, "NoSuchBucket") => {
                config("config.bucket", format!("there is no bucket `{bucket}` at {endpoint}"))
            }
            (_, "InvalidBucketName") => {
                config("config.bucket", format!("`{bucket}` is no name for a bucket at {endpoint}"))
            }
            (_, "InvalidAccessKeyId" | "NotSignedUp") => {
                config("secrets.access_key_id", format!("the key is not known at {endpoint}"))
            }
            (_, "SignatureDoesNotMatch") => config(
                "secrets.secret_access_key",
                format!(
                    "is not the secret of secrets.access_key_id, or something on the way to {endpoint} changes requests"
                ),
            ),
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
                config("secrets.session_token", format!("is not accepted at {endpoint}, or no longer"))
            }
            (300..=400, _) if self.region.as_deref().is_some_and(|theirs| theirs != *region) => {
                let theirs = self.region.as_deref().unwrap_or_default();
                config(
                    "config.region",
                    format!("the bucket `{bucket}` is in region {theirs}, not {region}; set it"),
                )
            }
            (300..=399, _) => {
                let to = self.location.as_deref().unwrap_or("another host");
                config(
                    "config.endpoint",
                    format!(
                        "{endpoint} redirects to {to}, which is not followed; set it and grant it with allow.net"
                    ),
                )
            }
            // Some stores answer 403 to a full bucket.
            (507, _) => Error::NoSpace,
            (_, code) if is_full(code) => Error::NoSpace,
            (401 | 403, _) => {
                let needs = place.asked.needs();
                config("secrets.access_key_id", format!("the key is refused: {place}; it needs {needs}"))
            }
            (416, _) => Error::corrupt(format!("{place}: fewer bytes stored than expected")),
            _ if self.transient().is_some() => Error::unavailable(format!("{place}: {said}")),
            _ => Error::other(format!("{place}: {said}")),
        }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, bucket, object, .. } = self;
        if object.is_empty() {
            write!(f, "bucket `{bucket}` at {endpoint}")
        } else {
            write!(f, "`{object}` in bucket `{bucket}` at {endpoint}")
        }
    }
}

/// Whether a code says that the store takes no more.
fn is_full(code: &str) -> bool {
    code == "EntityTooLarge" || code.ends_with("QuotaExceeded") || code.ends_with("StorageFull")
}

/// The text of the first element of that name. S3's errors are flat.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_host(text: &str) -> bool {
    (1..=260).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b))
}

/// Scheme, host and port of a URL. The rest may be signed.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().filter(|host| is_host(host))?;
    matches!(scheme, "http" | "https").then(|| format!("{scheme}://{host}"))
}

fn transient(code: &ErrorCode) -> Option<Transient> {
    match code {
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => Some(Transient::TimedOut),
        // Certificates do not change from one try to the next.
        ErrorCode::TlsCertificateError => None,
        code if is_permanent(code) => None,
        _ => Some(Transient::Failed),
    }
}

/// Whether there is no use in trying again.
fn is_permanent(code: &ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::HttpRequestDenied
            | ErrorCode::HttpRequestMethodInvalid
            | ErrorCode::HttpRequestUriInvalid
            | ErrorCode::HttpRequestUriTooLong
            | ErrorCode::HttpRequestHeaderSectionSize(_)
            | ErrorCode::HttpRequestHeaderSize(_)
            | ErrorCode::DestinationIpProhibited
            | ErrorCode::ConfigurationError
    )
}

/// What the host says, in words.
fn words(code: &ErrorCode) -> String {
    match code {
        ErrorCode::InternalError(Some(words)) => words.clone(),
        ErrorCode::DnsError(error) => {
            format!("its name cannot be resolved{}", error.rcode.as_ref().map(|rcode| format!(": {rcode}")).unwrap_or_default())
        }
        ErrorCode::DnsTimeout => "its name was not resolved in time".to_owned(),
        ErrorCode::ConnectionRefused => "connection refused".to_owned(),
        ErrorCode::ConnectionTerminated => "the connection ended".to_owned(),
        ErrorCode::ConnectionTimeout => "no connection in time".to_owned(),
        ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => "no answer in time".to_owned(),
        ErrorCode::HttpResponseIncomplete => "the connection ended in the middle of an answer".to_owned(),
        ErrorCode::HttpRequestDenied => {
            "requests to it are not granted; grant it with allow.net".to_owned()
        }
        ErrorCode::TlsCertificateError => {
            "its certificate is not accepted: it must be for this host, in date, and signed by a known authority".to_owned()
        }
        ErrorCode::TlsProtocolError => "it does not speak TLS, or no version that is accepted".to_owned(),
        ErrorCode::TlsAlertReceived(alert) => {
            format!("TLS alert {}", alert.alert_message.as_deref().unwrap_or("without a message"))
        }
        code => format!("{code:?}"),
    }
}

#[cfg(test)]
mod tests;
