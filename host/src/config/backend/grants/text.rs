//! The form of grants in a configuration: parsed and shown.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::{EnvGrant, FsAccess, FsGrant, HttpScheme, IpNetwork, NetGrant, NetHost, PortRange};

impl FsGrant {
    /// Form of a grant, for error messages.
    pub(super) const FORM: &'static str = "`HOST_DIR:GUEST_PATH:ro` or `HOST_DIR:GUEST_PATH:rw` with an absolute guest \
         path without `.` or `..` (several grants as a list)";

    /// Parses `HOST_DIR:GUEST_PATH:ro|rw`. A relative host directory is relative to `base_dir`.
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
        // One spelling for each path, so that a repeated one is found.
        let inner = guest_path.strip_prefix('/')?;
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        let valid = inner.is_empty()
            || inner.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
        valid.then(|| Self { host_dir: base_dir.join(host_dir), guest_path: format!("/{inner}"), access })
    }
}

impl NetGrant {
    /// Form of a grant, for error messages.
    pub(super) const FORM: &'static str = "`tcp://HOST[:PORT[-PORT]]`, `tcp://NETWORK/BITS[:PORT[-PORT]]` or \
     `http(s)://HOST[:PORT]` (several grants as a list)";

    /// Parses one of the forms of [`NetGrant::FORM`].
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
                // Browsers accept a host with a lone slash.
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

/// Splits `HOST[:PORTS]`; the brackets around an IPv6 host or network are removed.
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
        // A last label of digits only belongs to a broken IPv4 address; the URL standard also refuses it.
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
    /// Form of a grant, for error messages.
    pub(super) const FORM: &'static str = "`NAME` or `NAME=VALUE` (several grants as a list)";

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

/// Shows the name alone, since the value may be a secret.
impl fmt::Display for EnvGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit(name) => f.write_str(name),
            Self::Set { name, value } => write!(f, "{name}=[{} bytes]", value.len()),
        }
    }
}

impl fmt::Display for NetHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Network(IpNetwork(IpNet::V4(network))) => write!(f, "{network}"),
            Self::Network(IpNetwork(IpNet::V6(network))) => write!(f, "[{network}]"),
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
