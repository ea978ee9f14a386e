//! Signature Version 4, in the query string: requests as URLs that prove who sends them.
//!
//! The body is not signed, so that it need not be read before it is sent.

use std::time::Duration;

use rusty_s3::actions::{CompleteMultipartUpload, HeadBucket, ListObjectsV2, S3Action};
use rusty_s3::{Bucket, Credentials, Method};

/// The validity of a signature: as long as the clocks of the two sides may differ for signed headers.
const VALID_FOR: Duration = Duration::from_mins(15);

/// Signs requests to a bucket.
pub(crate) struct Signer {
    bucket: Bucket,
    credentials: Credentials,
}

/// Where a request goes. The query proves who sends it and must not be shown.
pub(crate) struct Target {
    pub(crate) method: Method,
    pub(crate) is_https: bool,
    /// Host, and port if it is not the scheme's own.
    pub(crate) authority: String,
    pub(crate) path_with_query: String,
}

impl Signer {
    pub(crate) fn new(bucket: Bucket, credentials: Credentials) -> Self {
        Self { bucket, credentials }
    }

    pub(crate) fn head_bucket(&self) -> Target {
        sign(&HeadBucket::new(&self.bucket, Some(&self.credentials)))
    }

    /// Lists at most one object.
    pub(crate) fn list(&self, prefix: &str) -> Target {
        let mut list = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
        list.with_prefix(prefix);
        list.with_max_keys(1);
        sign(&list)
    }

    pub(crate) fn head(&self, object: &str) -> Target {
        sign(&self.bucket.head_object(Some(&self.credentials), object))
    }

    pub(crate) fn get(&self, object: &str) -> Target {
        sign(&self.bucket.get_object(Some(&self.credentials), object))
    }

    pub(crate) fn put(&self, object: &str) -> Target {
        sign(&self.bucket.put_object(Some(&self.credentials), object))
    }

    pub(crate) fn delete(&self, object: &str) -> Target {
        sign(&self.bucket.delete_object(Some(&self.credentials), object))
    }

    pub(crate) fn create_upload(&self, object: &str) -> Target {
        sign(&self.bucket.create_multipart_upload(Some(&self.credentials), object))
    }

    /// Returns the signed upload of a part; `number` is 1 for the first one.
    pub(crate) fn upload_part(&self, object: &str, upload: &str, number: u16) -> Target {
        sign(&self.bucket.upload_part(Some(&self.credentials), object, number, upload))
    }

    /// Returns the body of the request, too.
    pub(crate) fn complete_upload(&self, object: &str, upload: &str, etags: &[String]) -> (Target, String) {
        let etags = etags.iter().map(String::as_str);
        let complete =
            CompleteMultipartUpload::new(&self.bucket, Some(&self.credentials), object, upload, etags);
        (sign(&complete), complete.body())
    }

    pub(crate) fn abort_upload(&self, object: &str, upload: &str) -> Target {
        sign(&self.bucket.abort_multipart_upload(Some(&self.credentials), object, upload))
    }
}

impl Target {
    /// Returns the time at which it was signed, as `20261126T093000Z`.
    pub(crate) fn signed_at(&self) -> &str {
        let date = self.path_with_query.split(['?', '&']).find_map(|pair| pair.strip_prefix("X-Amz-Date="));
        date.unwrap_or_default()
    }
}

fn sign<'a, A: S3Action<'a>>(action: &A) -> Target {
    let url = action.sign(VALID_FOR);
    let host = url.host_str().unwrap_or_default();
    Target {
        method: A::METHOD,
        is_https: url.scheme() == "https",
        authority: url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        path_with_query: format!("{}?{}", url.path(), url.query().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use rusty_s3::{Bucket, Credentials, Method, UrlStyle};

    use super::{Signer, Target};

    fn signer(endpoint: &str, style: UrlStyle) -> Signer {
        let bucket = Bucket::new(endpoint.parse().unwrap(), style, "kv", "eu-west-1").unwrap();
        Signer::new(bucket, Credentials::new("AKIDEXAMPLE", "very secret"))
    }

    fn path(target: &Target) -> &str {
        target.path_with_query.split('?').next().unwrap()
    }

    #[test]
    fn the_bucket_is_in_the_path_or_in_the_host() {
        let target = signer("http://127.0.0.1:9000", UrlStyle::Path).head("a/b");
        assert_eq!((target.authority.as_str(), path(&target)), ("127.0.0.1:9000", "/kv/a/b"));
        assert_eq!((target.method, target.is_https), (Method::Head, false));
        let target = signer("https://s3.example", UrlStyle::VirtualHost).put("a/b");
        assert_eq!((target.authority.as_str(), path(&target)), ("kv.s3.example", "/a/b"));
        assert_eq!((target.method, target.is_https), (Method::Put, true));
    }

    #[test]
    fn requests_are_signed_and_the_secret_is_not_in_them() {
        let signer = signer("https://s3.example", UrlStyle::VirtualHost);
        let (complete, body) = signer.complete_upload("o", "u-1", &["\"e1\"".into(), "\"e2\"".into()]);
        assert!(body.contains("<PartNumber>2</PartNumber>"), "{body}");
        let targets = [
            signer.list("kvtier/"),
            signer.get("o"),
            signer.delete("o"),
            signer.create_upload("o"),
            signer.upload_part("o", "u-1", 7),
            signer.abort_upload("o", "u-1"),
            complete,
        ];
        for target in targets {
            let query = &target.path_with_query;
            assert!(query.contains("X-Amz-Signature=") && !query.contains("secret"), "{query}");
            assert_eq!(target.signed_at().len(), "20261126T093000Z".len(), "{query}");
        }
    }
}
