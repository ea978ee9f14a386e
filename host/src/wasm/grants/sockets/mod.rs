//! Sockets and names. Addresses are judged when they are used: see [`check_address`].

pub(super) mod p2;
pub(super) mod p3;

use std::net::{IpAddr, SocketAddr};

use wasmtime_wasi::sockets::SocketAddrUse;

use super::Witness;
use super::denial::Denial;
use crate::wasm::net::NetPolicy;
use crate::wasm::sandbox::State;

/// Judges what a socket is about to do with an address.
pub(in crate::wasm) fn check_address(
    net: &NetPolicy,
    witness: &Witness,
    address: SocketAddr,
    usage: SocketAddrUse,
) -> bool {
    let denial = match usage {
        SocketAddrUse::TcpConnect if net.allows(address) => return true,
        SocketAddrUse::TcpConnect => Denial::Connect(address),
        // Connecting binds to an unspecified address first.
        SocketAddrUse::TcpBind if address.ip().is_unspecified() && address.port() == 0 => return true,
        SocketAddrUse::TcpBind => Denial::Bind(address),
        SocketAddrUse::TcpListen => Denial::Listen,
        _ => Denial::Udp,
    };
    witness.record(denial);
    false
}

/// Tells whether a TCP socket may be made: a backend without targets has no use for one.
fn may_have_socket(state: &State) -> bool {
    let may = !state.net.is_empty();
    if !may {
        state.witness.record(Denial::Socket);
    }
    may
}

/// Returns the addresses that a name was pinned to; `None` if it is not granted.
fn pinned(state: &State, name: &str) -> Option<Vec<IpAddr>> {
    let addresses = state.net.addresses(name);
    if addresses.is_none() {
        state.witness.record(Denial::Lookup(state.witness.asked(name)));
    }
    addresses
}
