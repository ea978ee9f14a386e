//! What a backend is allowed to reach: directories, network targets, environment variables.
//!
//! A [`Grants`] that is empty grants nothing. Whether a granted directory exists is found out when the
//! backend is loaded.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Lists everything that one backend may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Directories.
    pub fs: Vec<FsGrant>,
    /// Network targets.
    pub net: Vec<NetGrant>,
    /// Environment variables.
    pub env: Vec<EnvGrant>,
}

/// Says what may be done in a granted directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsAccess {
    /// Files may be read and listed.
    ReadOnly,
    /// Files may also be made, changed and removed.
    ReadWrite,
}

/// Grants one directory of the host under a path of the guest's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsGrant {
    /// Directory on the host.
    pub host_dir: PathBuf,
    /// Absolute path under which the guest sees it.
    pub guest_path: String,
    /// What may be done in it.
    pub access: FsAccess,
}

/// Grants connections to network targets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetGrant {
    /// TCP connections.
    Tcp {
        /// Where to.
        host: NetHost,
        /// Which ports.
        ports: PortRange,
    },
    /// HTTP requests made through the host.
    Http {
        /// With or without TLS.
        scheme: HttpScheme,
        /// Where to; never a network.
        host: NetHost,
        /// Which port.
        port: u16,
    },
}

/// Names the host side of a network target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetHost {
    /// A host name, in lower case.
    Name(String),
    /// One address.
    Address(IpAddr),
    /// All addresses of a network.
    Network(IpNetwork),
}

/// Names an IP network, as in `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork {
    address: IpAddr,
    prefix_bits: u8,
}

/// Says whether HTTP requests use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpScheme {
    /// `http`, port 80 unless another is given.
    Http,
    /// `https`, port 443 unless another is given.
    Https,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

/// Grants one environment variable.
#[derive(Clone, PartialEq, Eq)]
pub enum EnvGrant {
    /// The host's own variable of this name, if it is set when the backend is loaded.
    Inherit(String),
    /// A variable with a value from the configuration.
    Set {
        /// The variable's name.
        name: String,
        /// Its value.
        value: String,
    },
}

// The value is left out: operators put tokens there.
impl fmt::Debug for EnvGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit(name) => f.debug_tuple("Inherit").field(name).finish(),
            Self::Set { name, value } => {
                f.debug_struct("Set").field("name", name).field("value_bytes", &value.len()).finish()
            }
        }
    }
}

impl HttpScheme {
    /// Returns the port that is meant where none is given.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl PortRange {
    /// Every port but 0.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// Tells whether the range has this port.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl IpNetwork {
    /// Makes a network, or `None` if the prefix is longer than the address or bits beyond it are set.
    #[must_use]
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let network = Self { address, prefix_bits };
        (prefix_bits <= address_bits(address) && network.masked(address) == address).then_some(network)
    }

    /// Makes the network that has one address only.
    #[must_use]
    pub fn single(address: IpAddr) -> Self {
        Self { address, prefix_bits: address_bits(address) }
    }

    /// Tells whether the network has this address. IPv4 addresses written as IPv6 (`::ffff:a.b.c.d`) count as
    /// the IPv4 addresses that they reach.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.address
    }

    fn masked(&self, address: IpAddr) -> IpAddr {
        let host_bits = u32::from(address_bits(address).saturating_sub(self.prefix_bits));
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }
}

fn address_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Forms of the grants, for error messages.
pub(in crate::config) const FS_FORM: &str = "`HOST_DIR:GUEST_PATH:ro` or `HOST_DIR:GUEST_PATH:rw` with an absolute guest path without `.` or `..` \
     (several grants as a list)";
pub(in crate::config) const NET_FORM: &str = "`tcp://HOST[:PORT[-PORT]]`, `tcp://NETWORK/BITS[:PORT[-PORT]]` or `http(s)://HOST[:PORT]` \
     (several grants as a list)";
pub(in crate::config) const ENV_FORM: &str = "`NAME` or `NAME=VALUE` (several grants as a list)";

