//! Why the names in `allow.net` cannot be used.

use std::io;
use std::net::IpAddr;

/// Why the names in `allow.net` cannot be pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The system could not resolve a name.
    #[error("allow.net: `{grant}`: the name cannot be resolved: {source}; correct it, or grant an address")]
    Unresolvable {
        /// The grant.
        grant: String,
        /// The system's message.
        source: io::Error,
    },
    /// A name has no address.
    #[error("allow.net: `{grant}`: the name has no address; correct it, or grant an address")]
    NoAddress {
        /// The grant.
        grant: String,
    },
    /// A name leads to an address that must be granted as an address.
    #[error(
        "allow.net: `{grant}`: the name resolves to {address}, a {kind} address; names may lead there only if \
         the address is granted too: if that is meant, add \"{add}\" or a network that has it"
    )]
    Restricted {
        /// The grant.
        grant: String,
        /// The address that the name leads to.
        address: IpAddr,
        /// The kind of that address.
        kind: &'static str,
        /// The grant to add.
        add: String,
    },
}
