//! Refusals of a store, and failures on the way to it: the operator learns the cause and the remedy, and no secrets.

use std::net::TcpListener;

use kvtier::{BackendConfig, Config, Engine, EngineBuilder, OnLoadError, Tiers, block_on};
use kvtier_servers::s3::{ACCESS_KEY, S3Options, S3Server, SECRET_KEY};
use kvtier_servers::tls::Certificates;

use super::canned::{Canned, answer, empty_list};
use super::{Secrets, backend, program, server, set};
use crate::support::{self, get, keys, put_in, served};

/// Builds an engine in which `s3` may be down, and `memory` serves.
fn engine_without(s3: BackendConfig) -> Engine {
    let memory = support::backend("memory", "memory", "MemoryBackend");
    let config = Config {
        on_load_error: OnLoadError::Continue,
        local_cpu: false,
        ..support::config(vec![s3, memory])
    };
    support::engine(config)
}

/// Checks that a backend does not load and that the others serve, and returns the cause.
fn why_down(s3: BackendConfig) -> String {
    let name = s3.name.clone();
    let engine = engine_without(s3);
    let (storage, keys) = (engine.storage(), keys(3));
    put_in(storage, &keys, "memory");
    assert_eq!(served(&get(storage, &keys)), [2; 3]);
    support::health(storage, &name).down.expect("it is down")
}

fn assert_says(why: &str, parts: &[&str]) {
    for part in parts {
        assert!(why.contains(part), "`{part}` is not in: {why}");
    }
}

/// Checks that no credential is in the log of this process or in a text.
fn assert_no_secrets(text: &str) {
    // A wrong key is a secret too.
    for secret in [
        SECRET_KEY,
        ACCESS_KEY,
        WRONG_KEY,
        UNKNOWN_KEY,
        "X-Amz-Signature",
        "x-amz-signature",
        "X-Amz-Credential",
    ] {
        assert!(!text.contains(secret), "{secret}: {text}");
        assert_eq!(support::log().lines_with(secret), [""; 0]);
    }
}

const WRONG_KEY: &str = "another/key+never+shown";
const UNKNOWN_KEY: &str = "AKIDNOBODYKNOWS";

#[test]
fn wrong_credentials_are_named_and_not_shown() {
    support::log();
    let server = server();
    for (name, secrets, key, code) in [
        (
            "s3-secret",
            Secrets::new(ACCESS_KEY, WRONG_KEY),
            "secrets.secret_access_key",
            "SignatureDoesNotMatch",
        ),
        ("s3-key", Secrets::new(UNKNOWN_KEY, SECRET_KEY), "secrets.access_key_id", "403"),
    ] {
        let why = why_down(backend(name, &server.endpoint(), &secrets));
        assert_says(&why, &["invalid configuration", key, code, &server.endpoint()]);
        assert_no_secrets(&why);
    }
}

#[test]
fn a_missing_bucket_is_named() {
    let options = S3Options { buckets: &["other"], ..S3Options::default() };
    let server = S3Server::start(&program(), &options).unwrap();
    let secrets = Secrets::right();
    let why = why_down(backend("s3-bucket", &server.endpoint(), &secrets));
    assert_says(&why, &["config.bucket", "`kv-cache`", "NoSuchBucket", &server.endpoint()]);
}

#[test]
fn a_name_that_no_bucket_can_have_is_named() {
    let server = server();
    let secrets = Secrets::right();
    for (name, says) in [("No Bucket", "text of 9 bytes is not"), ("ab", "InvalidBucketName")] {
        let mut s3 = backend("s3-bucket-name", &server.endpoint(), &secrets);
        set(&mut s3, &[("bucket", name)]);
        let why = why_down(s3);
        assert_says(&why, &["config.bucket", says]);
        assert!(!why.contains("config.endpoint"), "{why}");
    }
}

#[test]
fn only_the_right_that_is_missing_is_named() {
    let (server, secrets) = (server(), Secrets::right());
    let mut s3 = backend("s3-rights", &server.endpoint(), &secrets);
    s3.breaker.failures = 0;
    let engine = engine_without(s3);
    put_in(engine.storage(), &keys(1), "s3-rights");
    let denied = |operation| server.refuse(&[(operation, 403, "AccessDenied")]).unwrap();

    let why = || {
        let removed = block_on(engine.storage().remove(&keys(1), &Tiers::only(["s3-rights"])));
        format!("{:?}", removed.expect_err("it is refused"))
    };
    // The bucket may be listed, but its objects may not be read.
    denied("HeadObject");
    let head = why();
    assert_says(&head, &["s3:GetObject", "HEAD: 403"]);
    assert!(!head.contains("s3:PutObject") && !head.contains("s3:ListBucket"), "{head}");
    denied("DeleteObject");
    let delete = why();
    assert_says(&delete, &["s3:DeleteObject", "DELETE: 403 AccessDenied"]);
    assert!(!delete.contains("s3:GetObject"), "{delete}");
}

