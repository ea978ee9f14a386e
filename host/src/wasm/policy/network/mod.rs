//! The network targets of one backend: which addresses it may connect to, where it may send HTTP requests, and
//! what its names mean.
//!
//! The host resolves granted names when it loads the backend, and pins their addresses: a guest that resolves a name
//! for a socket gets those. Only the host resolves names again, when calls fail, and replaces all addresses if the new
//! ones pass the same rules. For HTTP the host makes the connections and resolves the name for each, because services
//! behind HTTP move; it checks every address before it connects. A name that leads into a private network is refused
//! unless that network is granted by address too: otherwise the owner of a public name could choose what the host
//! reaches.

mod error;
mod ranges;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, RwLock};

pub use self::error::NetError;
use self::ranges::restriction;
use crate::config::{HttpScheme, IpNetwork, NetGrant, NetHost, PortRange};
use crate::limits::HOST_NAME_BYTES_MAX;
use crate::sync::{read, write};

/// The targets that a backend may connect to. Clones share them, also after they were resolved again.
#[derive(Clone, Debug, Default)]
pub(in crate::wasm) struct NetPolicy(Arc<RwLock<Arc<Targets>>>);

/// Finds the addresses of a name.
pub(in crate::wasm) type Resolver = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Resolves through the system, which may block.
pub(in crate::wasm) fn system_resolver(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|found| found.ip()).collect())
}

#[derive(Debug, Default)]
struct Targets {
    /// Where sockets may connect to.
    allowed: Vec<(IpNetwork, PortRange)>,
    /// The pinned addresses of the names of sockets' targets.
    names: BTreeMap<String, Vec<IpAddr>>,
    /// Where HTTP requests may go.
    http: Vec<HttpTarget>,
    /// The targets that are granted by address. Only these allow a name to lead to a private network.
    by_address: Vec<(IpNetwork, PortRange)>,
}

/// The target of an HTTP request.
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

    /// Resolves the grants again. Returns the names of sockets' targets whose addresses have changed.
    ///
    /// # Errors
    /// [`NetError`]; the old addresses stay in use.
    pub(in crate::wasm) fn resolve_again(
        &self,
        grants: &[NetGrant],
        resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> Result<Vec<String>, NetError> {
        let (old, new) = (self.targets(), Targets::resolve(grants, resolver)?);
        let moved = new.names.iter().filter(|(name, addresses)| old.names.get(*name) != Some(addresses));
        let moved: Vec<String> = moved.map(|(name, _)| name.clone()).collect();
        if !moved.is_empty() {
            *write(&self.0) = Arc::new(new);
        }
        Ok(moved)
    }

    fn targets(&self) -> Arc<Targets> {
        Arc::clone(&read(&self.0))
    }

    /// Reports whether sockets have no target.
    pub(in crate::wasm) fn has_no_sockets(&self) -> bool {
        self.targets().allowed.is_empty()
    }

    /// Reports whether HTTP requests have a target.
    pub(in crate::wasm) fn has_http(&self) -> bool {
        !self.targets().http.is_empty()
    }

    /// Reports whether HTTP requests may go to a target.
    pub(in crate::wasm) fn allows_http(&self, target: &HttpTarget) -> bool {
        self.targets().http.contains(target)
    }

    /// Returns the kind of an address that no name may lead to; `None` if names may lead to it.
    pub(in crate::wasm) fn restriction(&self, address: SocketAddr) -> Option<&'static str> {
        let ports = PortRange { first: address.port(), last: address.port() };
        self.targets().restriction(address.ip(), ports)
    }

    /// Reports whether the backend may connect a socket to an address.
    pub(in crate::wasm) fn allows(&self, address: SocketAddr) -> bool {
        let fits = |(network, ports): &(IpNetwork, PortRange)| {
            ports.contains(address.port()) && network.contains(address.ip())
        };
        self.targets().allowed.iter().any(fits)
    }

    /// Returns the addresses of a name; `None` if it is not granted. An address in text form is returned as it is.
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

    /// Returns the kind of an address to which no name may lead because it is not granted by address.
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
mod tests;
