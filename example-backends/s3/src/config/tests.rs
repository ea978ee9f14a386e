use kvtier_guest::{Error, Init, testing};

use super::Config;

fn init(config: &[(&str, &str)]) -> Init {
    let required = [("bucket", "kv"), ("access_key_id", "AKIDEXAMPLE"), ("secret_access_key", "very secret")];
    testing::init(required.iter().chain(config).copied())
}

fn refusal(config: &[(&str, &str)]) -> String {
    match Config::from_init(&init(config)) {
        Err(Error::InvalidConfig(text)) => text,
        Err(other) => panic!("expected invalid-config, found {other:?}"),
        Ok(_) => panic!("accepted: {config:?}"),
    }
}

#[test]
fn by_default_the_bucket_is_a_host_of_amazons() {
    let config = Config::from_init(&init(&[("region", "eu-central-1")])).unwrap();
    assert_eq!(config.bucket.base_url().as_str(), "https://kv.s3.eu-central-1.amazonaws.com/");
    assert_eq!(config.folder, format!("kvtier/{}/", "0".repeat(32)));
    assert_eq!((config.requests, config.retries, config.part_bytes), (64, 3, 16 << 20));
}

#[test]
fn an_address_takes_the_bucket_into_the_path() {
    let path = [("endpoint", "http://127.0.0.1:9000"), ("addressing", "path")];
    let config = Config::from_init(&init(&path)).unwrap();
    assert_eq!(config.bucket.base_url().as_str(), "http://127.0.0.1:9000/kv/");
    let text = refusal(&[("endpoint", "http://127.0.0.1:9000")]);
    assert!(text.contains("config.addressing") && text.contains("path"), "{text}");
}

#[test]
fn a_bad_bucket_is_the_buckets_fault_and_says_what_is_expected() {
    let endpoint = ("endpoint", "https://s3.example");
    for (name, addressing, hint) in [
        ("No Bucket", "path", "hyphens and dots"),
        ("No Bucket", "virtual", "hyphens and dots"),
        ("a/b", "path", "hyphens and dots"),
        ("..", "path", "hyphens and dots"),
        ("kv?x", "virtual", "hyphens and dots"),
        ("bücket", "path", "hyphens and dots"),
        ("[::1", "virtual", "hyphens and dots"),
        ("kv_cache", "virtual", "config.addressing to path"),
        ("KV", "virtual", "config.addressing to path"),
        ("-kv", "virtual", "config.addressing to path"),
        ("kv..cache", "virtual", "config.addressing to path"),
        ("kv:80", "virtual", "config.addressing to path"),
    ] {
        let text = refusal(&[("bucket", name), ("addressing", addressing), endpoint]);
        let begin = format!("config.bucket: a text of {} bytes is not", name.len());
        assert!(text.starts_with(&begin) && text.contains(hint), "{text}");
        assert!(!text.contains("config.endpoint") && !text.contains(&format!("`{name}`")), "{text}");
    }
    let long = refusal(&[("bucket", &"k".repeat(64)), endpoint]);
    assert!(long.starts_with("config.bucket: ") && long.contains("at most 63"), "{long}");
    for (name, addressing) in [
        ("kv_cache", "path"),
        ("KV", "path"),
        ("tenant:kv", "path"),
        ("my.kv-cache.1", "virtual"),
        (&"k".repeat(63), "virtual"),
    ] {
        let config = [("bucket", name), ("addressing", addressing), endpoint];
        assert!(Config::from_init(&init(&config)).is_ok(), "{name}");
    }
}

#[test]
fn a_bad_endpoint_is_the_endpoints_fault() {
    let text = refusal(&[("endpoint", "s3.example")]);
    assert!(text.starts_with("config.endpoint: ") && !text.contains("bucket"), "{text}");
}

#[test]
fn what_is_wrong_is_named() {
    for (key, value) in [
        ("bucket", " "),
        ("endpoint", "s3.example"),
        ("endpoint", "ftp://s3.example"),
        ("endpoint", "https://user:pass@s3.example"),
        ("addressing", "dns"),
        ("region", "eu central"),
        ("prefix", "/kv"),
        ("part_bytes", "1MiB"),
        ("range_bytes", "1"),
        ("retries", "11"),
        ("request_timeout_ms", "0"),
        ("requests", "0"),
        ("requests", "many"),
        ("acces_key", "x"),
    ] {
        let text = refusal(&[(key, value)]);
        assert!(text.contains(&format!("config.{key}")), "{text}");
        assert!(!text.contains("pass"), "{text}");
    }
    for key in ["access_key_id", "secret_access_key"] {
        let text = refusal(&[(key, "")]);
        assert!(text.contains(&format!("secrets.{key}")) && !text.contains("very secret"), "{text}");
    }
}