impl FsGrant {
    /// Parses `HOST_DIR:GUEST_PATH:ro|rw`; a relative host directory is taken from `base_dir`.
    pub(crate) fn parse(text: &str, base_dir: &Path) -> Option<Self> {
        let (rest, mode) = text.trim().rsplit_once(':')?;
        let (host_dir, guest_path) = rest.rsplit_once(':')?;
        let access = match mode {
            "ro" => FsAccess::ReadOnly,
            "rw" => FsAccess::ReadWrite,
            _ => return None,
        };
        if host_dir.is_empty() || host_dir.contains('\0') {
            return None;
        }
        // One spelling a path, so that a repeated one is noticed.
        let inner = guest_path.strip_prefix('/')?;
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        let valid = inner.is_empty()
            || inner.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
        valid.then(|| Self { host_dir: base_dir.join(host_dir), guest_path: format!("/{inner}"), access })
    }
}

impl NetGrant {
    /// Parses one of the forms of [`NET_FORM`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, target) = text.trim().split_once("://")?;
        match scheme {
            "tcp" => {
                let (host, ports) = split_target(target)?;
                Some(Self::Tcp {
                    host: NetHost::parse(host)?,
                    ports: ports.map_or(Some(PortRange::ALL), PortRange::parse)?,
                })
            }
            "http" | "https" => {
                let scheme = if scheme == "http" { HttpScheme::Http } else { HttpScheme::Https };
                // A lone slash is how browsers show a host.
                let (host, port) = split_target(target.strip_suffix('/').unwrap_or(target))?;
                let host = NetHost::parse(host)?;
                let is_network = matches!(host, NetHost::Network(_));
                let port = port.map_or(Some(scheme.default_port()), parse_port)?;
                (!is_network).then_some(Self::Http { scheme, host, port })
            }
            _ => None,
        }
    }
}

/// Splits `HOST[:PORTS]`; an IPv6 host or network stands in brackets, which are taken off.
fn split_target(target: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = target.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.contains(':').then_some(())?;
        return match rest {
            "" => Some((host, None)),
            rest => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match target.split_once(':') {
        None => Some((target, None)),
        Some((host, ports)) => Some((host, Some(ports))),
    }
}

impl NetHost {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some((address, bits)) = text.split_once('/') {
            let address = address.parse().ok()?;
            return IpNetwork::new(address, bits.parse().ok()?).map(Self::Network);
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        let name = text.to_ascii_lowercase();
        // All-digit last labels are how broken IPv4 addresses look; the URL standard refuses them too.
        let last_is_number =
            name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        let is_name = name.len() <= 253 && !last_is_number && name.split('.').all(is_host_label);
        is_name.then_some(Self::Name(name))
    }
}

fn is_host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl PortRange {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        (first <= last).then_some(Self { first, last })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}

impl EnvGrant {
    /// Parses `NAME` or `NAME=VALUE`.
    pub(in crate::config) fn parse(text: &str) -> Option<Self> {
        let (name, value) = match text.split_once('=') {
            None => (text.trim(), None),
            Some((name, value)) => (name.trim(), Some(value)),
        };
        let valid = !name.is_empty()
            && !name.contains(|c: char| c.is_whitespace() || c == '\0')
            && !value.is_some_and(|value| value.contains('\0'));
        let name = valid.then(|| name.to_owned())?;
        Some(match value {
            None => Self::Inherit(name),
            Some(value) => Self::Set { name, value: value.to_owned() },
        })
    }

    /// Returns the variable's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Inherit(name) | Self::Set { name, .. } => name,
        }
    }
}

impl fmt::Display for FsGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.access {
            FsAccess::ReadOnly => "ro",
            FsAccess::ReadWrite => "rw",
        };
        write!(f, "{}:{}:{mode}", self.host_dir.display(), self.guest_path)
    }
}

impl fmt::Display for NetGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, ports } => {
                write!(f, "tcp://{host}")?;
                match ports {
                    &PortRange::ALL => Ok(()),
                    PortRange { first, last } if first == last => write!(f, ":{first}"),
                    PortRange { first, last } => write!(f, ":{first}-{last}"),
                }
            }
            Self::Http { scheme, host, port } => {
                let scheme = match scheme {
                    HttpScheme::Http => "http",
                    HttpScheme::Https => "https",
                };
                write!(f, "{scheme}://{host}:{port}")
            }
        }
    }
}

impl fmt::Display for NetHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Network(network) => match network.address {
                IpAddr::V4(address) => write!(f, "{address}/{}", network.prefix_bits),
                IpAddr::V6(address) => write!(f, "[{address}/{}]", network.prefix_bits),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Option<String> {
        NetGrant::parse(text).map(|grant| grant.to_string())
    }

