//! Sockets and names. Addresses are checked when they are used: see [`check_address`].

pub(super) mod p2;
pub(super) mod p3;

use std::net::{IpAddr, SocketAddr};

use wasmtime::component::Resource;
use wasmtime_wasi::TrappableError;
use wasmtime_wasi::sockets::SocketAddrUse;

use super::without_trap;
use crate::wasm::policy::network::NetPolicy;
use crate::wasm::policy::{Denial, DenialLog};
use crate::wasm::state::GuestState;
use crate::wasm::state::held::is_there;

/// Reports whether a socket may do what it is about to do with an address. Records a denial.
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

/// Makes a TCP socket. Returns `denied` if the backend has no targets, and `full` if it has `limits.open_files_max`
/// descriptors.
fn tcp_socket<S: 'static, E: std::error::Error + Send + Sync + 'static>(
    state: &mut GuestState,
    denied: E,
    full: E,
    make: impl FnOnce(&mut GuestState) -> Result<Resource<S>, TrappableError<E>>,
) -> wasmtime::Result<Result<Resource<S>, E>> {
    let view = state.net();
    if view.net.has_no_sockets() {
        view.denial_log.record(Denial::Socket);
        return Ok(Err(denied));
    }
    if !view.open_files.have_room(view.table) {
        return Ok(Err(full));
    }
    let socket = without_trap(make(state))?;
    if let Ok(socket) = &socket {
        state.net().open_files.put(socket.rep(), is_there::<S>);
    }
    Ok(socket)
}

/// Refuses a UDP socket.
fn udp_socket<S: 'static, E>(state: &mut GuestState, denied: E) -> Result<Resource<S>, E> {
    state.net().denial_log.record(Denial::Udp);
    Err(denied)
}

/// Returns the addresses that a name was pinned to; `None` if it is not granted.
fn pinned(state: &mut GuestState, name: &str) -> Option<Vec<IpAddr>> {
    let view = state.net();
    let addresses = view.net.addresses(name);
    if addresses.is_none() {
        view.denial_log.record(Denial::Lookup(view.denial_log.guest_text(name)));
    }
    addresses
}
