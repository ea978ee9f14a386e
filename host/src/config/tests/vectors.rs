//! Values that the host and the SDK of backends read in the same way.

use super::super::value::plain::{SizeError, boolean, size, whole};
use super::{disk_with, read, read_with};
use crate::limits::SIZE_BYTES_MAX;

const VECTORS: &str = include_str!("../../../wit/values.txt");

/// Returns kind, text and outcome of each row.
fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let lines = VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (kind, rest) = line.split_once('|').unwrap();
        let (text, outcome) = rest.rsplit_once('|').unwrap();
        (kind, text, outcome)
    })
}

#[test]
fn the_host_reads_the_table_of_values_as_the_sdk_does() {
    let refused = || "refused".to_owned();
    let mut n_rows = 0;
    for (kind, text, expected) in rows() {
        n_rows += 1;
        let found = match kind {
            // Whether a setting is present is decided before its text is read, see the tests below.
            _ if text.trim().is_empty() => "not given".to_owned(),
            "boolean" => boolean(text).map_or_else(refused, |value| value.to_string()),
            "whole" => match whole(text).map(u32::try_from) {
                None => refused(),
                Some(Err(_)) => "out of range".to_owned(),
                Some(Ok(value)) => value.to_string(),
            },
            "size" => match size(text, SIZE_BYTES_MAX) {
                Err(SizeError::Form) => refused(),
                Err(SizeError::Range) => "out of range".to_owned(),
                Ok(bytes) => bytes.to_string(),
            },
            other => panic!("no such kind: {other}"),
        };
        assert_eq!(found, expected, "{kind} {text:?}");
    }
    assert!(n_rows > 90);
}

#[test]
fn empty_settings_of_a_backend_are_not_given() {
    for key in ["limits.memory", "limits.call_timeout_ms", "breaker.window", "lanes"] {
        for empty in ["''", "' '", ""] {
            let config = read(&disk_with(&format!("{key}: {empty}"))).unwrap();
            assert_eq!(config.backends, read(&disk_with("")).unwrap().backends, "{key}");
        }
    }
    // A value that a template left out by mistake is reported.
    for key in ["digest", "tls.ca_file", "allow.fs", "secrets.password"] {
        read(&disk_with(&format!("{key}: ''"))).unwrap_err();
    }
    read("extra_config: {kvtier.integrity_key: ''}").unwrap_err();
    assert_eq!(read("extra_config: {kvtier.on_full: ''}").unwrap(), read("").unwrap());
}

#[test]
fn numbers_that_languages_read_differently_are_refused_with_the_reason() {
    // PyYAML reads 16, 16 and 90; YAML 1.2 reads 20 and two texts.
    for value in ["020", "1_6", "1:30", "'020'"] {
        let error = read(&format!("chunk_size: {value}")).unwrap_err().to_string();
        assert!(error.contains("in decimal digits, without leading zeros and `_`"), "{value}: {error}");
    }
    let error = read("max_local_cpu_size: 010").unwrap_err().to_string();
    assert!(error.contains("a number of GiB"), "{error}");
    // Where they agree, the value is taken.
    for value in ["0x10", "0b10000", "+16", "16.0"] {
        assert_eq!(read(&format!("chunk_size: {value}")).unwrap().chunk_size, 16, "{value}");
    }
}

#[test]
fn an_empty_variable_leaves_the_files_value() {
    let text = "chunk_size: 64\nlocal_cpu: false\ncache_policy: LFU\n";
    let file = read(text).unwrap();
    for empty in ["", " ", "''"] {
        let variables =
            ["LMCACHE_CHUNK_SIZE", "LMCACHE_LOCAL_CPU", "LMCACHE_CACHE_POLICY"].map(|name| (name, empty));
        assert_eq!(read_with(text, &variables).unwrap(), file);
    }
}

#[test]
fn yamls_own_tags_are_obeyed_and_others_refused() {
    assert_eq!(read("chunk_size: !!int 16").unwrap().chunk_size, 16);
    assert_eq!(read("chunk_size: !!str 16").unwrap().chunk_size, 16);
    let error = read("chunk_size: !!int sixteen").unwrap_err().to_string();
    assert!(error.contains("a value does not match its tag") && !error.contains("sixteen"), "{error}");
    assert!(read("chunk_size: !tokens 16").unwrap_err().to_string().contains("tags (`!name`)"));
}