#[test]
fn settings_are_checked_before_anything_is_sent() {
    let canned = Canned::start(|_, _| empty_list());
    for (key, value) in
        [("part_bytes", "1MiB"), ("requests", "0"), ("buckets", "kv-cache"), ("addressing", "virtual")]
    {
        let secrets = Secrets::right();
        let mut s3 = backend("s3-settings", canned.endpoint(), &secrets);
        set(&mut s3, &[(key, value)]);
        assert_says(&why_down(s3), &[&format!("config.{key}")]);
    }
    let secrets = Secrets::right();
    let mut s3 = backend("s3-settings", canned.endpoint(), &secrets);
    s3.secrets.pop();
    assert_says(&why_down(s3), &["secrets.secret_access_key: is required"]);
    assert_eq!(canned.requests(""), [""; 0]);
}

#[test]
fn redirects_are_not_followed_to_hosts_that_nobody_granted() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let other = format!("http://{}", elsewhere.local_addr().unwrap());
    let location = format!("location: {other}/kv-cache/?X-Amz-Signature=0badcafe\r\n");
    for status in ["301 Moved Permanently", "307 Temporary Redirect"] {
        let location = location.clone();
        let canned = Canned::start(move |_, _| answer(status, &location, ""));
        let secrets = Secrets::right();
        let why = why_down(backend("s3-redirect", canned.endpoint(), &secrets));
        assert_says(&why, &["config.endpoint", &other, "allow.net"]);
        assert!(!why.contains("0badcafe"), "{why}");
        assert_no_secrets(&why);
    }
    let nobody = elsewhere.accept().expect_err("no connection arrived");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn another_region_and_another_clock_are_told() {
    let region = "<Error><Code>AuthorizationQueryParametersError</Code><Region>eu-central-1</Region></Error>";
    let canned = Canned::start(move |_, _| answer("400 Bad Request", "", region));
    let secrets = Secrets::right();
    let why = why_down(backend("s3-region", canned.endpoint(), &secrets));
    assert_says(&why, &["config.region", "eu-central-1, not us-east-1"]);

    let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    let date = "date: Sat, 01 Jan 2000 00:00:00 GMT\r\n";
    let canned = Canned::start(move |_, _| answer("403 Forbidden", date, skewed));
    let secrets = Secrets::right();
    let why = why_down(backend("s3-clock", canned.endpoint(), &secrets));
    assert_says(&why, &["clocks differ", "Sat, 01 Jan 2000 00:00:00 GMT", "this machine's", "NTP"]);
    assert_no_secrets(&why);
}

#[test]
fn certificates_of_others_and_for_others_are_refused() {
    let (ours, strange) = (Certificates::make().unwrap(), Certificates::make().unwrap());
    let elsewhere = Certificates::make_for(&["elsewhere.example"]).unwrap();
    for (served, trusted) in [(&strange, &ours), (&elsewhere, &elsewhere)] {
        let options = S3Options { tls: Some(served), ..S3Options::default() };
        let server = S3Server::start(&program(), &options).unwrap();
        let secrets = Secrets::right();
        let mut s3 = backend("s3-certificate", &server.endpoint(), &secrets);
        s3.ca_file = Some(trusted.ca());
        let why = why_down(s3);
        assert_says(&why, &["unavailable", "certificate", &server.endpoint()]);
    }
}

#[test]
fn a_host_that_is_not_granted_is_told_with_the_grant() {
    let canned = Canned::start(|_, _| empty_list());
    let secrets = Secrets::right();
    let mut s3 = backend("s3-denied", canned.endpoint(), &secrets);
    s3.allow.net.clear();
    assert_says(&why_down(s3), &["allow.net", canned.endpoint()]);
    assert_eq!(canned.requests(""), [""; 0]);
}

#[test]
fn with_fail_the_engine_says_why_it_does_not_start() {
    let server = server();
    let secrets = Secrets::new(ACCESS_KEY, WRONG_KEY);
    let config = support::config(vec![backend("s3-fail", &server.endpoint(), &secrets)]);
    let error =
        EngineBuilder::new(config, support::metadata()).build_blocking().expect_err("it does not start");
    assert_says(&error.to_string(), &["s3-fail", "SignatureDoesNotMatch"]);
    assert_no_secrets(&format!("{error} {error:?}"));
}
