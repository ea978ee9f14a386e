//! Grants of the network against a resolver that knows one name.

use super::*;

/// A resolver that knows one name.
fn resolve(grants: &[&str], leads_to: &[&str]) -> Result<NetPolicy, String> {
    let grants: Vec<_> = grants.iter().map(|text| NetGrant::parse(text).unwrap()).collect();
    let lookup = |name: &str| match name {
        "cache.example" => Ok(leads_to.iter().map(|text| text.parse().unwrap()).collect()),
        _ => Err(io::Error::other("no such name")),
    };
    NetPolicy::resolve(&grants, lookup).map_err(|error| error.to_string())
}

fn allows(policy: &NetPolicy, address: &str) -> bool {
    policy.allows(address.parse().unwrap())
}

#[test]
fn a_name_stands_for_the_addresses_it_had_at_load_and_for_its_own_ports() {
    let policy = resolve(&["tcp://cache.example:6379"], &["1.2.3.4", "2600::1", "1.2.3.4"]).unwrap();
    assert!(allows(&policy, "1.2.3.4:6379") && allows(&policy, "[2600::1]:6379"));
    assert!(!allows(&policy, "1.2.3.4:6380") && !allows(&policy, "1.2.3.5:6379"));
    let pinned: Vec<IpAddr> = vec!["1.2.3.4".parse().unwrap(), "2600::1".parse().unwrap()];
    for name in ["cache.example", "Cache.Example", "cache.example."] {
        assert_eq!(policy.addresses(name), Some(pinned.clone()), "{name}");
    }
    let long = "x".repeat(HOST_NAME_BYTES_MAX + 1);
    for name in ["", "example", "x.cache.example", "cache.example..", "cache.example\0", &long] {
        assert_eq!(policy.addresses(name), None, "{name}");
    }
    assert_eq!(policy.addresses("[::1]"), Some(vec!["::1".parse().unwrap()]), "written out");
}

#[test]
fn a_name_that_leads_into_a_private_network_needs_that_network_granted_too() {
    let name = "tcp://cache.example:6379";
    let refused = resolve(&[name], &["1.2.3.4", "10.0.0.5"]).unwrap_err();
    insta::assert_snapshot!(refused, @r#"allow.net: `tcp://cache.example:6379`: the name resolves to 10.0.0.5, a private address; names may lead there only if the address is granted too: if that is meant, add "tcp://10.0.0.5:6379" or a network that has it"#);
    for vouching in
        ["tcp://10.0.0.5:6379", "tcp://10.0.0.0/8", "tcp://10.0.0.0/8:6000-7000", "tcp://0.0.0.0/0"]
    {
        let policy = resolve(&[name, vouching], &["10.0.0.5"]).expect(vouching);
        assert!(allows(&policy, "10.0.0.5:6379"));
    }
    for other in ["tcp://10.0.0.6:6379", "tcp://10.0.0.5:6380", "http://10.0.0.5", "tcp://[::/0]", name] {
        assert!(resolve(&[name, other], &["10.0.0.5"]).is_err(), "{other}");
    }
    assert!(resolve(&["tcp://cache.example", "tcp://10.0.0.5:6379"], &["10.0.0.5"]).is_err(), "all ports");
}

#[test]
fn a_name_that_leads_to_a_restricted_address_is_refused_however_the_address_is_spelt() {
    for address in [
        "0.0.0.0",
        "127.8.8.8",
        "10.255.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:0a00:0001::1",
        "64:ff9b:1::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "::ffff:0:169.254.169.254",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001::",
        "2600::5efe:192.168.0.1",
        "2600::200:5efe:10.0.0.1",
        "192.0.2.1",
        "198.51.100.255",
        "203.0.113.7",
        "192.88.99.1",
        "100::1",
        "2001:2::1",
        "2001:10::1",
        "2001:1ff::1",
        "2001:db8::1",
        "3fff:fff::1",
        "5f00::1",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
    ] {
        assert!(resolve(&["tcp://cache.example"], &[address]).is_err(), "{address}");
    }
}

#[test]
fn an_address_granted_by_address_is_allowed_wherever_it_leads() {
    let policy = resolve(&["tcp://127.0.0.1:1-9", "tcp://10.0.0.0/8:80"], &[]).unwrap();
    assert!(allows(&policy, "127.0.0.1:9") && allows(&policy, "10.1.1.1:80"));
    assert!(!allows(&policy, "127.0.0.1:10") && !allows(&policy, "127.0.0.2:9"));
    assert!(!policy.has_no_sockets() && NetPolicy::default().has_no_sockets());
}

#[test]
fn a_grant_of_http_is_for_that_scheme_host_and_port_and_for_no_socket() {
    let policy = resolve(&["https://cache.example", "http://10.0.0.5:9000"], &["1.2.3.4"]).unwrap();
    let may = |grant: &str| match NetGrant::parse(grant).unwrap() {
        NetGrant::Http { scheme, host, port } => policy.allows_http(&HttpTarget { scheme, host, port }),
        NetGrant::Tcp { .. } => panic!("{grant}"),
    };
    assert!(may("https://cache.example:443") && may("http://10.0.0.5:9000"));
    for other in [
        "http://cache.example:443",
        "https://cache.example:444",
        "https://x.cache.example",
        "https://1.2.3.4",
        "https://10.0.0.5:9000",
        "http://10.0.0.5",
    ] {
        assert!(!may(other), "{other}");
    }
    assert!(policy.has_http() && policy.has_no_sockets());
    assert!(!allows(&policy, "1.2.3.4:443") && !allows(&policy, "10.0.0.5:9000"));
    assert_eq!(policy.addresses("cache.example"), None);
}

#[test]
fn where_a_name_leads_to_later_is_judged_as_at_load() {
    let policy = resolve(&["https://cache.example", "https://10.0.0.5"], &["1.2.3.4"]).unwrap();
    let kind = |address: &str| policy.restriction(address.parse().unwrap());
    assert_eq!((kind("1.2.3.5:443"), kind("10.0.0.5:443")), (None, None));
    assert_eq!(kind("10.0.0.5:80"), Some("private"));
    assert_eq!(kind("[::ffff:10.0.0.6]:443"), Some("private"));
    assert_eq!(kind("169.254.169.254:443"), Some("link-local"));
}

#[test]
fn names_without_an_address_are_load_errors() {
    let none = resolve(&["tcp://cache.example"], &[]).unwrap_err();
    assert!(none.contains("`tcp://cache.example`: the name has no address"), "{none}");
    let unknown = resolve(&["https://other.example"], &[]).unwrap_err();
    assert!(unknown.contains("`https://other.example:443`") && unknown.contains("no such name"), "{unknown}");
}
