//! Addresses that a name must not lead to unless they are granted as addresses: the ranges for special purposes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns the kind of an address that leads into a private network, or to more or less than one machine; `None` for
/// addresses of the public internet.
pub(super) fn restriction(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => restriction_v4(address),
        IpAddr::V6(address) => restriction_v6(address),
    }
}

/// # Source
/// The IANA registry of IPv4 addresses for special purposes.
fn restriction_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("unspecified"),
        [127, ..] => Some("loopback"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
        [169, 254, ..] => Some("link-local"),
        [100, 64..=127, ..] => Some("carrier-grade NAT"),
        // For protocols, documentation, relays of 6to4 and benchmarks.
        [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [240..=255, ..] => Some("reserved"),
        [224..=239, ..] => Some("multicast"),
        _ => None,
    }
}

/// # Source
/// The IANA registry of IPv6 addresses for special purposes.
fn restriction_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0x64, 0xff9b, 1, ..] => Some("private"),
        [0xfc00..=0xfdff, ..] => Some("unique local"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        // Packets leave the tunnel at the IPv4 address and port that the remaining bits contain.
        [0x2001, 0, ..] => Some("Teredo"),
        // Translated to IPv4 on the way: NAT64, 6to4, the IPv4-translated form (SIIT), the old IPv4-compatible one, and
        // ISATAP, which looks only at the last half.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..]
        | [0, 0, 0, 0, 0xffff | 0, 0, high, low]
        | [.., 0 | 0x200, 0x5efe, high, low] => restriction_v4(embedded(high, low)),
        [0x2001, 0..=0x1ff, ..] if !is_global_service(segments) => Some("reserved"),
        // To be discarded, for documentation, for segment routing.
        [0x100, 0, 0, 0 | 1, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] | [0x5f00, ..] => {
            Some("reserved")
        }
        _ => None,
    }
}

/// Reports whether an address from the range for protocols can be reached from everywhere: services, and the ORCHIDs
/// and entity tags of hosts.
const fn is_global_service(segments: [u16; 8]) -> bool {
    matches!(segments, [0x2001, 1, 0, 0, 0, 0, 0, 1..=3])
        || matches!(segments, [0x2001, 3 | 0x20..=0x3f, ..])
        || matches!(segments, [0x2001, 4, 0x112, ..])
}

#[cfg(test)]
mod tests {
    use super::restriction;

    #[test]
    fn no_spelling_of_a_restricted_address_gets_past() {
        for (address, kind) in [
            ("0.0.0.0", "unspecified"),
            ("127.8.8.8", "loopback"),
            ("10.255.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.0.1", "private"),
            ("169.254.169.254", "link-local"),
            ("100.64.0.1", "carrier-grade NAT"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::10.0.0.1", "private"),
            ("64:ff9b::a9fe:a9fe", "link-local"),
            ("2002:0a00:0001::1", "private"),
            ("64:ff9b:1::8.8.8.8", "private"),
            ("::ffff:0:127.0.0.1", "loopback"),
            ("::ffff:0:169.254.169.254", "link-local"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
            ("2001::", "Teredo"),
            ("2600::5efe:192.168.0.1", "private"),
            ("2600::200:5efe:10.0.0.1", "private"),
            ("192.0.2.1", "reserved"),
            ("198.51.100.255", "reserved"),
            ("203.0.113.7", "reserved"),
            ("192.88.99.1", "reserved"),
            ("100::1", "reserved"),
            ("2001:2::1", "reserved"),
            ("2001:10::1", "reserved"),
            ("2001:1ff::1", "reserved"),
            ("2001:db8::1", "reserved"),
            ("3fff:fff::1", "reserved"),
            ("5f00::1", "reserved"),
            ("fd00:ec2::254", "unique local"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(restriction(address.parse().unwrap()), Some(kind), "{address}");
        }
        for address in ["9.255.255.255", "11.0.0.0", "172.15.0.1", "172.32.0.1", "100.128.0.1", "8.8.8.8"] {
            assert_eq!(restriction(address.parse().unwrap()), None, "{address}");
        }
        for address in [
            "2600::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "2002:808:808::1",
            "2600::5efe:8.8.8.8",
            "2001:1::1",
            "2001:4:112::1",
            "2001:20::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "3fff:1000::1",
        ] {
            assert_eq!(restriction(address.parse().unwrap()), None, "{address}");
        }
    }
}
