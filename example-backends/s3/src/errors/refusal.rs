//! Refusals of the store, with what their XML contains.

use kvtier_guest::Error;

use super::ObjectRef;
use crate::retry::Transient;

/// An answer other than a success.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The code of the XML, such as `NoSuchKey`.
    pub(crate) code: Option<String>,
    /// The XML names a signature that has expired or is not valid yet.
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

    pub(super) fn transient(&self) -> Option<Transient> {
        let is_busy = matches!(
            self.code.as_deref(),
            Some("SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationAborted")
        );
        // 501 and 507 stay.
        let is_busy = is_busy || matches!(self.status, 408 | 412 | 429 | 500 | 502..=506 | 508..);
        is_busy.then_some(Transient::Failed)
    }

    pub(super) fn into_error(self, place: &ObjectRef) -> Error {
        let code = self.code.as_deref().unwrap_or_default();
        let said = format!("{}: {} {code}", place.operation.verb(), self.status).trim_end().to_owned();
        let ObjectRef { endpoint, bucket, region, .. } = place;
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
                config("config.bucket", format!("`{bucket}` is not a valid bucket name at {endpoint}"))
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
                let needs = place.operation.needs();
                config("secrets.access_key_id", format!("the key is refused: {place}; it needs {needs}"))
            }
            (416, _) => Error::corrupt(format!("{place}: fewer bytes stored than expected")),
            _ if self.transient().is_some() => Error::unavailable(format!("{place}: {said}")),
            _ => Error::other(format!("{place}: {said}")),
        }
    }
}

/// Reports whether a code means that the store is full.
fn is_full(code: &str) -> bool {
    code == "EntityTooLarge" || code.ends_with("QuotaExceeded") || code.ends_with("StorageFull")
}

/// Returns the text of the first element of that name. S3's errors are flat.
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

/// Returns scheme, host and port of a URL. The rest may be signed.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().filter(|host| is_host(host))?;
    matches!(scheme, "http" | "https").then(|| format!("{scheme}://{host}"))
}
