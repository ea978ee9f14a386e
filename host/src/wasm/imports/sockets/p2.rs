//! WASI 0.2.

use std::net::IpAddr;
use std::vec;

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
use wasmtime_wasi::p2::{DynPollable, Network, Pollable, UdpSocket, subscribe};
use wasmtime_wasi::sockets::WasiSocketsView as _;

use super::super::P2;
use super::{pinned, tcp_socket};
use crate::wasm::policy::Denial;
use crate::wasm::state::GuestState;

/// The answer to a resolved name, handed out address by address. It is there at once.
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
    instance.func_wrap("create-udp-socket", |store, (_family,): (IpAddressFamily,)| {
        let state: &GuestState = store.data();
        state.policy.denial_log.record(Denial::Udp);
        Ok((Err::<Resource<UdpSocket>, _>(ErrorCode::AccessDenied),))
    })?;
    // The whole interface, because WASI's own stream of addresses cannot be made from outside.
    let mut instance = linker.instance(&format!("wasi:sockets/ip-name-lookup@{P2}"))?;
    instance.resource("resolve-address-stream", ResourceType::host::<Addresses>(), |mut store, place| {
        let state: &mut GuestState = store.data_mut();
        state.table.delete(Resource::<Addresses>::new_own(place))?;
        Ok(())
    })?;
    instance.func_wrap("resolve-addresses", |mut store, (_net, name): (Resource<Network>, String)| {
        let state: &mut GuestState = store.data_mut();
        Ok((match pinned(state, &name) {
            Some(addresses) => Ok(state.table.push(Addresses(addresses.into_iter()))?),
            None => Err(ErrorCode::AccessDenied),
        },))
    })?;
    instance.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store, (stream,): (Resource<Addresses>,)| {
            let state: &mut GuestState = store.data_mut();
            let next = state.table.get_mut(&stream)?.0.next();
            Ok((Ok::<_, ErrorCode>(next.map(IpAddress::from)),))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store, (stream,): (Resource<Addresses>,)| {
            let state: &mut GuestState = store.data_mut();
            let pollable: Resource<DynPollable> = subscribe(&mut state.table, stream)?;
            Ok((pollable,))
        },
    )?;
    Ok(())
}
