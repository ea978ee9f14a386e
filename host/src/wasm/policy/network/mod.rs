//! The network targets of one backend: which addresses it may connect to, where it may send HTTP requests, and
//! what its names mean.
//!
//! The host resolves granted names when it loads the backend, and for sockets a guest that asks for a name is told the
//! pinned addresses. The host alone resolves them again, when calls fail, and takes the new addresses as a whole if they
//! pass the same rules. HTTP connections are made by the host, which asks anew for each: services behind HTTP move, and
//! every address is judged before it is dialled. A name that leads into a private network is refused, unless that
//! network is granted by address as well: otherwise the owner of a public name could choose what the host reaches.

mod ranges;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, PoisonError, RwLock};

use self::ranges::restriction;
use crate::config::{HttpScheme, IpNetwork, NetGrant, NetHost, PortRange};
use crate::limits::HOST_NAME_BYTES_MAX;

/// Why the names in `allow.net` cannot be pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The system could not resolve a name.
    #[error("allow.net: `{grant}`: the name cannot be resolved: {source}; correct it, or grant an address")]
    Unresolvable {
        /// The grant.
        grant: String,
        /// The system's words.
        source: io::Error,
    },
    /// A name has no address.
    #[error("allow.net: `{grant}`: the name has no address; correct it, or grant an address")]
    NoAddress {
        /// The grant.
        grant: String,
    },
    /// A name leads to an address that only a grant of its own may give.
    #[error(
        "allow.net: `{grant}`: the name resolves to {address}, a {kind} address; names may lead there only if \
         the address is granted too: if that is meant, add \"{add}\" or a network that has it"
    )]
    Restricted {
        /// The grant.
        grant: String,
        /// Where the name leads to.
        address: IpAddr,
        /// What kind of address that is.
        kind: &'static str,
        /// The grant to add.
        add: String,
    },
}

/// What a backend may connect to. Clones see the same targets, also after these were resolved again.
#[derive(Clone, Debug, Default)]
pub(in crate::wasm) struct NetPolicy(Arc<RwLock<Arc<Targets>>>);

/// Finds the addresses of a name.
pub(in crate::wasm) type Resolver = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Asks the system's resolver, which may block.
pub(in crate::wasm) fn system_resolver(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|found| found.ip()).collect())
}

#[derive(Debug, Default)]
struct Targets {
    /// Where sockets may connect to.
    allowed: Vec<(IpNetwork, PortRange)>,
    /// What the names of sockets' targets were pinned to.
    names: BTreeMap<String, Vec<IpAddr>>,
    /// Where HTTP requests may go.
    http: Vec<HttpTarget>,
    /// What stands in the grants as an address. Only that may vouch for where a name leads to.
    by_address: Vec<(IpNetwork, PortRange)>,
}

/// Where an HTTP request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::wasm) struct HttpTarget {
    pub(in crate::wasm) scheme: HttpScheme,
    /// A name or an address.
    pub(in crate::wasm) host: NetHost,
    pub(in crate::wasm) port: u16,
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self.clone();
        NetGrant::Http { scheme, host, port }.fmt(f)
    }
}

impl NetPolicy {
    /// Resolves the grants.
    ///
    /// # Errors
    /// [`NetError`]
    pub(in crate::wasm) fn resolve(
        grants: &[NetGrant],
        resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> Result<Self, NetError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(Targets::resolve(grants, resolver)?)))))
    }

    /// Resolves the grants again, and returns the names of sockets' targets that lead elsewhere from here on.
    ///
    /// # Errors
    /// [`NetError`]; nothing has changed then.
    pub(in crate::wasm) fn resolve_again(
        &self,
        grants: &[NetGrant],
        resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> Result<Vec<String>, NetError> {
        let (old, new) = (self.targets(), Targets::resolve(grants, resolver)?);
        let moved = new.names.iter().filter(|(name, addresses)| old.names.get(*name) != Some(addresses));
        let moved: Vec<String> = moved.map(|(name, _)| name.clone()).collect();
        if !moved.is_empty() {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        }
        Ok(moved)
    }

    fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whether there is no target for sockets at all.
    pub(in crate::wasm) fn has_no_sockets(&self) -> bool {
        self.targets().allowed.is_empty()
    }

    /// Tells whether HTTP requests may go somewhere.
    pub(in crate::wasm) fn has_http(&self) -> bool {
        !self.targets().http.is_empty()
    }

    /// Tells whether HTTP requests may go there.
    pub(in crate::wasm) fn allows_http(&self, target: &HttpTarget) -> bool {
        self.targets().http.contains(target)
    }

    /// Names the kind of an address that no name may lead to, for connections to `port`; `None` if one may.
    pub(in crate::wasm) fn restriction(&self, address: SocketAddr) -> Option<&'static str> {
        let ports = PortRange { first: address.port(), last: address.port() };
        self.targets().restriction(address.ip(), ports)
    }

    /// Tells whether the backend may connect a socket to an address.
    pub(in crate::wasm) fn allows(&self, address: SocketAddr) -> bool {
        let fits = |(network, ports): &(IpNetwork, PortRange)| {
            ports.contains(address.port()) && network.contains(address.ip())
        };
        self.targets().allowed.iter().any(fits)
    }

    /// Returns the addresses that a name stands for, or `None` if it is not granted. An address that is
    /// written out stands for itself.
    pub(in crate::wasm) fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        if name.len() > HOST_NAME_BYTES_MAX {
            return None;
        }
        let unbracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = unbracketed.parse() {
            return Some(vec![address]);
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.targets().names.get(&name).cloned()
    }
}