    #[test]
    fn network_grants_are_read_and_shown_in_one_form() {
        for (text, shown) in [
            ("tcp://Cache.Example:6379", "tcp://cache.example:6379"),
            ("tcp://cache_1", "tcp://cache_1"),
            ("tcp://10.0.0.0/8:6379-6390", "tcp://10.0.0.0/8:6379-6390"),
            ("tcp://0.0.0.0/0", "tcp://0.0.0.0/0"),
            ("tcp://10.1.2.3:1-1", "tcp://10.1.2.3:1"),
            ("tcp://[::1]:6379", "tcp://[::1]:6379"),
            ("tcp://[fd00::/8]:1-2", "tcp://[fd00::/8]:1-2"),
            ("http://a.example", "http://a.example:80"),
            ("https://a.example/", "https://a.example:443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(net(text).as_deref(), Some(shown), "{text}");
            assert_eq!(net(shown).as_deref(), Some(shown));
        }
    }

    #[test]
    fn other_texts_are_no_network_grants() {
        for text in [
            "",
            "cache.example:6379",
            "udp://a:1",
            "TCP://a:1",
            "tcp://",
            "tcp://:80",
            "tcp://a:",
            "tcp://a:0",
            "tcp://a:65536",
            "tcp://a:+1",
            "tcp://a:2-1",
            "tcp://a:1-",
            "tcp://*.example:1",
            "tcp://a..b:1",
            "tcp://-a:1",
            "tcp://300.1.1.1:1",
            "tcp://10.0.0.1/8:1",
            "tcp://10.0.0.0/33:1",
            "tcp://a/8:1",
            "tcp://::1:80",
            "tcp://[a]:1",
            "tcp://[::1]80",
            "tcp://user@a:1",
            "http://a/path",
            "http://10.0.0.0/8",
            "http://a:1-2",
            "http://a?q",
        ] {
            assert_eq!(net(text), None, "{text}");
        }
    }

    #[test]
    fn networks_have_the_addresses_of_their_prefix() {
        let has = |network: &str, address: &str| {
            let (net, bits) = network.split_once('/').unwrap();
            IpNetwork::new(net.parse().unwrap(), bits.parse().unwrap())
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(has("10.0.0.0/8", "10.255.255.255"));
        assert!(!has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(has("0.0.0.0/0", "255.255.255.255"));
        assert!(!has("0.0.0.0/0", "::1"));
        assert!(has("::/0", "ffff::"));
        assert!(has("10.1.2.3/32", "10.1.2.3") && !has("10.1.2.3/32", "10.1.2.2"));
        assert!(has("fd00::/8", "fdff::1") && !has("fd00::/8", "fe00::1"));
    }

    #[test]
    fn directory_grants_need_an_absolute_guest_path_and_a_mode() {
        let base = Path::new("/base");
        let grant = FsGrant::parse("dir:with:colons:/data//:ro", base);
        assert_eq!(grant, None, "an empty part of the guest path");
        let grant = FsGrant::parse("dir:with:colons:/data/:ro", base).unwrap();
        assert_eq!(grant.to_string(), "/base/dir:with:colons:/data:ro");
        assert_eq!(FsGrant::parse("/x:/:rw", base).unwrap().guest_path, "/");
        for text in [
            "",
            "/a",
            "/a:rw",
            "/a:/b",
            "/a:/b:rwx",
            "/a:/b:RW",
            "/a:b:ro",
            ":/b:ro",
            "/a:/../b:ro",
            "/a:/./b:ro",
            "/a:/b/../c:ro",
        ] {
            assert_eq!(FsGrant::parse(text, base), None, "{text}");
        }
    }

    #[test]
    fn variable_grants_need_a_name_and_hide_their_value() {
        assert_eq!(EnvGrant::parse(" A "), Some(EnvGrant::Inherit("A".to_owned())));
        let set = EnvGrant::parse("A= b=c").unwrap();
        assert_eq!(set, EnvGrant::Set { name: "A".to_owned(), value: " b=c".to_owned() });
        assert_eq!(format!("{set:?}"), "Set { name: \"A\", value_bytes: 4 }");
        for text in ["", "=", "=x", "A B", "A B=c", "A\0", "A=\0"] {
            assert_eq!(EnvGrant::parse(text), None, "{text:?}");
        }
    }
}
