use kvtier_guest::Error;
use kvtier_guest::wasip3::http::types::ErrorCode;

use super::connection::transient;
use super::{Failure, ObjectRef, Operation, Refusal};
use crate::retry::Transient;

fn place() -> ObjectRef<'static> {
    place_of(Operation::Get)
}

fn place_of(operation: Operation) -> ObjectRef<'static> {
    let endpoint = "https://s3.example".into();
    ObjectRef { operation, endpoint, bucket: "kv", region: "us-east-1", object: "kvtier/0/1" }
}

fn refusal(status: u16, headers: &[(&str, &str)], body: &str) -> Failure {
    let header =
        |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Failure::Refused(Box::new(Refusal::new(status, header, body, "20261126T093000Z")))
}

fn text(failure: Failure) -> String {
    failure.into_error(&place()).to_string()
}

fn invalid_config(failure: Failure) -> String {
    match failure.into_error(&place()) {
        Error::InvalidConfig(text) => text,
        other => panic!("expected invalid-config, found {other:?}"),
    }
}

#[test]
fn a_missing_bucket_names_the_setting() {
    let body = r#"<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message><BucketName>kv</BucketName><RequestId>4F0TT9EMKN7Z7TK3</RequestId><HostId>k1tVTV/ux0Q9DCkEXAMPLE=</HostId></Error>"#;
    let failure = refusal(404, &[], body);
    assert!(!failure.is_absent());
    let text = invalid_config(failure);
    assert_eq!(text, "config.bucket: there is no bucket `kv` at https://s3.example (GET: 404 NoSuchBucket)");
}

#[test]
fn a_missing_object_is_absent_with_a_body_or_without() {
    let body = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>kvtier/0/1</Key></Error>";
    assert!(refusal(404, &[], body).is_absent());
    assert!(refusal(404, &[], "").is_absent());
    assert!(!refusal(404, &[], "<Error><Code>NoSuchUpload</Code></Error>").is_absent());
    assert!(!refusal(403, &[], "").is_absent());
    assert!(!Failure::Broken(ErrorCode::ConnectionRefused).is_absent());
}

#[test]
fn wrong_credentials_name_the_secret_and_never_show_it() {
    let unknown = r#"<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id you provided does not exist in our records.</Message><AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId><RequestId>R</RequestId></Error>"#;
    let wrong = r#"<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does not match the signature you provided. Check your key and signing method.</Message><AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256
20261126T093000Z</StringToSign><SignatureProvided>0badcafe</SignatureProvided><CanonicalRequest>GET
/kv/
X-Amz-Credential=AKIDEXAMPLE</CanonicalRequest></Error>"#;
    let denied =
        "<Error><Code>AccessDenied</Code><Message>Access Denied: X-Amz-Signature=0badcafe</Message></Error>";
    let expired = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message><Token-0>0badcafe</Token-0></Error>";
    for (body, key, code) in [
        (unknown, "secrets.access_key_id", "InvalidAccessKeyId"),
        (wrong, "secrets.secret_access_key", "SignatureDoesNotMatch"),
        (denied, "secrets.access_key_id", "AccessDenied"),
        (expired, "secrets.session_token", "ExpiredToken"),
    ] {
        let failure = refusal(403, &[], body);
        assert_eq!(failure.transient(), None, "{code}");
        let text = invalid_config(failure);
        assert!(text.starts_with(&format!("{key}: ")) && text.contains(&format!("403 {code}")), "{text}");
        assert!(!text.contains("AKID") && !text.contains("0badcafe"), "{text}");
    }
}

#[test]
fn a_key_without_a_right_is_told_that_one_and_no_other() {
    let rights =
        ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"];
    for (operation, verb, right) in [
        (Operation::List, "GET", "s3:ListBucket"),
        (Operation::Head, "HEAD", "s3:GetObject"),
        (Operation::Get, "GET", "s3:GetObject"),
        (Operation::Put, "PUT", "s3:PutObject"),
        (Operation::Upload, "upload in parts", "s3:PutObject"),
        (Operation::Abort, "DELETE", "s3:AbortMultipartUpload"),
        (Operation::Delete, "DELETE", "s3:DeleteObject"),
    ] {
        let denied = refusal(403, &[], "<Error><Code>AccessDenied</Code></Error>");
        let Error::InvalidConfig(text) = denied.into_error(&place_of(operation)) else {
            panic!("{operation:?}")
        };
        assert!(text.contains(&format!("({verb}: 403 AccessDenied)")), "{text}");
        let named: Vec<_> = rights.into_iter().filter(|right| text.contains(right)).collect();
        assert_eq!(named, [right], "{text}");
        assert!(text.contains("`kvtier/0/1` in bucket `kv` at https://s3.example"), "{text}");
    }
}

