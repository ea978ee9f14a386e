//! WASI 0.2.

use std::net::IpAddr;
use std::vec;

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
use wasmtime_wasi::p2::{DynPollable, Network, Pollable, UdpSocket, subscribe};
use wasmtime_wasi::sockets::WasiSocketsView as _;

use super::super::P2;
use super::{pinned, tcp_socket, udp_socket};
use crate::wasm::state::GuestState;

/// The addresses of a resolved name, which the guest takes one at a time. They are ready immediately.
struct Addresses(vec::IntoIter<IpAddr>);

#[wasmtime_wasi::async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {}
}

pub(in super::super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/tcp-create-socket@{P2}"))?;
    instance.func_wrap("create-tcp-socket", |mut store, (family,): (IpAddressFamily,)| {
        let (denied, full) = (ErrorCode::AccessDenied, ErrorCode::NewSocketLimit);
        let make = |state: &mut GuestState| state.sockets().create_tcp_socket(family);
        Ok((tcp_socket(store.data_mut(), denied, full, make)?,))
    })?;
    let mut instance = linker.instance(&format!("wasi:sockets/udp-create-socket@{P2}"))?;
    instance.func_wrap("create-udp-socket", |mut store, (_family,): (IpAddressFamily,)| {
        Ok((udp_socket::<UdpSocket, _>(store.data_mut(), ErrorCode::AccessDenied),))
    })?;
    // The whole interface is shadowed, because only WASI can make its own stream of addresses.
    let mut instance = linker.instance(&format!("wasi:sockets/ip-name-lookup@{P2}"))?;
    instance.resource("resolve-address-stream", ResourceType::host::<Addresses>(), |mut store, place| {
        let view = store.data_mut().net();
        view.table.delete(Resource::<Addresses>::new_own(place))?;
        Ok(())
    })?;
    instance.func_wrap("resolve-addresses", |mut store, (_net, name): (Resource<Network>, String)| {
        let state: &mut GuestState = store.data_mut();
        Ok((match pinned(state, &name) {
            Some(addresses) => Ok(state.net().table.push(Addresses(addresses.into_iter()))?),
            None => Err(ErrorCode::AccessDenied),
        },))
    })?;
    instance.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store, (stream,): (Resource<Addresses>,)| {
            let next = store.data_mut().net().table.get_mut(&stream)?.0.next();
            Ok((Ok::<_, ErrorCode>(next.map(IpAddress::from)),))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store, (stream,): (Resource<Addresses>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().net().table, stream)?;
            Ok((pollable,))
        },
    )?;
    Ok(())
}
