//! The access that a backend is granted: directories, network targets, environment variables.
//!
//! Empty [`Grants`] grant nothing. Whether a granted directory exists is checked when the backend is loaded. [`text`]
//! has the form of grants in a configuration.

mod text;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::error::ConfigError;
use crate::config::format::Node;
use crate::config::kind::other;
use crate::config::setting::{Blank, settings};
use crate::config::value::RawSetting;

settings! {
    /// Everything that one backend may access.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Grants {
        /// Directories.
        fs: Vec<FsGrant> = other("allow.fs", Vec::new(), Blank::Refused, |raw, context| {
            read(raw, FsGrant::FORM, Hides::Nothing, |text| FsGrant::parse(text, context.base_dir))
        }, |grants| show(grants)),
        /// Network targets.
        net: Vec<NetGrant> = other("allow.net", Vec::new(), Blank::Refused, |raw, _| {
            read(raw, NetGrant::FORM, Hides::Nothing, NetGrant::parse)
        }, |grants| show(grants)),
        /// Environment variables.
        env: Vec<EnvGrant> = other("allow.env", Vec::new(), Blank::Refused, |raw, _| {
            read(raw, EnvGrant::FORM, Hides::Value, EnvGrant::parse)
        }, |grants| show(grants)),
    }
}

impl Default for Grants {
    fn default() -> Self {
        Self::with_defaults()
    }
}

/// The access to a granted directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsAccess {
    /// Files may be read and listed.
    ReadOnly,
    /// Files may also be created, changed and removed.
    ReadWrite,
}

/// Grants one directory of the host under a path for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsGrant {
    /// Directory on the host.
    pub host_dir: PathBuf,
    /// Absolute path under which the guest sees it.
    pub guest_path: String,
    /// The access to it.
    pub access: FsAccess,
}

/// Grants connections to network targets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetGrant {
    /// TCP connections.
    Tcp {
        /// The target.
        host: NetHost,
        /// The ports.
        ports: PortRange,
    },
    /// HTTP requests made through the host.
    Http {
        /// With or without TLS.
        scheme: HttpScheme,
        /// The target; never a network.
        host: NetHost,
        /// The port.
        port: u16,
    },
}

/// The host of a network target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetHost {
    /// A host name, in lower case.
    Name(String),
    /// One address.
    Address(IpAddr),
    /// All addresses of a network.
    Network(IpNetwork),
}

/// An IP network, as in `10.0.0.0/8`. No bits beyond its prefix are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetwork(IpNet);

/// The scheme of HTTP requests.
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
    /// The host's variable of this name, if it is set when the backend is loaded.
    Inherit(String),
    /// A variable with a value from the configuration.
    Set {
        /// The variable's name.
        name: String,
        /// Its value.
        value: String,
    },
}

// The value is omitted: operators put tokens there.
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
    /// Returns the default port.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl PortRange {
    /// Every port except 0.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// Reports whether the range contains the port.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl IpNetwork {
    /// Makes a network, or `None` if the prefix is longer than the address or bits beyond it are set.
    #[must_use]
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let network = IpNet::new(address, prefix_bits).ok()?;
        (network.trunc() == network).then_some(Self(network))
    }

    /// Makes the network that has one address only.
    #[must_use]
    pub fn single(address: IpAddr) -> Self {
        Self(address.into())
    }

    /// Reports whether the network contains the address. IPv4 addresses written as IPv6 (`::ffff:a.b.c.d`) count as the
    /// IPv4 addresses that they reach.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl EnvGrant {
    /// Returns the variable's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Inherit(name) | Self::Set { name, .. } => name,
        }
    }
}

/// The part of a refused text that an error omits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hides {
    Nothing,
    Value,
}

fn read<T>(
    raw: &RawSetting,
    form: &str,
    hides: Hides,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ConfigError> {
    let refuse = |item: String| match hides {
        Hides::Nothing => raw.wrong_found(form, Node::Text(item).describe()),
        Hides::Value => raw.wrong_hidden(form),
    };
    raw.items(form)?.into_iter().map(|item| parse(&item).ok_or_else(|| refuse(item))).collect()
}

fn show(grants: &[impl ToString]) -> String {
    match grants {
        [] => "none".to_owned(),
        grants => grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
