//! WASI 0.3.

use tokio::time::timeout;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as LookupError;
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostTcpSocket as _, HostTcpSocketWithStore as _, IpAddress, IpAddressFamily, IpSocketAddress,
    TcpSocket,
};
use wasmtime_wasi::sockets::{UdpSocket, WasiSockets, WasiSocketsView as _};

use super::super::{P3, without_trap};
use super::{pinned, tcp_socket, udp_socket};
use crate::wasm::state::GuestState;
use crate::wasm::threads::backend::within;

pub(in super::super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/types@{P3}"))?;
    instance.func_wrap("[static]tcp-socket.create", |mut store, (family,): (IpAddressFamily,)| {
        let (denied, full) = (ErrorCode::AccessDenied, ErrorCode::OutOfMemory);
        let make = |state: &mut GuestState| state.sockets().create(family);
        Ok((tcp_socket(store.data_mut(), denied, full, make)?,))
    })?;
    instance.func_wrap_concurrent("[method]tcp-socket.connect", |accessor, (socket, address)| {
        Box::pin(async move { Ok((connect(accessor, socket, address).await?,)) })
    })?;
    instance.func_wrap("[static]udp-socket.create", |mut store, (_family,): (IpAddressFamily,)| {
        Ok((udp_socket::<UdpSocket, _>(store.data_mut(), ErrorCode::AccessDenied),))
    })?;
    let mut instance = linker.instance(&format!("wasi:sockets/ip-name-lookup@{P3}"))?;
    instance.func_wrap_concurrent(
        "resolve-addresses",
        |accessor: &Accessor<GuestState>, (name,): (String,)| {
            let addresses = accessor.with(|mut access| pinned(access.get(), &name));
            let found = addresses.map(|found| found.into_iter().map(IpAddress::from).collect::<Vec<_>>());
            Box::pin(async move { Ok((found.ok_or(LookupError::AccessDenied),)) })
        },
    )?;
    Ok(())
}

/// Connects within `limits.connect_timeout_ms`. The threads that run guests also wait for the connection, so that what
/// arrives is handled on the thread that notices it; on any other, each answer would cost one more change of threads.
async fn connect(
    accessor: &Accessor<GuestState>,
    socket: Resource<TcpSocket>,
    address: IpSocketAddress,
) -> wasmtime::Result<Result<(), ErrorCode>> {
    let (limit, threads) = accessor.with(|mut access| {
        let view = access.get().net();
        (view.connect_timeout, view.lanes.clone())
    });
    let sockets = accessor.with_getter::<WasiSockets>(GuestState::sockets);
    let connecting = within(threads, WasiSockets::connect(&sockets, socket, address));
    match timeout(limit, connecting).await {
        Ok(connected) => without_trap(connected),
        Err(_) => Ok(Err(ErrorCode::Timeout)),
    }
}
