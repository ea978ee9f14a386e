//! Sockets and names. Addresses are judged when they are used: see [`check_address`].

pub(super) mod p2;
pub(super) mod p3;

use std::net::{IpAddr, SocketAddr};

use wasmtime::component::Resource;
use wasmtime_wasi::TrappableError;
use wasmtime_wasi::sockets::SocketAddrUse;

use crate::wasm::policy::Denial;
use crate::wasm::policy::DenialLog;
use crate::wasm::policy::network::NetPolicy;
use crate::wasm::state::{GuestState, is_there};

/// Judges what a socket is about to do with an address.
pub(in crate::wasm) fn check_address(
    net: &NetPolicy,
    denial_log: &DenialLog,
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
    denial_log.record(denial);
    false
}

/// Makes a TCP socket, or says `denied` to a backend without targets, which has no use for one, and `full` to one that
/// has `limits.open_files_max` descriptors.
fn tcp_socket<S: 'static, E: std::error::Error + Send + Sync + 'static>(
    state: &mut GuestState,
    denied: E,
    full: E,
    make: impl FnOnce(&mut GuestState) -> Result<Resource<S>, TrappableError<E>>,
) -> wasmtime::Result<Result<Resource<S>, E>> {
    if state.policy.net.has_no_sockets() {
        state.policy.denial_log.record(Denial::Socket);
        return Ok(Err(denied));
    }
    if !state.budgets.open_files.have_room(&state.table) {
        return Ok(Err(full));
    }
    match make(state) {
        Ok(socket) => {
            state.budgets.open_files.put(socket.rep(), is_there::<S>);
            Ok(Ok(socket))
        }
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

/// Returns the addresses that a name was pinned to; `None` if it is not granted.
fn pinned(state: &GuestState, name: &str) -> Option<Vec<IpAddr>> {
    let addresses = state.policy.net.addresses(name);
    if addresses.is_none() {
        state.policy.denial_log.record(Denial::Lookup(state.policy.denial_log.guest_text(name)));
    }
    addresses
}