impl Targets {
    fn resolve(
        grants: &[NetGrant],
        resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> Result<Self, NetError> {
        let mut targets = Targets::default();
        for grant in grants {
            let (host, ports) = target(grant);
            let network = match host {
                NetHost::Network(network) => Some(*network),
                NetHost::Address(address) => Some(single(*address)),
                NetHost::Name(_) => None,
            };
            targets.by_address.extend(network.map(|network| (network, ports)));
            match grant {
                NetGrant::Tcp { .. } => targets.allowed.extend(network.map(|network| (network, ports))),
                NetGrant::Http { scheme, host, port } => {
                    let (scheme, port) = (*scheme, *port);
                    targets.http.push(HttpTarget { scheme, host: host.clone(), port });
                }
            }
        }
        let mut found_names: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for grant in grants {
            let (NetHost::Name(name), ports) = target(grant) else { continue };
            if !found_names.contains_key(name.as_str()) {
                let found = resolver(name)
                    .map_err(|source| NetError::Unresolvable { grant: grant.to_string(), source })?;
                let mut addresses: Vec<_> = found.into_iter().map(|address| address.to_canonical()).collect();
                addresses.sort_unstable();
                addresses.dedup();
                if addresses.is_empty() {
                    return Err(NetError::NoAddress { grant: grant.to_string() });
                }
                found_names.insert(name, addresses);
            }
            let addresses = &found_names[name.as_str()];
            for &address in addresses {
                if let Some(kind) = targets.restriction(address, ports) {
                    let host = NetHost::Address(address);
                    let add = match *grant {
                        NetGrant::Tcp { ports, .. } => NetGrant::Tcp { host, ports },
                        NetGrant::Http { scheme, port, .. } => NetGrant::Http { scheme, host, port },
                    };
                    let (grant, add) = (grant.to_string(), add.to_string());
                    return Err(NetError::Restricted { grant, address, kind, add });
                }
            }
            if matches!(grant, NetGrant::Tcp { .. }) {
                targets.allowed.extend(addresses.iter().map(|&address| (single(address), ports)));
                targets.names.insert(name.clone(), addresses.clone());
            }
        }
        Ok(targets)
    }

    /// Names the kind of an address that is not granted by address and therefore must not be what a name leads to.
    fn restriction(&self, address: IpAddr, ports: PortRange) -> Option<&'static str> {
        let vouches = |(network, range): &(IpNetwork, PortRange)| {
            network.contains(address) && range.contains(ports.first) && range.contains(ports.last)
        };
        restriction(address).filter(|_| !self.by_address.iter().any(vouches))
    }
}

fn target(grant: &NetGrant) -> (&NetHost, PortRange) {
    match grant {
        NetGrant::Tcp { host, ports } => (host, *ports),
        NetGrant::Http { host, port, .. } => (host, PortRange { first: *port, last: *port }),
    }
}

fn single(address: IpAddr) -> IpNetwork {
    IpNetwork::single(address.to_canonical())
}

#[cfg(test)]
mod tests {
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
        assert!(
            resolve(&["tcp://cache.example", "tcp://10.0.0.5:6379"], &["10.0.0.5"]).is_err(),
            "all ports"
        );
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
        assert!(
            unknown.contains("`https://other.example:443`") && unknown.contains("no such name"),
            "{unknown}"
        );
    }
}