#[test]
fn clocks_that_differ_are_both_told() {
    let too_skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current time is too large.</Message><ServerTime>2026-11-26T10:00:00Z</ServerTime></Error>";
    let expired = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message><X-Amz-Expires>900</X-Amz-Expires><Expires>2026-11-26T09:45:00Z</Expires></Error>";
    for body in [too_skewed, expired] {
        let error = refusal(403, &[("date", "Thu, 26 Nov 2026 10:00:00 GMT")], body).into_error(&place());
        let Error::Unavailable(text) = error else { panic!("{error:?}") };
        for expected in ["Thu, 26 Nov 2026 10:00:00 GMT", "20261126T093000Z", "NTP"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}

#[test]
fn another_region_is_told() {
    let redirect = r#"<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>PermanentRedirect</Code><Message>The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint.</Message><Endpoint>kv.s3.eu-central-1.amazonaws.com</Endpoint><Bucket>kv</Bucket></Error>"#;
    let malformed = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region></Error>";
    let query = "<Error><Code>AuthorizationQueryParametersError</Code><Message>Error parsing the X-Amz-Credential parameter; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region></Error>";
    for failure in [
        refusal(301, &[("x-amz-bucket-region", "eu-central-1")], redirect),
        refusal(400, &[], malformed),
        refusal(400, &[], query),
        refusal(400, &[("x-amz-bucket-region", "eu-central-1")], ""),
    ] {
        let text = invalid_config(failure);
        assert!(
            text.starts_with("config.region: ") && text.contains("eu-central-1, not us-east-1"),
            "{text}"
        );
    }
}

#[test]
fn a_redirect_tells_where_to_and_not_what_was_signed() {
    let headers = [("location", "https://other.example:8443/kv/?X-Amz-Signature=0badcafe")];
    let text = invalid_config(refusal(307, &headers, ""));
    assert!(text.starts_with("config.endpoint: ") && text.contains("https://other.example:8443,"), "{text}");
    assert!(text.contains("allow.net") && !text.contains("0badcafe"), "{text}");
    let strange = [("location", "javascript:0badcafe")];
    assert!(!invalid_config(refusal(302, &strange, "")).contains("0badcafe"));
    let endpoint = "<Error><Code>TemporaryRedirect</Code><Endpoint>kv.s3.example</Endpoint></Error>";
    assert!(invalid_config(refusal(307, &[], endpoint)).contains("kv.s3.example"));
}

#[test]
fn a_busy_store_is_tried_again_and_a_full_one_is_not() {
    let slow = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    for (status, body) in [
        (503, slow),
        (503, ""),
        (500, "<Error><Code>InternalError</Code></Error>"),
        (200, "<Error><Code>InternalError</Code></Error>"),
        (400, "<Error><Code>RequestTimeout</Code></Error>"),
        (429, ""),
        (412, "<Error><Code>PreconditionFailed</Code></Error>"),
    ] {
        let failure = refusal(status, &[], body);
        assert_eq!(failure.transient(), Some(Transient::Failed), "{status} {body}");
        assert!(matches!(failure.into_error(&place()), Error::Unavailable(_)), "{status} {body}");
    }
    let full = "<Error><Code>XMinioStorageFull</Code></Error>";
    for (status, body) in [
        (507, ""),
        (507, full),
        (400, "<Error><Code>EntityTooLarge</Code></Error>"),
        (400, "<Error><Code>XMinioAdminBucketQuotaExceeded</Code></Error>"),
        (403, "<Error><Code>QuotaExceeded</Code></Error>"),
    ] {
        let failure = refusal(status, &[], body);
        assert_eq!(failure.transient(), None);
        assert_eq!(failure.into_error(&place()), Error::NoSpace);
    }
    let short = refusal(416, &[], "<Error><Code>InvalidRange</Code></Error>");
    assert!(matches!(short.into_error(&place()), Error::Corrupt(_)));
    assert!(
        text(refusal(501, &[], "")).contains("`kvtier/0/1` in bucket `kv` at https://s3.example: GET: 501")
    );
}

#[test]
fn answers_that_are_not_s3s_do_no_harm() {
    for body in
        ["<Code>", "<Code></Code>", "<html>not S3</html>", "</Code><Code>", "<Code>a b</Code>", "\u{fffd}"]
    {
        let text = text(refusal(418, &[("date", "<script>"), ("location", "")], body));
        assert!(text.ends_with("https://s3.example: GET: 418\")"), "{text}");
    }
}

#[test]
fn the_hosts_words_are_kept() {
    let words = ErrorCode::InternalError(Some("connection to s3.example reset by peer".into()));
    let error = Failure::Broken(words).into_error(&place());
    let Error::Unavailable(text) = error else { panic!("{error:?}") };
    assert!(text.ends_with("connection to s3.example reset by peer"), "{text}");
    for code in
        [ErrorCode::ConnectionRefused, ErrorCode::TlsCertificateError, ErrorCode::ConnectionReadTimeout]
    {
        assert!(matches!(Failure::Broken(code).into_error(&place()), Error::Unavailable(_)));
    }
    let denied = Failure::Broken(ErrorCode::HttpRequestDenied);
    assert_eq!(denied.transient(), None);
    assert!(matches!(denied.into_error(&place()), Error::Other(text) if text.contains("allow.net")));
    assert_eq!(transient(&ErrorCode::ConnectionReadTimeout), Some(Transient::TimedOut));
    assert_eq!(transient(&ErrorCode::ConnectionTerminated), Some(Transient::Failed));
}
