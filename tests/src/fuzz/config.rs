//! Configuration text, as a whole and value by value.

use std::path::Path;

use kvtier::__internal::wasm::kebab;
use kvtier::{Config, IpNetwork, NetGrant, NetHost, ReadConfig, Sha256Digest};

/// A text in the place of secrets, which must not appear in any message.
const CANARY: &str = "canary-5f0e8a";

/// A configuration text and, behind a zero byte, variables of the environment, one a line. It is refused with a
/// message, or accepted. If accepted, it is valid and reads the same the second time.
pub(super) fn text(bytes: &[u8]) {
    let Ok(input) = std::str::from_utf8(bytes) else { return };
    let (text, variables) = input.split_once('\0').unwrap_or((input, ""));
    if names_files(input) {
        return;
    }
    let variables: Vec<(String, String)> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(a, b)| (a.into(), b.into()))
        .collect();
    check(text, &variables);
}

/// Reports whether the text names files to read: that is up to an operator, and may take forever.
fn names_files(text: &str) -> bool {
    text.contains("file:")
}

fn check(text: &str, variables: &[(String, String)]) -> Option<Config> {
    let parse = || Config::from_yaml(text, Path::new("/base"), variables.iter().cloned());
    let ReadConfig { config, notes, warnings, .. } = match (parse(), parse()) {
        (Ok(read), Ok(again)) => {
            assert_eq!(read.config, again.config);
            assert_eq!((&read.notes, &read.warnings), (&again.notes, &again.warnings));
            read
        }
        (Err(error), Err(again)) => {
            assert_eq!(error.to_string(), again.to_string());
            assert!(!error.to_string().is_empty());
            return None;
        }
        (one, other) => panic!("accepted and refused: {one:?}, {other:?}"),
    };
    if let Err(error) = config.validate() {
        panic!("an accepted configuration is not valid: {error}");
    }
    let (bounded, unbounded) = (config.backends.len() <= 64, notes.len() + warnings.len());
    assert!(bounded && unbounded <= 1 << 20);
    let shown = format!("{config:?} {:?}", config.shown());
    assert!(!shown.contains(CANARY), "a value is shown that may be a secret");
    Some(config)
}

/// One value of a setting: a grant, a digest, a secret, a limit or a name, as quoted YAML text.
pub(super) fn values(bytes: &[u8]) {
    const PLACES: [&str; 12] = [
        "allow.net",
        "allow.fs",
        "allow.env",
        "digest",
        "secrets.password",
        "limits.memory",
        "limits.call_timeout_ms",
        "limits.min_bytes_per_s",
        "class_name",
        "module_path",
        "lanes",
        "config.root",
    ];
    let Some((&place, value)) = bytes.split_first() else { return };
    let Ok(value) = std::str::from_utf8(value) else { return };
    let place = PLACES[usize::from(place) % PLACES.len()];
    if place == "class_name" {
        check_kebab(value);
    }
    if place == "digest"
        && let Some(digest) = Sha256Digest::parse(value)
    {
        assert_eq!(digest.to_string(), value.to_ascii_lowercase());
    }
    let quoted_value = quoted(value);
    // The value of a granted variable is usually a secret.
    let secret = format!("'TOKEN={CANARY}'");
    let mut keys = vec![("module_path", "a.wasm"), ("class_name", "A"), ("allow.env", &secret)];
    keys.retain(|(key, _)| *key != place);
    keys.push((place, &quoted_value));
    let lines = keys.iter().map(|(key, value)| format!("  external_backend.b.{key}: {value}"));
    let lines = lines.collect::<Vec<_>>().join("\n");
    let text = format!("external_backends: b\nextra_config:\n{lines}\n");
    let Some(config) = check(&text, &[]) else { return };
    for grant in &config.backends[0].allow.net {
        let (NetGrant::Tcp { host, .. } | NetGrant::Http { host, .. }) = grant else { continue };
        match host {
            NetHost::Network(network) => check_network(network),
            NetHost::Name(name) => {
                assert!(!name.is_empty() && *name == name.to_lowercase(), "{name:?}");
                assert!(name.parse::<std::net::IpAddr>().is_err(), "an address taken for a name: {name}");
            }
            NetHost::Address(_) => {}
        }
    }
    for grant in &config.backends[0].allow.fs {
        assert!(grant.guest_path.starts_with('/'), "{grant:?}");
        assert!(grant.guest_path.split('/').all(|part| part != ".." && part != "."), "{grant:?}");
    }
}

/// Returns a text in YAML's double-quoted form, which can express any character.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| format!("\\U{:08x}", u32::from(c)));
    format!("\"{}\"", escaped.collect::<Vec<_>>().concat())
}

fn check_network(network: &IpNetwork) {
    let (v4, v6): ([u8; 4], [u8; 16]) = ([10, 1, 2, 3], [0x20; 16]);
    for address in [v4.into(), v6.into(), [0; 4].into(), [255; 4].into()] {
        let mapped = match address {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
            v6 @ std::net::IpAddr::V6(_) => v6,
        };
        assert_eq!(network.contains(address), network.contains(mapped), "{network:?} and {address}");
    }
}

/// The kebab form of a kebab form is the same.
fn check_kebab(name: &str) {
    let once = kebab(name);
    if name.is_ascii() {
        assert_eq!(kebab(&once), once, "of {name:?}");
    }
}
