//! What the operator can set.

use std::time::Duration;

use kvtier_guest::{Error, Init};
use rusty_s3::{Bucket, Credentials, UrlStyle};

const KNOWN: [&str; 14] = [
    "bucket",
    "endpoint",
    "region",
    "addressing",
    "prefix",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "part_bytes",
    "multipart_from",
    "range_bytes",
    "retries",
    "request_timeout_ms",
    "requests",
];

/// S3 accepts no smaller part, except the last of an object.
const PART_BYTES_MIN: u64 = 5 << 20;
/// S3 accepts no larger part, and no larger object in one request.
const PART_BYTES_MAX: u64 = 5 << 30;
const RANGE_BYTES_MIN: u64 = 64 << 10;
const RETRIES_MAX: u32 = 10;
const REQUESTS_MAX: usize = 256;
const HOUR_MS: u64 = 3_600_000;
/// Longest name that any store accepts; Amazon's once accepted this many bytes.
const BUCKET_BYTES_MAX: usize = 255;
/// Longest name that can be part of a host's name.
const LABEL_BYTES_MAX: usize = 63;
/// S3 takes names of objects up to 1024 bytes; the namespace and the key need 65.
const PREFIX_BYTES_MAX: usize = 512;

/// The backend's settings.
pub(crate) struct Config {
    /// `config.bucket`, `config.endpoint`, `config.region` and `config.addressing`.
    pub(crate) bucket: Bucket,
    pub(crate) credentials: Credentials,
    /// `config.prefix`; `kvtier/` by default.
    pub(crate) prefix: String,
    /// The beginning of the objects' names: the prefix, and the engine's namespace.
    pub(crate) folder: String,
    /// `config.part_bytes`: size of a part of an object that is sent in parts; 16 MiB by default.
    pub(crate) part_bytes: u64,
    /// `config.multipart_from`: size from which objects are sent in parts; 64 MiB by default.
    pub(crate) multipart_from: u64,
    /// `config.range_bytes`: larger objects are read in ranges of this size; 8 MiB by default.
    pub(crate) range_bytes: u64,
    /// `config.retries`: how often a request is sent again; 3 by default.
    pub(crate) retries: u32,
    /// `config.request_timeout_ms`: to connect, until the first byte, and between bytes; 5 s by default.
    pub(crate) request_timeout: Duration,
    /// `config.requests`: requests at once; 64 by default.
    pub(crate) requests: usize,
}

impl Config {
    pub(crate) fn from_init(init: &Init) -> Result<Self, Error> {
        init.only(&KNOWN)?;
        let prefix = init.get("prefix").unwrap_or("kvtier/").to_owned();
        if prefix.starts_with('/') || prefix.len() > PREFIX_BYTES_MAX {
            let why = format!("must not begin with `/`, nor be longer than {PREFIX_BYTES_MAX} bytes");
            return Err(Error::invalid_config("prefix", why));
        }
        let request_timeout_ms = init.parse_in("request_timeout_ms", 1..=HOUR_MS)?.unwrap_or(5_000);
        Ok(Self {
            bucket: bucket(init)?,
            credentials: credentials(init)?,
            folder: format!("{prefix}{}/", init.namespace),
            prefix,
            part_bytes: init.bytes_in("part_bytes", PART_BYTES_MIN..=PART_BYTES_MAX)?.unwrap_or(16 << 20),
            multipart_from: init.bytes_in("multipart_from", 1..=PART_BYTES_MAX)?.unwrap_or(64 << 20),
            range_bytes: init.bytes_in("range_bytes", RANGE_BYTES_MIN..=PART_BYTES_MAX)?.unwrap_or(8 << 20),
            retries: init.parse_in("retries", 0..=RETRIES_MAX)?.unwrap_or(3),
            request_timeout: Duration::from_millis(request_timeout_ms),
            requests: init.parse_in("requests", 1..=REQUESTS_MAX)?.unwrap_or(64),
        })
    }
}

fn bucket(init: &Init) -> Result<Bucket, Error> {
    let name = init.require("bucket")?.to_owned();
    let region = init.get("region").unwrap_or("us-east-1").to_owned();
    if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Error::invalid_config("region", "expected a name such as eu-central-1"));
    }
    let endpoint = match init.get("endpoint") {
        Some(_) => init.require("endpoint")?.to_owned(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    // What is before an `@` may be a password, and errors name the endpoint.
    if endpoint.contains(['@', '?', '#']) {
        return Err(Error::invalid_config("endpoint", "must be a URL without user, query and fragment"));
    }
    let is_in_path = match init.get("addressing").unwrap_or("virtual") {
        "path" => true,
        "virtual" => false,
        _ => return Err(Error::invalid_config("addressing", "expected path or virtual")),
    };
    check_name(&name, is_in_path)?;
    let invalid = |why: &dyn std::fmt::Display| {
        let expected = "expected a URL such as https://s3.example or http://127.0.0.1:9000";
        Error::invalid_config(
            "endpoint",
            format!("{why}; {expected}, found a text of {} bytes", endpoint.len()),
        )
    };
    let in_style = |style| {
        let url = endpoint.parse().map_err(|error| invalid(&error))?;
        Bucket::new(url, style, name.clone(), region.clone()).map_err(|error| invalid(&error))
    };
    let in_path = in_style(UrlStyle::Path)?;
    if is_in_path {
        return Ok(in_path);
    }
    if in_path.base_url().domain().is_none() {
        let why = "a bucket cannot be part of an IP address; set it to path";
        return Err(Error::invalid_config("addressing", why));
    }
    in_style(UrlStyle::VirtualHost)
}

/// Refuses a name that no store accepts for a bucket, or that cannot be part of a host name where it must be.
///
/// # Errors
/// `invalid-config` with what is expected, and what to set.
fn check_name(name: &str, is_in_path: bool) -> Result<(), Error> {
    let wrong = |expected: &str| {
        let n_bytes = name.len();
        let why = format!("a text of {n_bytes} bytes is not a bucket's name: expected {expected}");
        Err(Error::invalid_config("bucket", why))
    };
    let consists_of = |more: &[u8]| name.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    if name.len() > BUCKET_BYTES_MAX || !consists_of(b"-._:") || name == "." || name == ".." {
        return wrong("3 to 63 lower-case letters, digits, hyphens and dots");
    }
    let ends_well = !name.starts_with(['-', '.']) && !name.ends_with(['-', '.']) && !name.contains("..");
    let is_host = name.len() <= LABEL_BYTES_MAX
        && ends_well
        && consists_of(b"-.")
        && !name.bytes().any(|b| b.is_ascii_uppercase());
    if !is_in_path && !is_host {
        return wrong(
            "at most 63 lower-case letters, digits, hyphens and dots, since it is part of the host's name; \
             for a bucket of an older store set config.addressing to path",
        );
    }
    Ok(())
}

fn credentials(init: &Init) -> Result<Credentials, Error> {
    let require = |key: &str| match init.get(key) {
        Some(value) if !value.trim().is_empty() => Ok(value),
        Some(_) => Err(Error::InvalidConfig(format!("secrets.{key}: is empty"))),
        None => Err(Error::InvalidConfig(format!("secrets.{key}: is required and not set"))),
    };
    let (key, secret) = (require("access_key_id")?, require("secret_access_key")?);
    Ok(match init.get("session_token") {
        Some(_) => Credentials::new_with_token(key, secret, require("session_token")?),
        None => Credentials::new(key, secret),
    })
}

#[cfg(test)]
mod tests;
